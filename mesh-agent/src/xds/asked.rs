//! What was asked for on demand (protocol note, section 1.8). Every key here is, or is about to be, subscribed.
//!
//! A key that was answered stays: the server goes on telling what becomes of it, so asking again needs no waiting. Keys of
//! which the server knows nothing cost it and us memory, and whoever can open connections can make them up: of those only
//! the latest stay.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Most keys, and most of them that lead to nothing.
const KEYS: usize = 100_000;
const UNKNOWN: usize = 10_000;
/// Longest key. The longest there are, of ServiceEntry endpoints, have a few hundred bytes.
const LENGTH: usize = 2048;

/// Keys with what is known about them.
#[derive(Debug, Default)]
pub(super) struct Asked {
    keys: HashMap<Arc<str>, Answer>,
    /// Those that lead to nothing, the oldest first; some may lead to something by now.
    unknown: VecDeque<Arc<str>>,
    /// Not sent yet.
    subscribe: Vec<Arc<str>>,
    unsubscribe: Vec<Arc<str>>,
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

    /// Forgets a key, and tells the server so.
    pub(super) fn drop(&mut self, key: &str) {
        if let Some((key, _)) = self.keys.remove_entry(key) {
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

    pub(super) fn has_change(&self) -> bool {
        !self.subscribe.is_empty() || !self.unsubscribe.is_empty()
    }

    /// Takes keys of about this many bytes from what is to be sent.
    pub(super) fn change(&mut self, budget: usize) -> Change {
        let mut left = budget;
        let subscribe = take(&mut self.subscribe, &mut left);
        let unsubscribe = take(&mut self.unsubscribe, &mut left);
        Change { subscribe, unsubscribe }
    }
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

    use super::{Answer, Asked, Asking, Change, KEYS, LENGTH, UNKNOWN};

    fn key(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn a_key_is_subscribed_once() {
        let mut asked = Asked::default();
        assert_eq!(asked.ask("net/10.0.0.1"), Asking::Waits);
        assert_eq!(asked.ask("net/10.0.0.1"), Asking::Waits);
        assert_eq!(asked.change(1000).subscribe, ["net/10.0.0.1"]);
        asked.answer(&key("net/10.0.0.1"), Answer::Unknown);
        assert_eq!(asked.ask("net/10.0.0.1"), Asking::Answered);
        assert_eq!(asked.key("net/10.0.0.1"), Some(key("net/10.0.0.1")), "it may be created");
        asked.answer(&key("net/10.0.0.1"), Answer::Known);
        assert_eq!((asked.key("net/10.0.0.1"), asked.key("net/10.0.0.2")), (None, None));
        assert!(!asked.has_change());
    }

    #[test]
    fn changes_are_of_a_limited_size() {
        let mut asked = Asked::default();
        for name in ["a", "b", "c"] {
            asked.ask(name);
        }
        asked.drop("c");
        asked.drop("d");
        let change = |subscribe: &[&str], unsubscribe: &[&str]| Change {
            subscribe: subscribe.iter().map(ToString::to_string).collect(),
            unsubscribe: unsubscribe.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(asked.change(6), change(&["a", "b"], &[]));
        assert_eq!(asked.change(6), change(&["c"], &["c"]));
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
            asked.answer(&key(&name), Answer::Unknown);
        }
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
