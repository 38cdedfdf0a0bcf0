//! Named threads, the only place that starts them.

use std::io;
use std::panic::resume_unwind;
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

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
            be_nicer(NICE).ok();
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

/// Makes this thread nicer than it is: with 5 more it has a third of the weight. Of threads of another control group it is
/// only the group's weight that counts.
pub fn be_nicer(by: i32) -> io::Result<()> {
    let usual = rustix::process::getpriority_process(None)?;
    Ok(rustix::process::setpriority_process(None, usual + by)?)
}

/// Has this thread's time come in pieces of `slice` (0.1 to 100 ms): as much in all, but sooner when there is something to do,
/// since whoever asks for less at a time is served before those that ask for more (sched_setattr(2); Linux 6.12, before which
/// it changes nothing). Threads of other policies than the usual one are left as they are.
#[expect(unsafe_code, reason = "sched_getattr(2) and sched_setattr(2) have no wrapper")]
pub fn in_slices(slice: Duration) -> io::Result<()> {
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;
    let ok = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: all its fields are integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most SIZE bytes, which are there.
    ok(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) })?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.size = SIZE;
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads the bytes whose number they begin with.
    ok(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// Something to be done on a thread.
pub type Work<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

/// Does pieces of work that mostly wait side by side, each on a thread of its own but for the last, and gives their results
/// in order. Threads start in the namespaces that this one is in.
pub fn together<T: Send>(mut works: Vec<Work<'_, T>>) -> io::Result<Vec<T>> {
    let Some(last) = works.pop() else { return Ok(Vec::new()) };
    thread::scope(|scope| {
        let spawn = |work| Builder::new().name("beside".to_owned()).spawn_scoped(scope, work);
        let threads = works.into_iter().map(spawn).collect::<io::Result<Vec<_>>>()?;
        let last = last();
        let results = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Ok(results.collect::<Vec<_>>().into_iter().chain([last]).collect())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Work, in_slices, nicely, spawn, together};

    #[test]
    fn a_thread_with_short_slices() {
        let thread = spawn("slices", || {
            in_slices(Duration::from_micros(200)).map(|()| std::fs::read_to_string("/proc/thread-self/sched"))
        });
        let Ok(Ok(seen)) = thread.unwrap().join().unwrap() else { panic!("refused") };
        // proc(5) has no such line for older kernels.
        let slice = seen.lines().find_map(|line| line.strip_prefix("se.slice"));
        assert!(slice.is_none_or(|slice| slice.trim_end().ends_with(" 200000")), "{slice:?}");
    }

    #[test]
    fn all_are_done_side_by_side() {
        let meet = &std::sync::Barrier::new(3);
        let work = |number| -> Work<'_, i32> {
            Box::new(move || {
                meet.wait();
                number
            })
        };
        assert_eq!(together(vec![work(1), work(2), work(3)]).unwrap(), [1, 2, 3]);
        assert_eq!(together::<()>(Vec::new()).unwrap(), []);
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
