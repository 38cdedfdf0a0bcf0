//! How much a task may do at a time, so that others of its thread need not wait for long.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::yield_now;

/// Bytes that a task may move before it is the others' turn. They are all asked, and so is the kernel for what has come for
/// them, before it goes on.
pub struct Turn {
    bytes: usize,
    left: usize,
    others: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Turn {
    pub const fn of(bytes: usize) -> Self {
        Self { bytes, left: bytes, others: None }
    }

    /// Ready while it is this task's turn.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.left > 0 {
            return Poll::Ready(());
        }
        let others = self.others.get_or_insert_with(|| Box::pin(yield_now()));
        ready!(others.as_mut().poll(cx));
        self.begin();
        Poll::Ready(())
    }

    /// So much has been moved.
    pub fn moved(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// It has waited for something: the others have had their turn.
    pub fn begin(&mut self) {
        self.left = self.bytes;
        self.others = None;
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::Turn;

    /// Moves ten bytes at a time, fifty in all.
    async fn work(name: char, log: Rc<RefCell<String>>) {
        let mut turn = Turn::of(20);
        for _ in 0..5 {
            poll_fn(|cx| turn.poll(cx)).await;
            log.borrow_mut().push(name);
            turn.moved(10);
        }
    }

    #[tokio::test]
    async fn tasks_take_turns() {
        let log = Rc::new(RefCell::new(String::new()));
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                let tasks = ['a', 'b'].map(|name| spawn_local(work(name, Rc::clone(&log))));
                for task in tasks {
                    task.await.unwrap();
                }
            })
            .await;
        let log = log.borrow();
        let rounds = log.as_bytes().chunks(4).map(|round| round.iter().filter(|name| **name == b'a').count());
        assert_eq!(rounds.collect::<Vec<_>>(), [2, 2, 1], "{log}: each has had its turn before one has its next");
    }
}
