//! Asking for what is not held, from where a connection waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::asked::{Asking, is_address};
use super::session::{Mode, Session};

/// Questions that the client has not looked at yet; more of them wait at the door.
const QUEUE: usize = 256;
/// Most keys that somebody waits for.
const WAITING: usize = 10_000;
/// How long an answer about an address is believed. Without a stream there is none better: then it is believed on.
const FRESH: Duration = Duration::from_secs(1);
/// Most such answers.
const ANSWERS: usize = 10_000;

/// A handle for asking. Clones ask the same client.
#[derive(Clone, Debug)]
pub struct Demand {
    mode: Mode,
    door: mpsc::Sender<Question>,
    patience: Duration,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnswered {
    #[error("istiod has not answered within {0:?}, maybe it is away")]
    InTime(Duration),
    #[error("too many addresses are being asked for")]
    TooMany,
    #[error("the agent ends")]
    Ending,
}

#[derive(Debug)]
pub(super) struct Question {
    key: Arc<str>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<(), NotAnswered>>;

impl Demand {
    pub(super) fn new(mode: Mode, patience: Duration) -> (Self, mpsc::Receiver<Question>) {
        let (door, questions) = mpsc::channel(QUEUE);
        (Self { mode, door, patience }, questions)
    }

    /// Whether anything has to be asked for.
    pub fn is_needed(&self) -> bool {
        self.mode == Mode::OnDemand
    }

    /// Waits until what the key leads to has been applied, if it leads anywhere: then what is held says all there is to
    /// know about it. Keys are `<network>/<ip>`, `<namespace>/<hostname>`, uids of workloads. Where everything is
    /// subscribed there is nothing to wait for.
    pub async fn wanted(&self, key: &str) -> Result<(), NotAnswered> {
        if self.mode == Mode::Wildcard {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let question = Question { key: key.into(), answer };
        let asking = async {
            self.door.send(question).await.map_err(|_| NotAnswered::Ending)?;
            answered.await.unwrap_or(Err(NotAnswered::Ending))
        };
        timeout(self.patience, asking).await.unwrap_or(Err(NotAnswered::InTime(self.patience)))
    }
}

#[cfg(test)]
impl Demand {
    /// One whose questions are answered by `answer`; it leaves those unanswered of which it knows nothing.
    pub fn answered_by(
        patience: Duration,
        mut answer: impl FnMut(&str) -> Option<Result<(), NotAnswered>> + Send + 'static,
    ) -> Self {
        let (demand, mut questions) = Self::new(Mode::OnDemand, patience);
        crate::task::Tasks::new().spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(question) = questions.recv().await {
                match answer(&question.key) {
                    Some(what) => tell(question.answer, what),
                    None => unanswered.push(question),
                }
            }
        });
        demand
    }
}

/// Those who wait, by key, and the answers about addresses that need not be asked for again yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    keys: HashMap<Arc<str>, Vec<Answer>>,
    addresses: HashMap<Arc<str>, Instant>,
}

impl Waiting {
    /// Asks for a key on somebody's behalf.
    pub(super) fn ask(&mut self, Question { key, answer }: Question, session: &mut Session) {
        if answer.is_closed() {
            return;
        }
        let answered = self.addresses.get(&key);
        if answered.is_some_and(|at| at.elapsed() < FRESH || !session.is_open()) {
            return tell(answer, Ok(()));
        }
        match session.subscribe(&key) {
            Asking::Waits => self.add(key, answer),
            Asking::Answered => tell(answer, Ok(())),
            Asking::Refused => tell(answer, Err(NotAnswered::TooMany)),
        }
    }

    fn add(&mut self, key: Arc<str>, answer: Answer) {
        if let Some(others) = self.keys.get_mut(&key) {
            others.retain(|other| !other.is_closed());
            return others.push(answer);
        }
        if self.keys.len() >= WAITING {
            self.keys.retain(|_, answers| answers.iter().any(|answer| !answer.is_closed()));
        }
        if self.keys.len() >= WAITING {
            return tell(answer, Err(NotAnswered::TooMany));
        }
        self.keys.insert(key, vec![answer]);
    }

    /// Ends the waiting for these.
    pub(super) fn answer(&mut self, keys: &[Arc<str>]) {
        for key in keys {
            self.keys.remove(key).into_iter().flatten().for_each(|answer| tell(answer, Ok(())));
            if is_address(key) {
                self.remember(key);
            }
        }
    }

    fn remember(&mut self, key: &Arc<str>) {
        if self.addresses.len() >= ANSWERS {
            self.addresses.retain(|_, at| at.elapsed() < FRESH);
        }
        if self.addresses.len() < ANSWERS {
            self.addresses.insert(Arc::clone(key), Instant::now());
        }
    }
}

fn tell(answer: Answer, what: Result<(), NotAnswered>) {
    // Who asked may have lost patience by now.
    answer.send(what).ok();
}
