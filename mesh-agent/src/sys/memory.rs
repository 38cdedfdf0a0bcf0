//! Memory that is not needed any more.

use std::ffi::c_void;
use std::fs;

use rustix::mm::{Advice, madvise};

/// Gives back the pages of the program's own code. What is needed again comes back from the page cache, one soft fault for
/// sixteen pages; what only the start needed (the command line, the YAML parser, the BPF loader) stays away, and an idle
/// agent's working set is what it works with.
pub fn release_code() {
    let Ok(program) = fs::read_link("/proc/self/exe") else { return };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = |line: &&str| line.contains(" r-xp ") && line.ends_with(program.to_string_lossy().as_ref());
    for (start, end) in maps.lines().filter(own).filter_map(range) {
        release(start, end - start);
    }
}

/// Memory of at least this many bytes comes from the kernel, page by page, and goes back to it at once.
const LARGE: i32 = 4 << 20;
/// As much may lie unused at the end of an arena before it goes back.
const UNUSED: i32 = 2 << 20;

/// Has the allocator keep what bulk data needs again and again, buffers of some hundred KiB, instead of giving it back to the
/// kernel each time: fetching pages anew costs more than the copy into them. Without glibc there is nothing to say.
pub fn keep_buffers() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "mallopt(3)")]
        // SAFETY: it takes two integers, and no other thread runs yet.
        let taken =
            unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) & libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED) };
        if taken == 0 {
            tracing::debug!("the allocator gives memory back as it likes");
        }
    }
}

/// Bytes of memory that the allocator has and nobody uses, as far as the kernel holds it for us.
pub fn unused() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    anonymous(&status)?.checked_sub(allocated()?)
}

/// What `/proc/self/status` says of memory that no file has.
fn anonymous(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// What the allocator has given to somebody; nothing is known without glibc.
fn allocated() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "mallinfo2(3)")]
        // SAFETY: it only counts, holding the allocator's locks.
        let counted = unsafe { libc::mallinfo2() };
        Some(counted.uordblks as u64 + counted.hblkhd as u64)
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Gives pages of which nobody uses anything back to the kernel. The allocator itself does so only at an arena's end: what
/// thousands of connections have left between the memory of those that stay would be kept for ever.
pub fn release_unused() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "malloc_trim(3)")]
        // SAFETY: it touches only memory that is free, holding the allocator's locks.
        let released = unsafe { libc::malloc_trim(0) };
        tracing::trace!(released, "unused memory is given back");
    }
}

/// The addresses at the head of a line of `/proc/PID/maps`.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[expect(unsafe_code, reason = "madvise(2) on addresses")]
fn release(start: usize, length: usize) {
    // SAFETY: the range is a mapping of the program's file that nobody can write to (r-xp), so its pages are clean: the next
    // access reads the same bytes again.
    let result = unsafe { madvise(start as *mut c_void, length, Advice::LinuxDontNeed) };
    if let Err(error) = result {
        tracing::debug!(%error, "the program's code stays resident");
    }
}

#[cfg(test)]
mod tests {
    use super::{anonymous, range, release_unused, unused};

    #[test]
    fn ranges() {
        assert_eq!(range("1000-2000 r-xp 00000000 fe:00 1 /bin/x"), Some((0x1000, 0x2000)));
        assert_eq!(range("nonsense"), None);
        super::release_code();
    }

    #[test]
    fn memory_of_no_file() {
        assert_eq!(anonymous("VmRSS:\t  10 kB\nRssAnon:\t    4 kB\n"), Some(4096));
        assert_eq!(anonymous("VmRSS:\t  10 kB\n"), None);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_between_used_memory_goes_back() {
        const COUNT: usize = 1 << 10;
        // Large and small ones by turns: the small ones stay.
        let (large, small): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| (vec![1_u8; 64 << 10], vec![1_u8; 64])).unzip();
        drop(large);
        // Other tests of this process use memory at the same time, and leave some unused.
        let mut seen = Vec::new();
        let given_back = (0..100).any(|_| {
            let before = unused().unwrap();
            release_unused();
            let after = unused().unwrap();
            seen.push((before, after));
            before > after + (8 << 20)
        });
        assert!(given_back, "unused before and after: {seen:?}");
        assert_eq!(small.len(), COUNT);
    }
}
