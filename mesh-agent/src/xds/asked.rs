//! What was asked for on demand (protocol note, section 1.8). Every key here is, or is about to be, subscribed.
//!
//! A name that was answered stays: the server goes on telling what becomes of it, so asking again needs no waiting. Names of
//! which the server knows nothing cost it and us memory, and whoever can open connections can make them up: of those only
//! the latest stay.
//!
//! A key that is an address is different: istiod answers it once, and from then on tells what becomes of the resources that
//! it answered with, by their names. Of what comes to be at the address later it says nothing, and to a key that is
//! subscribed already it gives no second answer. So an address is given up once it is answered, and is asked for anew.
//!
//! What is given up goes along with what is asked for, never alone, and never in the request that asks for the same again:
//! to a request that leaves nothing subscribed, istiod answers with the removal of all that it has told. Where there is
//! nothing to go along with, a name of nobody is asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Most keys, and most of them that lead to nothing.
const KEYS: usize = 100_000;
const UNKNOWN: usize = 10_000;
/// Longest key. The longest there are, of ServiceEntry endpoints, have a few hundred bytes.
const LENGTH: usize = 2048;
/// How names of nobody begin: a namespace cannot be called so.
const NOBODY: &str = "-/";

/// Keys with what is known about them.
#[derive(Debug, Default)]
pub(super) struct Asked {
    keys: HashMap<Arc<str>, Answer>,
    /// Those that lead to nothing, the oldest first; some may lead to something by now.
    unknown: VecDeque<Arc<str>>,
    /// Not sent yet.
    subscribe: Vec<Arc<str>>,
    unsubscribe: Vec<Arc<str>>,
    /// Names of nobody that were asked for.
    nobodies: u64,
}

/// What the server said about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Pending,
    /// It leads to a resource.
    Known,
    /// It leads to nothing.
    Unknown,
}

/// What asking for a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// To a response: `answered` of what [`receive`](super::session::Session::receive) returns will name the key.
    Waits,
    /// What is held is all that there is to know.
    Answered,
    /// There are too many keys, or this one is too long.
    Refused,
}

/// A change of what is subscribed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

impl Asked {
    pub(super) fn ask(&mut self, key: &str) -> Asking {
        match self.keys.get(key) {
            Some(Answer::Pending) => return Asking::Waits,
            Some(Answer::Known | Answer::Unknown) => return Asking::Answered,
            None if self.keys.len() >= KEYS || key.len() > LENGTH => return Asking::Refused,
            None => {}
        }
        let key: Arc<str> = key.into();
        self.keys.insert(Arc::clone(&key), Answer::Pending);
        self.subscribe.push(key);
        Asking::Waits
    }

    /// Forgets a key, and tells the server so if it was told of it.
    pub(super) fn drop(&mut self, key: &str) {
        let Some((key, _)) = self.keys.remove_entry(key) else { return };
        let before = self.subscribe.len();
        self.subscribe.retain(|unsent| *unsent != key);
        if self.subscribe.len() == before {
            self.unsubscribe.push(key);
        }
    }

    /// The key, if an answer to it would be news.
    pub(super) fn key(&self, key: &str) -> Option<Arc<str>> {
        let (key, answer) = self.keys.get_key_value(key)?;
        (*answer != Answer::Known).then(|| Arc::clone(key))
    }

    pub(super) fn knows(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Notes what a key leads to.
    pub(super) fn answer(&mut self, key: &Arc<str>, answer: Answer) {
        if is_address(key) {
            return self.drop(key);
        }
        let before = self.keys.insert(Arc::clone(key), answer);
        if answer != Answer::Unknown || before == Some(Answer::Unknown) {
            return;
        }
        self.unknown.push_back(Arc::clone(key));
        if self.unknown.len() > UNKNOWN
            && let Some(oldest) = self.unknown.pop_front()
            && self.keys.get(&oldest) == Some(&Answer::Unknown)
        {
            self.drop(&oldest);
        }
    }

    /// A stream opens. Keys that wait for an answer will be sent in a request of their own: in the opening request, what
    /// they lead to could be left out because we hold it. The others are returned, to be subscribed again.
    pub(super) fn reopen(&mut self) -> impl Iterator<Item = &Arc<str>> {
        self.unsubscribe.clear();
        let pending = self.keys.iter().filter(|(_, answer)| **answer == Answer::Pending);
        self.subscribe = pending.map(|(key, _)| Arc::clone(key)).collect();
        self.keys.iter().filter(|(_, answer)| **answer != Answer::Pending).map(|(key, _)| key)
    }

    /// Has these sent in a request of their own.
    pub(super) fn subscribe(&mut self, keys: Vec<Arc<str>>) {
        self.subscribe.extend(keys);
    }

    /// Whether there is something to send. What is given up waits for company.
    pub(super) fn has_change(&self) -> bool {
        !self.subscribe.is_empty()
    }

    /// Takes keys of about this many bytes from what is to be sent.
    pub(super) fn change(&mut self, budget: usize) -> Change {
        let mut left = budget;
        let (again, mut fresh): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.subscribe).into_iter().partition(|key| self.unsubscribe.contains(key));
        let mut subscribe = take(&mut fresh, &mut left);
        let unsubscribe = take(&mut self.unsubscribe, &mut left);
        if subscribe.is_empty() {
            self.nobodies += 1;
            let nobody: Arc<str> = format!("{NOBODY}{}", self.nobodies).into();
            subscribe.push(nobody.to_string());
            self.unsubscribe.push(nobody);
        }
        // They come when what they were before has been given up.
        self.subscribe = fresh.into_iter().chain(again).collect();
        Change { subscribe, unsubscribe }
    }
}

/// Whether a key is `<network>/<ip>`, and not a resource's name.
pub(super) fn is_address(key: &str) -> bool {
    key.split_once('/').is_some_and(|(_, ip)| ip.parse::<std::net::IpAddr>().is_ok())
}

fn take(keys: &mut Vec<Arc<str>>, left: &mut usize) -> Vec<String> {
    let fits = |key: &&Arc<str>| {
        let before = *left;
        *left = left.saturating_sub(key.len() + 4);
        before > 0
    };
    let count = keys.iter().take_while(fits).count();
    keys.drain(..count).map(|key| key.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Answer, Asked, Asking, Change, KEYS, LENGTH, UNKNOWN, is_address};

    fn key(text: &str) -> Arc<str> {
        text.into()
    }

    fn change(subscribe: &[&str], unsubscribe: &[&str]) -> Change {
        let own = |keys: &[&str]| keys.iter().map(ToString::to_string).collect();
        Change { subscribe: own(subscribe), unsubscribe: own(unsubscribe) }
    }

    #[test]
    fn a_key_is_subscribed_once() {
        let mut asked = Asked::default();
        assert_eq!(asked.ask("shop/a"), Asking::Waits);
        assert_eq!(asked.ask("shop/a"), Asking::Waits);
        assert_eq!(asked.change(1000).subscribe, ["shop/a"]);
        asked.answer(&key("shop/a"), Answer::Unknown);
        assert_eq!(asked.ask("shop/a"), Asking::Answered);
        assert_eq!(asked.key("shop/a"), Some(key("shop/a")), "it may be created");
        asked.answer(&key("shop/a"), Answer::Known);
        assert_eq!((asked.key("shop/a"), asked.key("shop/b")), (None, None));
        assert!(!asked.has_change());
    }

    #[test]
    fn an_address_is_given_up_as_soon_as_it_is_answered() {
        for answer in [Answer::Known, Answer::Unknown] {
            for name in ["net/10.0.0.1", "/fd00::1"] {
                let mut asked = Asked::default();
                assert_eq!(asked.ask(name), Asking::Waits);
                assert_eq!(asked.key(name), Some(key(name)));
                assert_eq!(asked.change(1000), change(&[name], &[]));
                asked.answer(&key(name), answer);
                assert!(!asked.has_change(), "alone it is not given up");
                assert_eq!(asked.ask(name), Asking::Waits, "what is there now may be gone, and another come");
                assert_eq!(asked.change(1000), change(&["-/1"], &[name]));
                assert_eq!(asked.change(1000), change(&[name], &["-/1"]));
                asked.answer(&key(name), answer);
                asked.ask("other");
                assert_eq!(asked.change(1000), change(&["other"], &[name]), "it goes along");
                assert!(!asked.has_change());
            }
        }
    }

    #[test]
    fn resources_with_addresses_in_their_names_are_no_addresses() {
        for name in ["c/networking.istio.io/ServiceEntry/ns/e/10.0.0.1", "c//Pod/ns/p", "ns/1.example", "10.0.0.1"] {
            assert!(!is_address(name), "{name}");
        }
        assert!(is_address("/10.0.0.1") && is_address("net/::1"));
    }

    #[test]
    fn changes_are_of_a_limited_size() {
        let mut asked = Asked::default();
        for name in ["a", "b", "c"] {
            asked.ask(name);
        }
        asked.drop("c");
        asked.drop("d");
        assert_eq!(asked.change(6), change(&["a", "b"], &[]));
        assert!(!asked.has_change(), "c was given up before it was sent");
        asked.ask("e");
        asked.drop("a");
        asked.ask("a");
        assert_eq!(asked.change(6), change(&["e"], &["a"]));
        assert_eq!(asked.change(6), change(&["a"], &[]), "not in the request that gives it up");
        assert!(!asked.has_change());
    }

    #[test]
    fn of_keys_that_lead_to_nothing_the_latest_stay() {
        let mut asked = Asked::default();
        asked.ask("found");
        asked.answer(&key("found"), Answer::Unknown);
        asked.answer(&key("found"), Answer::Known);
        for number in 0..=UNKNOWN {
            let name = number.to_string();
            asked.ask(&name);
            asked.change(usize::MAX);
            asked.answer(&key(&name), Answer::Unknown);
        }
        asked.ask("something else");
        assert_eq!(asked.change(usize::MAX).unsubscribe, ["0"]);
        assert_eq!(
            (asked.ask("found"), asked.ask("1"), asked.ask("0")),
            (Asking::Answered, Asking::Answered, Asking::Waits)
        );
    }

    #[test]
    fn there_are_limits() {
        let mut asked = Asked::default();
        assert_eq!(asked.ask(&"a".repeat(LENGTH + 1)), Asking::Refused);
        for number in 0..KEYS {
            assert_eq!(asked.ask(&number.to_string()), Asking::Waits);
        }
        assert_eq!(asked.ask("one more"), Asking::Refused);
        assert_eq!(asked.ask("7"), Asking::Waits, "it is there already");
    }
}
