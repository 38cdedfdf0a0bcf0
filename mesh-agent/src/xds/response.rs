//! A response as its reader sees it: resources one at a time, each decoded when it is asked for and dropped after.

use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use prost::Message;

use super::asked::Asked;
use super::held::{Held, Version};
use super::kind::Kind;
use crate::proto::discovery;

/// Reads the bodies of resources, and puts what they say into force.
pub trait Apply: Send {
    /// Applies the whole response, but for the resources that it returns: of those, the former self stays in force, or
    /// something else until they are corrected; their removal will be told as well. Removals come first. When this returns,
    /// the rest is in force, and the server will be told so.
    fn apply(&mut self, response: Response<'_>) -> Vec<Rejected>;
}

/// What changed, or in the first response of a stream, may have.
#[expect(missing_debug_implementations, reason = "reading the resources would use them up")]
pub struct Response<'r> {
    pub kind: Kind,
    /// Whether the response, with `removed`, says everything there is of this kind.
    pub whole: bool,
    /// Names of resources that are no more; some of them may never have been applied.
    pub removed: &'r [Arc<str>],
    /// Resources whose version is held already are left out. Those that are not taken from here count as rejected.
    pub resources: &'r mut dyn Iterator<Item = Resource>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The canonical name: the key of updates and of the removal. Updates come with the same `Arc`.
    pub name: Arc<str>,
    /// Empty for kinds without versions.
    pub version: String,
    /// Other keys that lead to it.
    pub aliases: Vec<String>,
    /// The encoded message: a slice of the response's buffer, not to be kept.
    pub body: Bytes,
}

/// A resource that cannot be used, and why, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub name: Arc<str>,
    pub reason: String,
}

impl Rejected {
    pub fn new(name: impl Into<Arc<str>>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }
}

/// The resources of a response, with a ledger of those that were handed out.
pub(super) struct Resources<'s> {
    kind: Kind,
    held: &'s Held,
    asked: &'s Asked,
    encoded: vec::IntoIter<Bytes>,
    pub(super) ledger: Ledger,
}

/// What was seen of a response.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Handed out, in this order.
    pub(super) offered: Vec<(Arc<str>, Version)>,
    /// Not handed out, since they are held.
    pub(super) unchanged: usize,
    /// Not handed out, since they are no resources.
    pub(super) rejected: Vec<Rejected>,
    /// Keys that somebody waits for, by name or alias.
    pub(super) answered: Vec<Arc<str>>,
}

impl<'s> Resources<'s> {
    pub(super) fn new(kind: Kind, encoded: Vec<Bytes>, held: &'s Held, asked: &'s Asked) -> Self {
        Self { kind, held, asked, encoded: encoded.into_iter(), ledger: Ledger::default() }
    }

    /// The ledger, in which what was left over is rejected.
    pub(super) fn close(mut self) -> Ledger {
        while let Some(Resource { name, .. }) = self.next() {
            self.ledger.rejected.push(Rejected::new(name, "not read"));
        }
        self.ledger
    }

    fn decode(&mut self, encoded: Bytes) -> Option<Resource> {
        let discovery::Resource { version, resource, name, aliases } = match discovery::Resource::decode(encoded) {
            Ok(resource) => resource,
            Err(error) => return self.reject("(a resource without a readable name)", error.to_string()),
        };
        if name.is_empty() {
            return self.reject("(a resource without a name)", "the name is empty".to_owned());
        }
        let name = self.held.share(&name);
        let keys = [&*name].into_iter().chain(aliases.iter().map(String::as_str));
        self.ledger.answered.extend(keys.filter_map(|key| self.asked.key(key)));
        let parsed = Version::new(&version);
        if parsed.is_known() && self.held.version(&name) == Some(&parsed) {
            self.ledger.unchanged += 1;
            return None;
        }
        let body = match resource {
            Some(any) if any.type_url == self.kind.url() => any.value,
            Some(any) => return self.reject_body(name, format!("a body of type {:?}", any.type_url)),
            None => return self.reject_body(name, "no body".to_owned()),
        };
        self.ledger.offered.push((Arc::clone(&name), parsed));
        Some(Resource { name, version, aliases, body })
    }

    fn reject(&mut self, name: &str, reason: String) -> Option<Resource> {
        self.ledger.rejected.push(Rejected::new(name, reason));
        None
    }

    /// Rejects a resource that has a name, so that its former self is in doubt.
    fn reject_body(&mut self, name: Arc<str>, reason: String) -> Option<Resource> {
        self.ledger.offered.push((Arc::clone(&name), Version::unknown()));
        self.ledger.rejected.push(Rejected { name, reason });
        None
    }
}

impl Iterator for Resources<'_> {
    type Item = Resource;

    fn next(&mut self) -> Option<Resource> {
        loop {
            let encoded = self.encoded.next()?;
            if let Some(resource) = self.decode(encoded) {
                return Some(resource);
            }
        }
    }
}
