//! The pods of this node that a shard serves, by their names: where the other end of a connection is here, too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::pod::Pod;
use crate::model::SameNodeModes;

/// By namespace and name.
type ByName = HashMap<String, HashMap<String, Weak<Pod>>>;

#[derive(Debug)]
pub(super) struct Locals {
    pub(super) modes: Arc<SameNodeModes>,
    pods: RefCell<ByName>,
}

impl Locals {
    pub(super) fn new(modes: Arc<SameNodeModes>) -> Self {
        Self { modes, pods: RefCell::default() }
    }

    /// Takes the place of a former pod of the name.
    pub(super) fn insert(&self, pod: &Rc<Pod>) {
        let (spec, mut pods) = (&pod.local.spec, self.pods.borrow_mut());
        // Pods come seldom, and those that have gone are looked for nowhere else.
        pods.values_mut().for_each(|named| named.retain(|_, pod| pod.strong_count() > 0));
        pods.retain(|_, named| !named.is_empty());
        pods.entry(spec.namespace.clone()).or_default().insert(spec.name.clone(), Rc::downgrade(pod));
    }

    /// The pod, if it takes connections.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<Rc<Pod>> {
        let pod = self.pods.borrow().get(namespace)?.get(name)?.upgrade()?;
        (!pod.leaving.is_cancelled()).then_some(pod)
    }
}
