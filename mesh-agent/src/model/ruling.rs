//! Policies compiled when the configuration arrives: what those of one list decide, the first of them first.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::policy::{Action, Enforcement, Policy, PolicyName, Scope};
use super::rules::{Question, Rules};
use super::workload::Workload;
use super::world::Local;

/// What a list of policies decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Ruling {
    list: Vec<Arc<Policy>>,
    unreadable: Option<Arc<Policy>>,
    deny: Rules,
    allow: Rules,
    on_trial: Vec<Arc<Policy>>,
}

impl Ruling {
    fn new(list: Vec<Arc<Policy>>) -> Self {
        let of = |enforcement| list.iter().filter(move |policy| policy.enforcement == enforcement).map(Arc::clone);
        let enforced = |action| of(Enforcement::Enforced).filter(move |policy| policy.action == action).collect();
        Self {
            unreadable: of(Enforcement::Unreadable).next(),
            deny: Rules::new(enforced(Action::Deny)),
            allow: Rules::new(enforced(Action::Allow)),
            on_trial: of(Enforcement::DryRun).collect(),
            list,
        }
    }

    /// The same one as before if it was of the same list.
    fn renewed(before: Option<&Arc<Self>>, list: Vec<Arc<Policy>>) -> Arc<Self> {
        before.filter(|before| before.is_of(&list)).map_or_else(|| Arc::new(Self::new(list)), Arc::clone)
    }

    fn is_of(&self, list: &[Arc<Policy>]) -> bool {
        self.list.len() == list.len() && self.list.iter().zip(list).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    #[cfg(test)]
    pub(super) fn list(&self) -> &[Arc<Policy>] {
        &self.list
    }

    /// The first that nobody can read.
    pub(super) fn unreadable(&self) -> Option<&Arc<Policy>> {
        self.unreadable.as_ref()
    }

    /// The first that denies.
    pub(super) fn denies(&self, question: Question<'_>) -> Option<&Arc<Policy>> {
        self.deny.first(question)
    }

    /// Whether anything has to be allowed.
    pub(super) fn demands_leave(&self) -> bool {
        !self.allow.is_empty()
    }

    /// The first that allows.
    pub(super) fn allows(&self, question: Question<'_>) -> Option<&Arc<Policy>> {
        self.allow.first(question)
    }

    pub(super) fn on_trial(&self) -> &[Arc<Policy>] {
        &self.on_trial
    }
}

/// The policies, by how they apply.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    pub(super) by_name: HashMap<PolicyName, Arc<Policy>, RandomState>,
    pub(super) global: Arc<Ruling>,
    by_namespace: HashMap<Arc<str>, Arc<Ruling>, RandomState>,
}

impl Policies {
    /// Of what was compiled `before`, what has not changed is taken on.
    pub(super) fn new(by_name: HashMap<PolicyName, Arc<Policy>, RandomState>, before: &Self) -> Self {
        let mut global = Vec::new();
        let mut by_namespace = HashMap::<_, Vec<_>>::new();
        let mut sorted: Vec<_> = by_name.values().map(Arc::clone).collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        for policy in sorted {
            match policy.scope {
                Scope::Global => global.push(policy),
                Scope::Namespace => by_namespace.entry(Arc::clone(&policy.name.namespace)).or_default().push(policy),
                Scope::WorkloadSelector => {}
            }
        }
        let renewed = |(namespace, list): (Arc<str>, _)| {
            let ruling = Ruling::renewed(before.by_namespace.get(&namespace), list);
            (namespace, ruling)
        };
        let by_namespace = by_namespace.into_iter().map(renewed).collect();
        Self { global: Ruling::renewed(Some(&before.global), global), by_namespace, by_name }
    }

    pub(super) fn of_namespace(&self, namespace: &str) -> Option<&Arc<Ruling>> {
        self.by_namespace.get(namespace)
    }
}

/// What the policies that a workload lists decide.
#[derive(Clone, Debug, Default)]
pub(super) struct Selected {
    /// The first that nobody has sent.
    pub(super) unknown: Option<PolicyName>,
    pub(super) ruling: Arc<Ruling>,
}

impl Selected {
    pub(super) fn by(workload: &Workload, policies: &Policies, before: Option<&Self>) -> Self {
        let known = |name| policies.by_name.get(name);
        let unknown = workload.policies.iter().find(|name| known(name).is_none()).cloned();
        let list = workload.policies.iter().filter_map(known).map(Arc::clone).collect();
        Self { unknown, ruling: Ruling::renewed(before.map(|before| &before.ruling), list) }
    }
}

/// The same for the node's own workloads, by uid.
#[derive(Clone, Debug, Default)]
pub(super) struct Selections(HashMap<Arc<str>, (Arc<Workload>, Arc<Selected>), RandomState>);

impl Selections {
    pub(super) fn new(policies: &Policies, local: &Local, before: &Self) -> Self {
        // Replicas are selected by the same policies.
        let mut made = HashMap::<&[PolicyName], Arc<Selected>>::new();
        let selecting = local.values().flat_map(HashMap::values).filter(|workload| !workload.policies.is_empty());
        let entry = |workload: &'_ Arc<Workload>| {
            let before = before.0.get(&workload.uid).map(|(_, selected)| &**selected);
            Arc::new(Selected::by(workload, policies, before))
        };
        let mut all = Self::default();
        for workload in selecting {
            let selected = made.entry(&workload.policies).or_insert_with(|| entry(workload));
            all.0.insert(Arc::clone(&workload.uid), (Arc::clone(workload), Arc::clone(selected)));
        }
        all
    }

    /// What was compiled for this workload as it is, and no older or newer one of its uid.
    pub(super) fn of(&self, workload: &Workload) -> Option<&Arc<Selected>> {
        let (compiled, selected) = self.0.get(&workload.uid)?;
        std::ptr::eq(&**compiled, workload).then_some(selected)
    }
}
