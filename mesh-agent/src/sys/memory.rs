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
    use super::range;

    #[test]
    fn ranges() {
        assert_eq!(range("1000-2000 r-xp 00000000 fe:00 1 /bin/x"), Some((0x1000, 0x2000)));
        assert_eq!(range("nonsense"), None);
        super::release_code();
    }
}
