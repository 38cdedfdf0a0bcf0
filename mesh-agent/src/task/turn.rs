//! How much a task may do at a time, so that others of its thread need not wait for long.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::task::yield_now;

/// Bytes that tasks with much to move move in one round of a thread, all together...
const ROUND: usize = 256 << 10;
/// ... where nobody waits for little things...
const LONG_ROUND: usize = 4 << 20;
/// ... after so much of which other threads have a look in...
const STRETCH: usize = 64 << 10;
/// ... and each of them at least.
const LEAST: usize = 16 << 10;

thread_local! {
    /// Tasks of this thread that have had their turn and have more to move. Some may go on on another thread.
    static WAITING: Arc<AtomicUsize> = Arc::default();
    static A_ROUND: Cell<usize> = const { Cell::new(ROUND) };
    /// Bytes that may be moved before other threads are let in. None: the kernel takes care of that.
    static A_STRETCH: Cell<Option<usize>> = const { Cell::new(None) };
}

/// On this thread all tasks have much to move, and other threads of its core have not.
pub(super) fn in_long_rounds() {
    A_ROUND.set(LONG_ROUND);
    A_STRETCH.set(Some(STRETCH));
}

/// The kernel itself would look at its next tick whether somebody else is due, after up to 4 ms: whoever was not when it woke
/// would wait for that.
fn let_others_in(moved: usize) {
    let Some(left) = A_STRETCH.get() else { return };
    if left > moved {
        return A_STRETCH.set(Some(left - moved));
    }
    A_STRETCH.set(Some(STRETCH));
    std::thread::yield_now();
}

/// What a task may move before it is the others' turn. They are all asked, and so is the kernel for what has come for them,
/// before it goes on.
pub struct Turn {
    left: usize,
    others: Option<Others>,
}

/// The others' turn.
struct Others {
    turn: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Where it is counted.
    waiting: Arc<AtomicUsize>,
}

impl Others {
    fn first() -> Self {
        let waiting = WAITING.with(Arc::clone);
        waiting.fetch_add(1, Relaxed);
        Self { turn: Box::pin(yield_now()), waiting }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self { left: ROUND, others: None }
    }
}

impl Turn {
    /// Ready while it is this task's turn.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.left > 0 {
            return Poll::Ready(());
        }
        ready!(self.others.get_or_insert_with(Others::first).turn.as_mut().poll(cx));
        self.begin();
        Poll::Ready(())
    }

    /// Bytes that it may still move.
    pub fn left(&self) -> usize {
        self.left
    }

    /// So much has been moved.
    pub fn moved(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
        let_others_in(bytes);
    }

    /// It has waited for something: the others have had their turn.
    pub fn begin(&mut self) {
        self.others = None;
        self.left = (A_ROUND.get() / (WAITING.with(|waiting| waiting.load(Relaxed)) + 1)).max(LEAST);
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

    use super::{ROUND, Turn, WAITING};

    fn waiting() -> usize {
        WAITING.with(|waiting| waiting.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Moves a round's worth six times, and writes down how much at a time.
    async fn work(name: char, log: Rc<RefCell<Vec<(char, usize)>>>) {
        let (mut turn, mut left) = (Turn::default(), 6 * ROUND);
        while left > 0 {
            poll_fn(|cx| turn.poll(cx)).await;
            let bytes = turn.left().min(left);
            log.borrow_mut().push((name, bytes));
            turn.moved(bytes);
            left -= bytes;
        }
    }

    /// What so many of them write down.
    async fn together(names: &[char]) -> Vec<(char, usize)> {
        let log = Rc::default();
        let tasks = LocalSet::new();
        let all = async {
            let tasks: Vec<_> = names.iter().map(|name| spawn_local(work(*name, Rc::clone(&log)))).collect();
            for task in tasks {
                task.await.unwrap();
            }
        };
        tasks.run_until(all).await;
        assert_eq!(waiting(), 0, "nobody is left behind");
        log.take()
    }

    #[tokio::test]
    async fn tasks_take_turns_and_share_a_round() {
        assert_eq!(together(&['a']).await, [('a', ROUND); 6]);
        let log = together(&['a', 'b', 'c', 'd']).await;
        let (first, rest) = log.split_at(4);
        assert_eq!(first, ['a', 'b', 'c', 'd'].map(|name| (name, ROUND)), "before they know of each other");
        for round in rest.chunks(4).take(8) {
            let mut names: Vec<_> = round.iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            assert_eq!(names, ['a', 'b', 'c', 'd'], "each has had its turn before one has its next: {log:?}");
            let all: usize = round.iter().map(|(_, bytes)| bytes).sum();
            assert!(all <= ROUND * 3 / 2, "{round:?}");
        }
    }

    #[test]
    fn who_moves_much_lets_other_threads_in() {
        let left = || super::A_STRETCH.get();
        let mut turn = Turn::default();
        turn.moved(ROUND);
        assert_eq!(left(), None, "a shard leaves that to the kernel");
        super::in_long_rounds();
        turn.moved(super::STRETCH - 1);
        assert_eq!(left(), Some(1));
        turn.moved(100);
        assert_eq!(left(), Some(super::STRETCH), "a new one begins");
        turn.begin();
        assert_eq!(turn.left(), super::LONG_ROUND);
    }

    #[tokio::test]
    async fn who_gives_up_is_not_waited_for() {
        let mut turn = Turn::default();
        turn.moved(ROUND);
        assert!(futures_util::poll!(poll_fn(|cx| turn.poll(cx))).is_pending());
        assert_eq!(waiting(), 1);
        drop(turn);
        assert_eq!(waiting(), 0);
    }
}
