//! Named threads, the only place that starts them.

use std::io;
use std::panic::resume_unwind;
use std::thread::{self, Builder, JoinHandle};

/// How nice work is that others must not wait for: a tenth of the weight of a usual thread, which preempts it when it wakes.
const NICE: i32 = 10;

/// Starts a thread that shows up as `name` in process listings (at most 15 bytes are shown).
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(body)
}

/// Does `work` on a thread of its own with a lower priority, and waits for it. (A thread can become nicer, and only a privileged
/// one can go back.) Without such a thread, here.
pub fn nicely<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let mut work = Some(work);
    let done = thread::scope(|scope| {
        let nice = || {
            // Without it the work is done all the same.
            let usual = rustix::process::getpriority_process(None).unwrap_or_default();
            rustix::process::setpriority_process(None, usual + NICE).ok();
            work.take().map(|work| work())
        };
        let thread = Builder::new().name(name.to_owned()).spawn_scoped(scope, nice).ok()?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    match (done, work) {
        (Some(done), _) => done,
        (None, Some(work)) => work(),
        (None, None) => unreachable!("a thread that took the work has given its result or its panic"),
    }
}

/// Does two pieces of work that mostly wait, the first one on a thread of its own. It starts in the namespaces that this
/// thread is in.
pub fn together<A: Send, B>(first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> io::Result<(A, B)> {
    thread::scope(|scope| {
        let thread = Builder::new().name("beside".to_owned()).spawn_scoped(scope, first)?;
        let second = second();
        let first = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((first, second))
    })
}

#[cfg(test)]
mod tests {
    use super::{nicely, together};

    #[test]
    fn both_are_done_side_by_side() {
        let meet = std::sync::Barrier::new(2);
        let (first, second) = together(
            || {
                meet.wait();
                1
            },
            || {
                meet.wait();
                2
            },
        )
        .unwrap();
        assert_eq!((first, second), (1, 2));
    }

    #[test]
    fn nice_work_is_done_elsewhere_and_leaves_no_trace() {
        let mut sum = 0;
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let (before, within) = (
            nice(),
            nicely("test", || {
                sum += 1;
                nice()
            }),
        );
        assert_eq!((sum, nice()), (1, before));
        assert_eq!(within, (before + super::NICE).min(19));
    }
}
