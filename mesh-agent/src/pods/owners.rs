//! Which network namespace is whose. No two pods may have the same one, and the kernel notes facts of connections for
//! those that are enrolled.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bpf::facts::{Facts, Watched};
use crate::sys::socket::{any_socket, netns_cookie};

/// The namespaces of the enrolled pods.
#[derive(Debug)]
pub(super) struct Owners {
    facts: Option<Arc<Facts>>,
    /// Cookies of the namespaces, by the uid of their pod. Only the driver comes here, one pod at a time.
    cookies: Mutex<HashMap<String, u64>>,
}

impl Owners {
    /// `facts` is told which namespaces to watch.
    pub(super) fn new(facts: Option<Arc<Facts>>) -> Self {
        Self { facts, cookies: Mutex::default() }
    }

    /// The pod that has the namespace, if it is another one than `uid`.
    pub(super) fn other_than(&self, uid: &str, cookie: u64) -> Option<String> {
        let cookies = self.cookies();
        let mut owners = cookies.iter().filter(|(owner, known)| **known == cookie && *owner != uid);
        owners.next().map(|(owner, _)| owner.clone())
    }

    /// Facts are a bonus: a pod is enrolled without them, too.
    pub(super) fn add(&self, uid: &str, cookie: u64) {
        self.remove(uid);
        self.cookies().insert(uid.to_owned(), cookie);
        let Some(facts) = &self.facts else { return };
        if let Err(error) = facts.set_watched(cookie, Watched::Yes) {
            tracing::warn!(pod = uid, %error, "no kernel facts for the pod's connections");
        }
    }

    pub(super) fn remove(&self, uid: &str) {
        let cookie = self.cookies().remove(uid);
        if let (Some(facts), Some(cookie)) = (&self.facts, cookie) {
            // The entry may be gone with a former object.
            facts.set_watched(cookie, Watched::No).ok();
        }
    }

    fn cookies(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number by which the kernel knows the thread's namespace, not used twice while it runs.
pub(super) fn own_cookie() -> io::Result<u64> {
    netns_cookie(any_socket()?.as_fd())
}

#[cfg(test)]
mod tests {
    use super::Owners;

    #[test]
    fn a_namespace_has_one_owner() {
        let owners = Owners::new(None);
        owners.add("a", 1);
        assert_eq!(owners.other_than("b", 1), Some("a".to_owned()));
        assert_eq!(owners.other_than("a", 1), None, "its own");
        assert_eq!(owners.other_than("b", 2), None, "free");
        owners.add("a", 2);
        assert_eq!((owners.other_than("b", 1), owners.other_than("b", 2)), (None, Some("a".to_owned())), "moved");
        owners.remove("a");
        assert_eq!(owners.other_than("b", 2), None, "given back");
    }
}
