//! Which network namespace is whose. No two pods may have the same one, and the kernel notes facts of connections for
//! those that are enrolled.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bpf::facts::{Facts, Watched};
use crate::sys::netns::Netns;
use crate::sys::socket::{any_socket, netns_cookie};

/// The namespaces of the enrolled pods.
#[derive(Debug)]
pub(super) struct Owners {
    facts: Option<Arc<Facts>>,
    /// The namespaces with their cookies, by the uid of their pod. The lock is held for a look, and for an entry.
    known: Mutex<HashMap<String, (u64, Netns)>>,
}

/// What a namespace was before it was claimed for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    New,
    /// The pod had it already.
    Held,
}

impl Owners {
    /// `facts` is told which namespaces to watch.
    pub(super) fn new(facts: Option<Arc<Facts>>) -> Self {
        Self { facts, known: Mutex::default() }
    }

    /// Notes that the namespace is the pod's. If it is another one's, gives that one's uid.
    pub(super) fn claim(&self, uid: &str, cookie: u64, netns: &Netns) -> Result<Claim, String> {
        let former = {
            let mut known = self.known();
            if let Some((owner, _)) = known.iter().find(|(owner, (theirs, _))| *theirs == cookie && *owner != uid) {
                return Err(owner.clone());
            }
            known.insert(uid.to_owned(), (cookie, netns.clone()))
        };
        match former {
            Some((former, _)) if former == cookie => return Ok(Claim::Held),
            Some((former, _)) => self.watch(former, Watched::No),
            None => {}
        }
        self.watch(cookie, Watched::Yes);
        Ok(Claim::New)
    }

    /// The pod's namespace.
    pub(super) fn netns(&self, uid: &str) -> Option<Netns> {
        self.known().get(uid).map(|(_, netns)| netns.clone())
    }

    /// The number of the pod's namespace.
    pub(super) fn cookie(&self, uid: &str) -> Option<u64> {
        self.known().get(uid).map(|(cookie, _)| *cookie)
    }

    pub(super) fn remove(&self, uid: &str) {
        let former = self.known().remove(uid);
        if let Some((cookie, _)) = former {
            self.watch(cookie, Watched::No);
        }
    }

    /// Facts are a bonus: a pod is enrolled without them, too.
    fn watch(&self, cookie: u64, watched: Watched) {
        let Some(facts) = &self.facts else { return };
        match facts.set_watched(cookie, watched) {
            Err(error) if watched == Watched::Yes => {
                tracing::warn!(cookie, %error, "no kernel facts for a pod's connections");
            }
            // The entry may be gone with a former object.
            Ok(()) | Err(_) => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, (u64, Netns)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number by which the kernel knows the thread's namespace, not used twice while it runs.
pub(super) fn own_cookie() -> io::Result<u64> {
    netns_cookie(any_socket()?.as_fd())
}

#[cfg(test)]
mod tests {
    use super::{Claim, Owners};
    use crate::sys::netns::Netns;

    #[test]
    fn a_namespace_has_one_owner() {
        let netns = Netns::current().unwrap();
        let owners = Owners::new(None);
        let claim = |uid, cookie| owners.claim(uid, cookie, &netns);
        assert_eq!(claim("a", 1), Ok(Claim::New));
        assert_eq!(claim("b", 1), Err("a".to_owned()));
        assert_eq!(owners.netns("b"), None);
        assert_eq!(claim("a", 1), Ok(Claim::Held), "its own");
        assert_eq!(claim("a", 2), Ok(Claim::New), "it moved");
        assert_eq!((claim("b", 2), claim("b", 1)), (Err("a".to_owned()), Ok(Claim::New)));
        owners.remove("a");
        assert_eq!(claim("c", 2), Ok(Claim::New), "it was given back");
    }
}
