//! What has to be done so that the pods that are enrolled are those that should be. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::model::{Captured, PodSpec};

/// A pod as it is: enrolled by this process, or left by a former one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    Enrolled(Arc<PodSpec>),
    /// On its way out: its connections are ending.
    Leaving(Arc<PodSpec>),
    /// Only its uid is known for sure; enrolling it again adopts what is there.
    LeftBehind(Arc<str>),
}

impl Observed {
    fn uid(&self) -> &Arc<str> {
        match self {
            Self::Enrolled(spec) | Self::Leaving(spec) => &spec.uid,
            Self::LeftBehind(uid) => uid,
        }
    }
}

/// One thing to do. Steps are in an order that is safe to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// New connections pass, open ones get time to end, then every trace is removed.
    Withdraw(Arc<str>),
    /// Removes every trace at once: the pod has ended, or is another one under the same name.
    Evict(Arc<str>),
    /// Ends the connections of a pod that waits for them to end, for the reasons of an eviction.
    Cut(Arc<str>),
    /// The same pod in another namespace, redirected by rules: served there, while connections in the old one get time to
    /// end.
    Replace(Arc<PodSpec>),
    /// Removes what a former process left of a pod that should not be enrolled.
    Discard(Arc<str>),
    Enrol(Arc<PodSpec>),
    /// Changes what the programs go by; nothing is attached or detached.
    Reconfigure(Arc<PodSpec>),
}

/// The steps from `observed` to `desired`. Connections of those that have `ended` are not waited for.
pub fn plan(desired: &[Arc<PodSpec>], ended: &BTreeSet<Arc<str>>, observed: &[Observed]) -> Vec<Step> {
    let wanted: HashMap<&str, &Arc<PodSpec>> = desired.iter().map(|spec| (&*spec.uid, spec)).collect();
    let (mut away, mut change) = (Vec::new(), Vec::new());
    let mut settled: HashSet<&str> = HashSet::new();
    for pod in observed {
        match (pod, wanted.get(&**pod.uid())) {
            (Observed::LeftBehind(uid), None) => away.push(Step::Discard(Arc::clone(uid))),
            // Enrolling adopts it.
            (Observed::LeftBehind(_), Some(_)) => {}
            (Observed::Leaving(spec), None) if !ended.contains(&spec.uid) => {}
            // What is open goes on beside what is new.
            (Observed::Leaving(spec), Some(wanted)) if is_same_capture(spec, wanted) => {}
            (Observed::Leaving(spec), _) => {
                settled.insert(&spec.uid);
                away.push(Step::Cut(Arc::clone(&spec.uid)));
            }
            (Observed::Enrolled(spec), None) if ended.contains(&spec.uid) => {
                away.push(Step::Evict(Arc::clone(&spec.uid)));
            }
            (Observed::Enrolled(spec), None) => away.push(Step::Withdraw(Arc::clone(&spec.uid))),
            (Observed::Enrolled(spec), Some(wanted)) if is_another(spec, wanted) => {
                away.push(Step::Evict(Arc::clone(&spec.uid)));
            }
            (Observed::Enrolled(spec), Some(wanted)) => {
                settled.insert(&spec.uid);
                if spec.netns != wanted.netns {
                    change.push(Step::Replace(Arc::clone(wanted)));
                } else if spec != *wanted {
                    change.push(Step::Reconfigure(Arc::clone(wanted)));
                }
            }
        }
    }
    let missing = desired.iter().filter(|spec| !settled.contains(&*spec.uid));
    let enrol = missing.map(|spec| Step::Enrol(Arc::clone(spec)));
    away.into_iter().chain(change).chain(enrol).collect()
}

/// Whether enrolling the pod finds its programs in place.
fn is_same_capture(is: &PodSpec, should: &PodSpec) -> bool {
    matches!(should.captured, Captured::ByPrograms(_)) && !is_another(is, should)
}

/// Whether the pod is another one under the same uid. One that is redirected by rules may be in another namespace and still
/// be the same.
fn is_another(is: &PodSpec, should: &PodSpec) -> bool {
    let name = |spec: &PodSpec| [spec.name.clone(), spec.namespace.clone(), spec.service_account.clone()];
    let elsewhere = match (&is.captured, &should.captured) {
        (Captured::ByRules, Captured::ByRules) => false,
        (Captured::ByPrograms(ours), Captured::ByPrograms(theirs)) => {
            is.netns != should.netns || ours.interface != theirs.interface
        }
        (Captured::ByRules, Captured::ByPrograms(_)) | (Captured::ByPrograms(_), Captured::ByRules) => true,
    };
    elsewhere || name(is) != name(should)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{Observed, Step, plan};
    use crate::model::{Captured, PodNetns, PodSpec, Programs};

    fn spec(uid: &str, netns: &str, probes: &[u16]) -> Arc<PodSpec> {
        let programs = Programs { interface: "eth0".into(), probe_ports: probes.to_vec(), ..Programs::default() };
        captured(uid, netns, Captured::ByPrograms(programs))
    }

    fn redirected(uid: &str, netns: &str) -> Arc<PodSpec> {
        captured(uid, netns, Captured::ByRules)
    }

    fn captured(uid: &str, netns: &str, captured: Captured) -> Arc<PodSpec> {
        Arc::new(PodSpec {
            uid: uid.into(),
            name: uid.into(),
            namespace: "default".into(),
            service_account: uid.into(),
            netns: PodNetns::Path(netns.into()),
            captured,
        })
    }

    #[test]
    fn steps() {
        let (a, b, a_moved, a_probed) =
            (spec("a", "/a", &[]), spec("b", "/b", &[]), spec("a", "/c", &[]), spec("a", "/a", &[1]));
        let a_renamed = Arc::new(PodSpec { service_account: "other".into(), ..PodSpec::clone(&a) });
        let (r, r_moved) = (redirected("a", "/a"), redirected("a", "/c"));
        let on = |spec: &Arc<PodSpec>| Observed::Enrolled(Arc::clone(spec));
        let off = |spec: &Arc<PodSpec>| Observed::Leaving(Arc::clone(spec));
        let left = |uid: &str| Observed::LeftBehind(uid.into());
        let cases = [
            (vec![], vec![], vec![]),
            (vec![&a], vec![], vec![Step::Enrol(Arc::clone(&a))]),
            (vec![&a], vec![on(&a)], vec![]),
            (vec![], vec![on(&a)], vec![Step::Withdraw("a".into())]),
            (vec![], vec![left("a")], vec![Step::Discard("a".into())]),
            (vec![&a], vec![left("a")], vec![Step::Enrol(Arc::clone(&a))]),
            (vec![&a_probed], vec![on(&a)], vec![Step::Reconfigure(Arc::clone(&a_probed))]),
            (vec![&a_moved], vec![on(&a)], vec![Step::Evict("a".into()), Step::Enrol(Arc::clone(&a_moved))]),
            (vec![&r], vec![on(&r)], vec![]),
            (vec![&a_renamed], vec![on(&a)], vec![Step::Evict("a".into()), Step::Enrol(Arc::clone(&a_renamed))]),
            (vec![&r_moved], vec![on(&r)], vec![Step::Replace(Arc::clone(&r_moved))]),
            (vec![&r], vec![on(&a)], vec![Step::Evict("a".into()), Step::Enrol(Arc::clone(&r))]),
            (vec![], vec![on(&r)], vec![Step::Withdraw("a".into())]),
            (vec![], vec![off(&a)], vec![]),
            (vec![&a], vec![off(&a)], vec![Step::Enrol(Arc::clone(&a))]),
            (vec![&a_probed], vec![off(&a)], vec![Step::Enrol(Arc::clone(&a_probed))]),
            (vec![&a_moved], vec![off(&a)], vec![Step::Cut("a".into())]),
            (vec![&r], vec![off(&r)], vec![Step::Cut("a".into())]),
            (vec![&b], vec![off(&a)], vec![Step::Enrol(Arc::clone(&b))]),
            (vec![&b], vec![on(&a)], vec![Step::Withdraw("a".into()), Step::Enrol(Arc::clone(&b))]),
        ];
        for (desired, observed, expected) in cases {
            let desired: Vec<_> = desired.into_iter().map(Arc::clone).collect();
            assert_eq!(plan(&desired, &BTreeSet::new(), &observed), expected, "{desired:?} {observed:?}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_is_not_waited_for() {
        let a = spec("a", "/a", &[]);
        let ended = BTreeSet::from(["a".into(), "gone".into()]);
        let cases = [
            (Observed::Enrolled(Arc::clone(&a)), Step::Evict("a".into())),
            (Observed::Leaving(Arc::clone(&a)), Step::Cut("a".into())),
            (Observed::LeftBehind("a".into()), Step::Discard("a".into())),
        ];
        for (observed, step) in cases {
            assert_eq!(plan(&[], &ended, std::slice::from_ref(&observed)), [step], "{observed:?}");
        }
        assert_eq!(plan(&[Arc::clone(&a)], &ended, &[Observed::Enrolled(Arc::clone(&a))]), [], "it is wanted again");
    }

    /// What executing the steps makes of `observed`.
    fn execute(mut observed: Vec<Observed>, steps: Vec<Step>) -> Vec<Observed> {
        for step in steps {
            match step {
                Step::Withdraw(uid) | Step::Evict(uid) | Step::Cut(uid) | Step::Discard(uid) => {
                    observed.retain(|pod| *pod.uid() != uid)
                }
                Step::Enrol(spec) | Step::Reconfigure(spec) | Step::Replace(spec) => {
                    observed.retain(|pod| *pod.uid() != spec.uid);
                    observed.push(Observed::Enrolled(spec));
                }
            }
        }
        observed
    }

    proptest! {
        #[test]
        fn executing_the_plan_gives_what_is_desired(
            desired in prop::collection::btree_map(0u8..6, (0u8..2, 0u16..2), 0..6),
            enrolled in prop::collection::btree_map(0u8..6, (0u8..2, 0u16..2, any::<bool>()), 0..6),
            left in prop::collection::btree_set(6u8..9, 0..3),
            ended in prop::collection::btree_set(0u8..9, 0..4),
        ) {
            let pod = |uid: &u8, netns: &u8, probe: &u16| spec(&uid.to_string(), &format!("/{netns}"), &[*probe]);
            let desired: Vec<_> = desired.iter().map(|(uid, (netns, probe))| pod(uid, netns, probe)).collect();
            let ended = ended.iter().map(|uid| uid.to_string().into()).collect();
            let is = |(uid, (netns, probe, leaving)): (&u8, &(u8, u16, bool))| {
                let pod = pod(uid, netns, probe);
                if *leaving { Observed::Leaving(pod) } else { Observed::Enrolled(pod) }
            };
            let mut observed: Vec<_> = enrolled.iter().map(is).collect();
            observed.extend(left.iter().map(|uid| Observed::LeftBehind(uid.to_string().into())));
            // What is cut is enrolled when it has gone.
            for _ in 0..2 {
                let steps = plan(&desired, &ended, &observed);
                observed = execute(observed, steps);
            }
            prop_assert_eq!(plan(&desired, &ended, &observed), vec![]);
            let served = observed.iter().filter(|pod| matches!(pod, Observed::Enrolled(_))).count();
            prop_assert_eq!(served, desired.len());
        }
    }
}
