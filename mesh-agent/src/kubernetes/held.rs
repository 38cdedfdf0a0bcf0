//! What the watches have told, and the picture that follows from it. No I/O: events in, pictures out.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::watcher::Event;

use super::eligibility::{Namespace, Naming, Reading};
use super::object::{NamespaceObject, PodObject};
use super::{Picture, Pod};

/// Objects of one kind as the API server last had them.
#[derive(Debug)]
struct Mirror<V> {
    known: BTreeMap<Arc<str>, V>,
    /// A list that is not complete yet; what it does not name has gone.
    listing: BTreeMap<Arc<str>, V>,
    /// There was a complete list.
    complete: bool,
}

/// Both kinds, and the picture.
#[derive(Debug)]
pub(super) struct Held {
    excluded: Vec<String>,
    pods: Mirror<Reading>,
    /// By name.
    namespaces: Mirror<Namespace>,
    picture: Option<Arc<Picture>>,
}

/// An object's key, and what is kept of it; None for an object that cannot be used.
type Kept<V> = Option<(Arc<str>, V)>;

impl<V: PartialEq> Mirror<V> {
    fn new() -> Self {
        Self { known: BTreeMap::new(), listing: BTreeMap::new(), complete: false }
    }

    /// Takes an event whose object is read by `read`; tells whether it changes anything.
    fn take<K>(&mut self, event: Event<K>, read: impl Fn(&K) -> Kept<V>) -> bool {
        match event {
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(object) => {
                self.listing.extend(read(&object));
                false
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                let first = !std::mem::replace(&mut self.complete, true);
                first | (std::mem::replace(&mut self.known, listed) != self.known)
            }
            Event::Apply(object) => read(&object).is_some_and(|(key, value)| match self.known.get_mut(&key) {
                Some(known) => std::mem::replace(known, value) != *known,
                None => self.known.insert(key, value).is_none(),
            }),
            Event::Delete(object) => read(&object).is_some_and(|(key, _)| self.known.remove(&key).is_some()),
        }
    }
}

impl Held {
    pub(super) fn new(excluded: &[String]) -> Self {
        Self { excluded: excluded.to_vec(), pods: Mirror::new(), namespaces: Mirror::new(), picture: None }
    }

    /// The new picture, if the event changes it.
    pub(super) fn pod(&mut self, event: Event<PodObject>) -> Option<Arc<Picture>> {
        let excluded = &self.excluded;
        let read = |object: &PodObject| {
            let uid = object.metadata.uid.as_deref().map(Arc::from)?;
            Some((uid, Reading::of(object, excluded)?))
        };
        if self.pods.take(event, read) { self.compose() } else { None }
    }

    pub(super) fn namespace(&mut self, event: Event<NamespaceObject>) -> Option<Arc<Picture>> {
        let read = |object: &NamespaceObject| {
            let name = object.metadata.name.as_deref().map(Arc::from)?;
            Some((name, Namespace::of(object)))
        };
        if self.namespaces.take(event, read) { self.compose() } else { None }
    }

    fn compose(&mut self) -> Option<Arc<Picture>> {
        if !(self.pods.complete && self.namespaces.complete) {
            return None;
        }
        let before = self.picture.as_deref();
        let mut picture = Picture::default();
        // Nobody takes a pod's place by writing its uid into another one.
        for naming in [Naming::Own, Naming::Mirrored] {
            for reading in self.pods.known.values().filter(|reading| reading.naming() == naming) {
                let uid = reading.uid();
                if let Some(pod) = self.judged(reading, before.and_then(|picture| picture.pods.get(uid))) {
                    picture.pods.entry(Arc::clone(uid)).or_insert(pod);
                }
            }
        }
        if before == Some(&picture) {
            return None;
        }
        let picture = Arc::new(picture);
        self.picture = Some(Arc::clone(&picture));
        Some(picture)
    }

    /// The two watches do not go in step. A namespace that is not known yet must not take a pod out of the mesh that is in it,
    /// nor may one that has gone before its last pod.
    fn judged(&self, reading: &Reading, old: Option<&Arc<Pod>>) -> Option<Arc<Pod>> {
        let pod = match self.namespaces.known.get(reading.namespace()) {
            Some(namespace) => reading.judged(*namespace),
            None => reading.judged_alone(old.map(|pod| pod.standing))?,
        };
        let same = old.filter(|old| ***old == pod).map(Arc::clone);
        Some(same.unwrap_or_else(|| Arc::new(pod)))
    }
}

#[cfg(test)]
mod tests;
