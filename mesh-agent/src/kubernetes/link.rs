//! How the link to the API server is doing, for people who look at the agent.

use std::time::SystemTime;

/// The watches of pods and of namespaces, seen as one link: it is up when both are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The API server's.
    pub address: String,
    pub state: LinkState,
    /// The last thing that went wrong, and when; it stays when the link is up again.
    pub last_error: Option<(SystemTime, String)>,
    sides: [Up; 2],
}

/// One watch, by [`Side`]: whether its last answer was as it should, and what it was told last that was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Up {
    up: bool,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The agent has started, and not everything has been answered yet.
    Connecting {
        since: SystemTime,
    },
    Connected {
        since: SystemTime,
    },
    /// What is known is as old as this, until another try succeeds; [`Link::last_error`] says why.
    Away {
        since: SystemTime,
    },
}

/// One of the watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Pods,
    Namespaces,
}

impl Link {
    pub(super) fn new(address: String, now: SystemTime) -> Self {
        Self { address, state: LinkState::Connecting { since: now }, last_error: None, sides: Default::default() }
    }

    /// The API server answered as it should. Tells whether that changes the state.
    pub(super) fn answered(&mut self, side: Side, now: SystemTime) -> bool {
        self.sides[side as usize].up = true;
        let changes = self.sides.iter().all(|side| side.up) && !matches!(self.state, LinkState::Connected { .. });
        if changes {
            self.state = LinkState::Connected { since: now };
        }
        changes
    }

    /// Something went wrong. Tells whether it is news: another state, or another error than this side's last.
    pub(super) fn failed(&mut self, side: Side, error: String, now: SystemTime) -> bool {
        let was_away = matches!(self.state, LinkState::Away { .. });
        if !was_away {
            self.state = LinkState::Away { since: now };
        }
        let own = &mut self.sides[side as usize];
        let same = own.error.as_ref() == Some(&error);
        *own = Up { up: false, error: Some(error.clone()) };
        self.last_error = Some((now, error));
        !(was_away && same)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Link, LinkState, Side};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn both_sides_make_a_link() {
        let mut link = Link::new("https://api".into(), at(1));
        assert_eq!(link.state, LinkState::Connecting { since: at(1) });
        assert!(!link.answered(Side::Pods, at(2)));
        assert!(!link.answered(Side::Pods, at(3)));
        assert_eq!(link.state, LinkState::Connecting { since: at(1) });
        assert!(link.answered(Side::Namespaces, at(4)));
        assert_eq!(link.state, LinkState::Connected { since: at(4) });
        assert!(!link.answered(Side::Namespaces, at(5)));
        assert_eq!((link.state, link.last_error), (LinkState::Connected { since: at(4) }, None));
    }

    #[test]
    fn one_side_breaks_it_and_the_same_error_is_no_news() {
        let mut link = Link::new("https://api".into(), at(1));
        link.answered(Side::Pods, at(2));
        link.answered(Side::Namespaces, at(2));
        assert!(link.failed(Side::Pods, "refused".into(), at(3)));
        assert!(!link.failed(Side::Pods, "refused".into(), at(4)));
        assert!(link.failed(Side::Namespaces, "forbidden".into(), at(4)));
        assert!(!link.failed(Side::Pods, "refused".into(), at(4)), "the other side's error lies between");
        assert!(link.failed(Side::Pods, "no token".into(), at(5)));
        assert_eq!(link.state, LinkState::Away { since: at(3) });
        assert_eq!(link.last_error, Some((at(5), "no token".into())));
        assert!(!link.answered(Side::Pods, at(6)));
        assert!(link.answered(Side::Namespaces, at(7)));
        assert_eq!(link.state, LinkState::Connected { since: at(7) });
        assert_eq!(link.last_error, Some((at(5), "no token".into())));
        assert!(link.failed(Side::Pods, "no token".into(), at(8)), "it was up between");
    }

    #[test]
    fn a_start_without_an_api_server_is_told() {
        let mut link = Link::new("https://api".into(), at(1));
        assert!(link.failed(Side::Pods, "refused".into(), at(2)));
        assert_eq!(link.state, LinkState::Away { since: at(2) });
    }
}
