//! Which kernel runs, and whether it is new enough, checked before anything is changed.

use rustix::system::uname;

/// The oldest kernel on which capture works: from Linux 6.6 on (commit 9c02bec95954) a program may assign a packet to a
/// socket with SO_REUSEPORT, and each shard has one of those for each listener. Older ones refuse it, and every captured connection
/// would be dropped.
const OLDEST: Release = Release { major: 6, minor: 6 };

/// A kernel's version, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release {
    major: u32,
    minor: u32,
}

/// The kernel is too old.
#[derive(Debug, thiserror::Error)]
#[error("this kernel is Linux {running}, and capturing connections needs 6.6 or newer")]
pub struct TooOld {
    running: String,
}

/// Fails on a kernel on which capture cannot work.
pub fn require() -> Result<(), TooOld> {
    let running = release();
    if is_too_old(&running) { Err(TooOld { running }) } else { Ok(()) }
}

/// The release of the kernel that runs, such as `6.8.0-31-generic`.
pub fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// Whether capture cannot work on it. A release that says nothing is given a try.
pub fn is_too_old(release: &str) -> bool {
    parse(release).is_some_and(|release| release < OLDEST)
}

/// The first two numbers of a release such as `6.1.0-44-amd64`.
fn parse(release: &str) -> Option<Release> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some(Release { major: number()?, minor: number()? })
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, parse};

    #[test]
    fn releases_of_distributions_are_understood() {
        let old = |release| parse(release).map(|release| release < OLDEST);
        for release in ["5.15.0-105-generic", "6.1.0-44-amd64", "5.14.0-427.13.1.el9_4.x86_64", "4.18", "6.5.13+"] {
            assert_eq!(old(release), Some(true), "{release}");
        }
        for release in ["6.6.0", "6.8.0-31-generic", "6.18.44-fc-v669", "7.0-rc1", "10.0.0"] {
            assert_eq!(old(release), Some(false), "{release}");
        }
        assert_eq!(old("mainline"), None);
        super::require().unwrap();
    }
}
