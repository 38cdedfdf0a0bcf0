//! Which of the node's pods are to be captured, and where they are. A state machine without I/O: pictures of the API server,
//! announcements of the CNI plugin, namespaces that were found and the driver's statuses go in; what the driver is to want,
//! what is to be looked for, asked, answered and written come out.
//!
//! A pod is wanted when the API server says that it is a member and its namespace is known: announced by the runtime, found
//! by the pod's processes, or remembered by a former agent. What is wanted stays wanted until the pod is not a member any
//! more, or has left its namespace: a pod whose object was deleted goes on as long as its processes do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use self::member::Probers;
use self::member::{Entry, Known, Member, Site};
pub use self::questions::Number;
use self::questions::{Question, Questions};
pub use self::remarks::{Remark, What};
use super::find::{Found, Look, Sought};
use crate::cni::Answer;
use crate::kubernetes::{Picture, Pod, Standing};
use crate::model::pod::PodStatus;
use crate::model::{Older, PodSpec};

mod backoff;
mod marks;
mod member;
mod questions;
mod remarks;

/// Whether the runtime announces new pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    Present,
    Absent,
}

/// Something to be done; how it went is told to [`Members`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// What is this pod?
    Ask {
        question: Number,
        namespace: String,
        name: String,
    },
    /// One at a time.
    Look(Look),
    /// One at a time for each pod.
    Mark {
        pod: Arc<Pod>,
        mark: Option<&'static str>,
    },
    Answer {
        question: Number,
        answer: Answer,
    },
    /// Tell that a pod which had to be announced was not, and how many bytes its interface has carried until now. Its
    /// connections are cut.
    Missed {
        pod: Arc<Pod>,
        bytes: u64,
    },
}

/// How long a pod that has ended is told as such, if the driver does not show it.
const ENDED: Duration = Duration::from_secs(60);

/// All that is known of the node's pods.
#[derive(Debug)]
pub struct Members {
    probers: Probers,
    plugin: Plugin,
    pods: BTreeMap<Arc<str>, Member>,
    questions: Questions,
    statuses: BTreeMap<Arc<str>, PodStatus>,
    ended: BTreeMap<Arc<str>, Instant>,
    looking: Option<Look>,
    /// Pods that were announced and were no members then.
    outsiders: BTreeMap<Arc<str>, Instant>,
    /// There was a picture.
    pictured: bool,
    /// What is to be said when there is time.
    answers: Vec<Act>,
}

impl Members {
    /// `former`: pods that a former agent left enrolled.
    pub fn new(probers: Probers, plugin: Plugin, former: Vec<Arc<PodSpec>>, now: Instant) -> Self {
        let members = former.into_iter().filter_map(|spec| Member::remembered(spec, now));
        let pods = members.map(|member| (Arc::clone(&member.pod.uid), member)).collect();
        Self {
            probers,
            plugin,
            pods,
            questions: Questions::new(),
            statuses: BTreeMap::new(),
            ended: BTreeMap::new(),
            looking: None,
            outsiders: BTreeMap::new(),
            pictured: false,
            answers: Vec::new(),
        }
    }

    /// The API server's pods of this node, all of them.
    pub fn picture(&mut self, picture: &Picture) {
        for (uid, pod) in &picture.pods {
            let born = self.pictured
                && self.plugin == Plugin::Present
                && pod.standing == Standing::Member
                && !self.outsiders.contains_key(uid);
            let entry = if born { Entry::Born } else { Entry::Later };
            let new = || Member::new(Arc::clone(pod), Known::Pictured).entering(entry);
            let member = self.pods.entry(Arc::clone(uid)).or_insert_with(new);
            if !member.is_usurped(pod) {
                member.update(pod, Known::Pictured, &self.probers);
            }
        }
        self.pictured = true;
        let shown = |member: &Member| picture.pods.get(&member.pod.uid).is_some_and(|pod| !member.is_usurped(pod));
        for member in self.pods.values_mut().filter(|member| !shown(member)) {
            // One that was only asked for may be too new for this picture.
            if member.known != Known::Told {
                member.known = Known::Gone;
            }
        }
    }

    /// A sandbox is about to be removed.
    pub fn deleted(&mut self, container: &str, uid: Option<&str>, now: Instant) {
        let named = |site: &Site| site.container.as_deref() == Some(container);
        let named = self.pods.values().find(|member| member.site.as_ref().is_some_and(named));
        if let Some(uid) = named.map(|member| Arc::clone(&member.pod.uid)) {
            return self.end(&uid, now);
        }
        // A namespace that was found may be the sandbox's; one that was announced is another one's.
        if let Some(member) = uid.and_then(|uid| self.pods.get_mut(uid)) {
            member.doubt(|site| site.container.is_none());
        }
    }

    /// All sandboxes that there are.
    pub fn valid(&mut self, containers: &[String]) {
        let gone = |site: &Site| site.container.as_ref().is_some_and(|container| !containers.contains(container));
        for member in self.pods.values_mut() {
            member.doubt(gone);
        }
    }

    /// How the pods fare that the driver has.
    pub fn statuses(&mut self, statuses: &[PodStatus]) {
        self.statuses = statuses.iter().map(|status| (Arc::clone(&status.spec.uid), status.clone())).collect();
        for member in self.pods.values_mut().filter(|member| !member.belongs) {
            // Until then its connections may have to be cut.
            if !self.statuses.contains_key(&member.pod.uid) {
                member.site = None;
            }
        }
    }

    /// The result of [`Act::Look`].
    pub fn looked(&mut self, found: Found, now: Instant) {
        let Some(look) = self.looking.take() else { return };
        for (uid, result) in found.pods {
            let Some(member) = self.pods.get_mut(&uid).filter(|member| member.is_sought()) else { continue };
            match result {
                Ok(place) => {
                    let missed = member.entry == Entry::Born
                        && !self.questions.values().any(|question| question.is_about(&member.pod));
                    let older = if missed { Older::Cut } else { Older::LeftAlone };
                    if missed {
                        self.answers.push(Act::Missed { pod: Arc::clone(&member.pod), bytes: place.carried });
                    }
                    member.settle(Site::found(place, Vec::new(), older, now), &self.probers);
                }
                Err(error) => {
                    member.lost = Some(error);
                    member.search.failed(now);
                }
            }
        }
        for (uid, netns) in look.deserted {
            let there = |member: &&mut Member| member.site.as_ref().is_some_and(|site| site.place.netns == netns);
            let Some(member) = self.pods.get_mut(&uid).filter(there) else { continue };
            if found.deserted.contains(&uid) {
                self.end(&uid, now);
            } else {
                member.lives(now);
            }
        }
    }

    /// A pod has left its namespace: nothing of it is to be waited for.
    fn end(&mut self, uid: &Arc<str>, now: Instant) {
        if let Some(member) = self.pods.get_mut(uid) {
            member.leave(now);
            self.ended.insert(Arc::clone(uid), now);
        }
    }

    /// The result of [`Act::Mark`].
    pub fn marked(&mut self, uid: &str, result: Result<(), String>, now: Instant) {
        if let Some(member) = self.pods.get_mut(uid) {
            member.marking.wrote(result, now);
        }
    }

    /// All that is to be done now.
    pub fn acts(&mut self, now: Instant) -> Vec<Act> {
        self.prune(now);
        self.answer_all(now);
        let mut acts = std::mem::take(&mut self.answers);
        acts.extend(self.asks());
        acts.extend(self.look(now).map(Act::Look));
        for (uid, member) in &mut self.pods {
            member.see(self.statuses.get(uid), now);
            let wish = member.wish(now);
            let mark = member.marking.write(wish, now);
            acts.extend(mark.map(|mark| Act::Mark { pod: Arc::clone(&member.pod), mark }));
        }
        acts
    }

    /// Forgets what nothing is left of.
    fn prune(&mut self, now: Instant) {
        let left = |_: &Arc<str>, member: &mut Member| {
            member.known == Known::Gone && member.site.is_none() && !member.marking.is_writing()
        };
        for (uid, _) in self.pods.extract_if(.., left) {
            // What is leaving need not be waited for any more.
            if self.statuses.contains_key(&uid) {
                self.ended.entry(uid).or_insert(now);
            }
        }
        let (pods, statuses) = (&self.pods, &self.statuses);
        let is_wanted = |uid: &Arc<str>| pods.get(uid).is_some_and(|member| member.spec.is_some());
        self.outsiders.retain(|_, at| now < *at + ENDED);
        self.ended.retain(|uid, at| !is_wanted(uid) && (statuses.contains_key(uid) || now < *at + ENDED));
    }

    fn look(&mut self, now: Instant) -> Option<Look> {
        if self.looking.is_some() {
            return None;
        }
        let mut look = Look::default();
        for (uid, member) in &self.pods {
            if member.is_sought() && member.search.is_due(now) {
                look.pods.push(Sought { uid: Arc::clone(uid), addresses: member.pod.addresses.clone() });
            }
            if let Some(site) = member.site.as_ref().filter(|_| member.check(self.plugin).is_some_and(|at| at <= now)) {
                look.deserted.push((Arc::clone(uid), site.place.netns.clone()));
            }
        }
        if look.pods.is_empty() && look.deserted.is_empty() {
            return None;
        }
        self.looking = Some(look.clone());
        Some(look)
    }

    /// When there may be something to do without any news.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let looks =
            self.pods.values().filter(|_| self.looking.is_none()).flat_map(move |member| {
                [member.search.next().filter(|_| member.is_sought()), member.check(self.plugin)]
            });
        let marks = self.pods.values().flat_map(|member| [member.patience(), member.marking.next()]);
        // What was due has been done, or waits for news.
        let later = looks.chain(marks).flatten().filter(|at| *at > now);
        later.chain(self.questions.values().map(Question::deadline)).min()
    }

    /// The pods to capture, sorted by uid. One that has not changed is the same `Arc` as before, unless somebody waits to
    /// hear of it.
    pub fn wanted(&self) -> Vec<Arc<PodSpec>> {
        self.pods.values().filter_map(|member| member.spec.clone()).collect()
    }

    /// The pods of which nothing runs any more.
    pub fn ended(&self) -> BTreeSet<Arc<str>> {
        self.ended.keys().cloned().collect()
    }

    pub fn remarks(&self) -> Vec<Remark> {
        self.pods.values().flat_map(remarks::of).collect()
    }
}

#[cfg(test)]
mod tests;
