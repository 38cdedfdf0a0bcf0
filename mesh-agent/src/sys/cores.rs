//! The machine's cores, and threads that stay on one.

use std::io;
use std::sync::Arc;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Cores that this process may use, by number.
pub fn usable() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// This thread runs nowhere else from now on, and neither do those that it starts.
pub fn stay_on(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// This thread runs on any of the homes from now on; without any, nothing changes.
pub fn roam(homes: &Homes) -> io::Result<()> {
    let mut set = CpuSet::new();
    homes.iter().flatten().for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Where threads are at home that divide work among them. One for each core, they stay there and take the work that comes
/// up on it; fewer or more have no home, and the scheduler moves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Homes(Arc<[Option<usize>]>);

impl Homes {
    pub fn new(threads: usize, cores: &[usize]) -> Self {
        let one_each = threads == cores.len();
        Self((0..threads).map(|thread| cores.get(thread).copied().filter(|_| one_each)).collect())
    }

    /// Each thread's core.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<usize>> + '_ {
        self.0.iter().copied()
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Homes, stay_on, usable};
    use crate::sys::thread::spawn;

    #[test]
    fn a_thread_that_stays() {
        let all = usable().unwrap();
        let last = *all.last().unwrap();
        let stay = move || {
            stay_on(last).unwrap();
            spawn("guest", usable).unwrap().join().unwrap().unwrap()
        };
        let then = spawn("stays", stay).unwrap();
        assert_eq!(then.join().unwrap(), [last]);
        assert_eq!(usable().unwrap(), all, "others go where they like");
    }

    #[test]
    fn homes_are_for_one_thread_a_core() {
        let homes = |threads| Homes::new(threads, &[3, 5]).iter().collect::<Vec<_>>();
        assert_eq!(homes(2), [Some(3), Some(5)]);
        assert_eq!(homes(1), [None]);
        assert_eq!(homes(3), [None; 3]);
    }
}
