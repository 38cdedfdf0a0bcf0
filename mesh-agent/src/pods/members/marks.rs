//! The annotation `ambient.istio.io/redirection` of one pod: what it should be, and one write at a time until it is
//! (protocol note, section 11.2). istiod has tunnels opened to a pod as long as it is [`ENABLED`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;

pub(super) const ENABLED: &str = "enabled";
pub(super) const PENDING: &str = "pending";

const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// Writes that the picture has not shown yet; it shows them in order, and may pass some over.
const ECHOES: usize = 8;

/// What an annotation should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// As it is.
    AsItIs,
    Mark(Option<&'static str>),
}

/// What is known of the annotation.
#[derive(Debug)]
pub(super) struct Marking {
    /// As the last picture shows it.
    shown: Option<String>,
    /// As it is for all that is known: our own writes are seen before the picture shows them.
    is: Option<String>,
    echoes: VecDeque<Option<&'static str>>,
    writing: Option<Option<&'static str>>,
    retry: Backoff,
    pub(super) error: Option<String>,
}

impl Marking {
    pub(super) fn new(shown: Option<String>) -> Self {
        Self { is: shown.clone(), shown, echoes: VecDeque::new(), writing: None, retry: RETRY, error: None }
    }

    /// The picture shows the annotation.
    pub(super) fn see(&mut self, mark: Option<&str>) {
        if self.shown.as_deref() == mark {
            return;
        }
        self.shown = mark.map(str::to_owned);
        match self.echoes.iter().position(|echo| *echo == mark) {
            // What was written after it is still to be shown.
            Some(at) => drop(self.echoes.drain(..=at)),
            None => self.echoes.clear(),
        }
        if self.echoes.is_empty() {
            self.is.clone_from(&self.shown);
        }
    }

    pub(super) fn is(&self) -> Option<&str> {
        self.is.as_deref()
    }

    /// What is to be written now.
    pub(super) fn write(&mut self, wish: Wish, now: Instant) -> Option<Option<&'static str>> {
        let Wish::Mark(mark) = wish else { return None };
        if self.writing.is_some() || !self.retry.is_due(now) {
            return None;
        }
        if self.is.as_deref() == mark {
            self.error = None;
            return None;
        }
        self.writing = Some(mark);
        Some(mark)
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// How the write ended.
    pub(super) fn wrote(&mut self, result: Result<(), String>, now: Instant) {
        let Some(mark) = self.writing.take() else { return };
        match result {
            Ok(()) => {
                self.retry.reset();
                self.error = None;
                self.is = mark.map(str::to_owned);
                // The picture may have been quicker than the answer.
                if self.shown.as_deref() != mark {
                    self.echoes.push_back(mark);
                    self.echoes.truncate(ECHOES);
                }
            }
            Err(error) => {
                self.retry.failed(now);
                self.error = Some(error);
            }
        }
    }

    /// When a write that failed is due again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.retry.next()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{ENABLED, Marking, PENDING, Wish};

    const WANTED: Wish = Wish::Mark(Some(ENABLED));

    #[test]
    fn one_write_until_it_is_as_it_should_be() {
        let now = Instant::now();
        let mut marking = Marking::new(None);
        assert_eq!(marking.write(Wish::AsItIs, now), None);
        assert_eq!(marking.write(Wish::Mark(None), now), None, "it is");
        assert_eq!(marking.write(WANTED, now), Some(Some(ENABLED)));
        assert_eq!(marking.write(Wish::Mark(None), now), None, "one after the other");
        marking.wrote(Ok(()), now);
        assert_eq!(marking.write(WANTED, now), None, "it is, though the picture does not show it yet");
        marking.see(None);
        assert_eq!(marking.write(WANTED, now), None);
        marking.see(Some(ENABLED));
        marking.see(None);
        assert_eq!(marking.write(WANTED, now), Some(Some(ENABLED)), "somebody else has removed it");
    }

    #[test]
    fn what_fails_is_tried_again_later() {
        let now = Instant::now();
        let mut marking = Marking::new(Some("old".into()));
        assert_eq!(marking.write(WANTED, now), Some(Some(ENABLED)));
        marking.wrote(Err("no".into()), now);
        assert_eq!(marking.write(WANTED, now), None);
        assert_eq!(marking.error.as_deref(), Some("no"));
        let later = marking.next().unwrap();
        assert_eq!(later, now + Duration::from_millis(500));
        assert_eq!(marking.write(Wish::Mark(None), later), Some(None), "what is right by now");
        marking.wrote(Ok(()), later);
        assert_eq!((marking.error.as_deref(), marking.is()), (None, None));
    }

    #[test]
    fn our_own_writes_come_back_in_order() {
        let now = Instant::now();
        let mut marking = Marking::new(None);
        for mark in [PENDING, ENABLED] {
            assert_eq!(marking.write(Wish::Mark(Some(mark)), now), Some(Some(mark)));
            marking.wrote(Ok(()), now);
        }
        marking.see(Some(PENDING));
        assert_eq!(marking.write(WANTED, now), None, "that is the first of the two");
        marking.see(Some(ENABLED));
        assert_eq!(marking.write(WANTED, now), None);
        marking.see(Some(PENDING));
        assert_eq!(marking.write(WANTED, now), Some(Some(ENABLED)), "that is nobody's echo");
    }

    #[test]
    fn the_picture_may_be_quicker_than_the_answer() {
        let now = Instant::now();
        let mut marking = Marking::new(None);
        assert_eq!(marking.write(WANTED, now), Some(Some(ENABLED)));
        marking.see(Some(ENABLED));
        marking.wrote(Ok(()), now);
        marking.see(None);
        assert_eq!(marking.write(WANTED, now), Some(Some(ENABLED)));
    }
}
