//! What the CNI plugin asks, each to be answered once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::member::{Known, Life, Member, Site};
use super::{Act, Members};
use crate::cni::{Answer, Sandbox};
use crate::kubernetes::{Pod, Standing};
use crate::model::pod::{Older, PodState, PodStatus};
use crate::pods::find::Place;
use crate::sys::netns::Netns;

/// The plugin waits 25 s, and must still get the reason then.
const LIMIT: Duration = Duration::from_secs(20);

/// A question's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u64);

#[derive(Debug)]
pub(super) struct Question {
    sandbox: Sandbox,
    netns: Netns,
    asked: Instant,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// The API server has to say what the pod is; whether it has been asked.
    Asking { sent: bool },
    /// The driver has to capture the pod of this uid.
    Waiting(Arc<str>),
}

impl Question {
    pub(super) fn deadline(&self) -> Instant {
        self.asked + LIMIT
    }

    pub(super) fn is_about(&self, pod: &Pod) -> bool {
        is_named(pod, &self.sandbox)
    }

    /// What is said when it is reached.
    fn late(&self) -> String {
        let name = self.name();
        match self.stage {
            Stage::Asking { .. } => format!("the API server has not said within {LIMIT:?} what pod {name} is"),
            Stage::Waiting(_) => format!("pod {name} was not captured within {LIMIT:?}; it is being tried on"),
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.sandbox.namespace, self.sandbox.name)
    }
}

pub(super) type Questions = BTreeMap<Number, Question>;

impl Members {
    /// The runtime tells of a pod's sandbox, and asks whether its containers may start. Numbers rise.
    pub fn announced(&mut self, number: Number, sandbox: Sandbox, netns: Netns, now: Instant) {
        self.questions.insert(number, Question { sandbox, netns, asked: now, stage: Stage::Asking { sent: false } });
    }

    /// Whoever asked waits no more.
    pub fn forget(&mut self, number: Number) {
        self.questions.remove(&number);
    }

    /// The API server's answer to [`Act::Ask`].
    pub fn told(&mut self, number: Number, result: Result<Option<Pod>, String>) {
        let Some(question) = self.questions.get(&number) else { return };
        let Stage::Asking { .. } = question.stage else { return };
        let (name, asked) = (question.name(), question.sandbox.uid.as_deref());
        let refused = match result {
            Err(error) => match self.known_as(&question.sandbox) {
                Some(uid) => return self.judge(number, &uid),
                None => format!("the API server cannot say what pod {name} is: {error}"),
            },
            Ok(None) => format!("the API server has no pod {name} on this node"),
            Ok(Some(pod)) => match pod.standing {
                Standing::Outside(reason) => {
                    self.outsiders.insert(Arc::clone(&pod.uid), question.asked);
                    return self.answer(number, Answer::Outside(reason.to_string()));
                }
                Standing::Member if asked.is_some_and(|asked| asked != &*pod.uid) => format!(
                    "the API server's pod {name} has the uid {}, and the runtime's has another one, maybe because it was \
                     replaced",
                    pod.uid
                ),
                Standing::Member => {
                    let uid = self.tell(pod);
                    return self.judge(number, &uid);
                }
            },
        };
        self.answer(number, Answer::Refused(refused));
    }

    fn is_known(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|member| matches!(member.known, Known::Told | Known::Pictured))
    }

    /// Takes up a pod that no picture has shown yet, or none any more.
    fn tell(&mut self, pod: Pod) -> Arc<str> {
        let uid = Arc::clone(&pod.uid);
        let known = self.is_known(&uid) && self.pods.get(&uid).is_some_and(|member| member.pod.is_namesake(&pod));
        if !known {
            let pod = Arc::new(pod);
            let new = || Member::new(Arc::clone(&pod), Known::Told);
            self.pods.entry(Arc::clone(&uid)).or_insert_with(new).update(&pod, Known::Told, &self.probers);
        }
        uid
    }

    /// The pod of a sandbox as far as it is known without the API server.
    fn known_as(&self, sandbox: &Sandbox) -> Option<Arc<str>> {
        let same = |pod: &Pod| is_named(pod, sandbox) && sandbox.uid.as_ref().is_none_or(|uid| **uid == *pod.uid);
        let mut members = self.pods.values().filter(|member| member.known != Known::Gone);
        members.find(|member| same(&member.pod)).map(|member| Arc::clone(&member.pod.uid))
    }

    /// What the sandbox of a known pod means, for the pod and for the question.
    fn judge(&mut self, number: Number, uid: &Arc<str>) {
        let (Some(question), Some(member)) = (self.questions.get_mut(&number), self.pods.get_mut(uid)) else { return };
        if let Standing::Outside(reason) = member.pod.standing {
            return self.answer(number, Answer::Outside(reason.to_string()));
        }
        question.stage = Stage::Waiting(Arc::clone(uid));
        let announced = Some((number, question.asked));
        // The API server may answer in another order.
        if member.site.as_ref().is_some_and(|site| site.announced > announced) {
            return;
        }
        let Sandbox { container, netns: path, interface, addresses, .. } = question.sandbox.clone();
        let place = Place { path, netns: question.netns.clone(), interface, carried: 0 };
        let site = Site {
            place,
            addresses,
            container: Some(container),
            announced,
            life: Life::Assumed,
            checked: question.asked,
            older: Older::LeftAlone,
        };
        member.settle(site, &self.probers);
        // Whoever asks wants it tried now, whatever became of it before.
        if !self.statuses.get(uid).is_some_and(|status| is_fate_of(status, member) && status.state.is_captured()) {
            member.renew();
        }
    }

    /// Answers what can be answered.
    pub(super) fn answer_all(&mut self, now: Instant) {
        let arrived = self.questions.iter().filter_map(|(number, question)| Some((*number, self.arrived(question)?)));
        for (number, uid) in arrived.collect::<Vec<_>>() {
            self.judge(number, &uid);
        }
        let fates = self.questions.iter().filter_map(|(number, question)| Some((*number, self.fate(question, now)?)));
        for (number, answer) in fates.collect::<Vec<_>>() {
            self.answer(number, answer);
        }
    }

    /// A pod that the API server need not, or need not any more, be asked for.
    fn arrived(&self, question: &Question) -> Option<Arc<str>> {
        let Stage::Asking { .. } = question.stage else { return None };
        let uid = question.sandbox.uid.as_deref().filter(|uid| self.is_known(uid))?;
        let member = self.pods.get(uid).filter(|member| is_named(&member.pod, &question.sandbox))?;
        Some(Arc::clone(&member.pod.uid))
    }

    fn fate(&self, question: &Question, now: Instant) -> Option<Answer> {
        let (name, late) = (question.name(), || (now >= question.deadline()).then(|| Answer::Refused(question.late())));
        let Stage::Waiting(uid) = &question.stage else { return late() };
        let Some(member) = self.pods.get(uid) else {
            return Some(Answer::Refused(format!("pod {name} has gone meanwhile")));
        };
        if let Standing::Outside(reason) = member.pod.standing {
            return Some(Answer::Outside(reason.to_string()));
        }
        if member.site.as_ref().is_none_or(|site| site.place.netns != question.netns) {
            return Some(Answer::Refused(format!("pod {name} has another sandbox by now, or none")));
        }
        let status = self.statuses.get(uid).filter(|status| is_fate_of(status, member));
        match status.map(|status| &status.state) {
            Some(PodState::Enrolled | PodState::Adopted | PodState::Outdated(_)) => Some(Answer::Member),
            Some(PodState::Failed(error)) => Some(Answer::Refused(format!("pod {name}: {error}"))),
            Some(PodState::Draining) | None => late(),
        }
    }

    fn answer(&mut self, question: Number, answer: Answer) {
        if self.questions.remove(&question).is_some() {
            self.answers.push(Act::Answer { question, answer });
        }
    }

    /// What the API server has to be asked.
    pub(super) fn asks(&mut self) -> Vec<Act> {
        let mut acts = Vec::new();
        for (number, question) in &mut self.questions {
            if question.stage == (Stage::Asking { sent: false }) {
                question.stage = Stage::Asking { sent: true };
                let (namespace, name) = (question.sandbox.namespace.clone(), question.sandbox.name.clone());
                acts.push(Act::Ask { question: *number, namespace, name });
            }
        }
        acts
    }
}

fn is_named(pod: &Pod, sandbox: &Sandbox) -> bool {
    pod.is_named(&sandbox.namespace, &sandbox.name)
}

/// Whether a status is about what is wanted of the pod now, not about what was before.
fn is_fate_of(status: &PodStatus, member: &Member) -> bool {
    member.spec.as_ref().is_some_and(|spec| Arc::ptr_eq(spec, &status.spec))
}
