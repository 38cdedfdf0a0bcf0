//! Any sequence of events, and what must hold after each of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const UIDS: [&str; 3] = ["a", "b", "c"];
/// Sandboxes that each pod may have, one after the other.
const SANDBOXES: usize = 2;

#[derive(Clone, Debug)]
enum Event {
    /// For each pod how it stands, if the picture has it.
    Picture([Option<u8>; UIDS.len()]),
    Announce {
        pod: usize,
        sandbox: usize,
        with_uid: bool,
    },
    Delete {
        pod: usize,
        sandbox: usize,
        with_uid: bool,
    },
    Valid(usize),
    /// The API server answers its oldest question.
    Told {
        answer: u8,
    },
    /// The pass ends: which pods are found, and which are deserted.
    Looked {
        found: u8,
        sandbox: usize,
        deserted: u8,
    },
    /// The driver makes what it has what is wanted; enrolments fail for these.
    Drive {
        failing: u8,
    },
    /// The oldest write ends.
    Marked {
        well: bool,
    },
    Forget,
    Wait {
        tenths: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let (pod, sandbox) = (0..UIDS.len(), 0..SANDBOXES);
    let place = (pod, sandbox.clone(), any::<bool>());
    prop_oneof![
        3 => prop::array::uniform3(prop::option::weighted(0.8, 0u8..4)).prop_map(Event::Picture),
        3 => place.clone().prop_map(|(pod, sandbox, with_uid)| Event::Announce { pod, sandbox, with_uid }),
        1 => place.prop_map(|(pod, sandbox, with_uid)| Event::Delete { pod, sandbox, with_uid }),
        1 => (0..UIDS.len()).prop_map(Event::Valid),
        2 => (0u8..6).prop_map(|answer| Event::Told { answer }),
        2 => (any::<u8>(), sandbox, any::<u8>()).prop_map(|(found, sandbox, deserted)| Event::Looked { found, sandbox, deserted }),
        3 => any::<u8>().prop_map(|failing| Event::Drive { failing: failing & (failing >> 3) }),
        2 => any::<bool>().prop_map(|well| Event::Marked { well }),
        1 => Just(Event::Forget),
        3 => (1u8..60).prop_map(|tenths| Event::Wait { tenths }),
    ]
}

/// The world around the machine, and what it has said so far.
struct World {
    node: Node,
    namespaces: [Netns; UIDS.len() * SANDBOXES],
    shown: [Option<Standing>; UIDS.len()],
    /// What was proven of each pod.
    proven: BTreeSet<(usize, usize)>,
    questions: BTreeMap<Number, (usize, usize)>,
    asked: Vec<(Number, usize)>,
    /// Questions that do not tell the uid.
    nameless: BTreeSet<Number>,
    look: Option<Look>,
    driver: Vec<PodStatus>,
    writes: Vec<(usize, Option<&'static str>)>,
    /// As the API server has them.
    marks: [Option<&'static str>; UIDS.len()],
}

fn bit(bits: u8, number: usize) -> bool {
    bits >> number & 1 == 1
}

fn number(uid: &str) -> usize {
    UIDS.iter().position(|one| *one == uid).unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            node: Node::new(),
            namespaces: namespaces(),
            shown: [None; UIDS.len()],
            proven: BTreeSet::new(),
            questions: BTreeMap::new(),
            asked: Vec::new(),
            nameless: BTreeSet::new(),
            look: None,
            driver: Vec::new(),
            writes: Vec::new(),
            marks: [None; UIDS.len()],
        }
    }

    fn netns(&self, pod: usize, sandbox: usize) -> Netns {
        self.namespaces[pod * SANDBOXES + sandbox].clone()
    }

    fn pod(&self, number: usize, standing: Standing) -> Pod {
        Pod { mark: self.marks[number].map(str::to_owned), ..pod(UIDS[number], standing) }
    }

    fn happen(&mut self, event: Event) {
        let now = self.node.now;
        let members = &mut self.node.members;
        match event {
            Event::Picture(standings) => {
                let of = |kind| [MEMBER, MEMBER, UNLABELLED, ENDED][usize::from(kind)];
                self.shown = standings.map(|kind| kind.map(of));
                let pods =
                    self.shown.iter().enumerate().filter_map(|(pod, standing)| Some(self.pod(pod, (*standing)?)));
                let pods = pods.map(|pod| (Arc::clone(&pod.uid), Arc::new(pod))).collect();
                self.node.members.picture(&Picture { pods });
            }
            Event::Announce { pod, sandbox, with_uid } => {
                let told = super::sandbox(UIDS[pod], &format!("{pod}-{sandbox}"));
                let told = if with_uid { told } else { Sandbox { uid: None, ..told } };
                let netns = self.netns(pod, sandbox);
                self.proven.insert((pod, sandbox));
                self.node.last += 1;
                self.questions.insert(Number(self.node.last), (pod, sandbox));
                if !with_uid {
                    self.nameless.insert(Number(self.node.last));
                }
                self.node.members.announced(Number(self.node.last), told, netns, now);
            }
            Event::Delete { pod, sandbox, with_uid } => {
                members.deleted(&format!("{pod}-{sandbox}"), with_uid.then_some(UIDS[pod]), now);
            }
            Event::Valid(pod) => members.valid(&[format!("{pod}-0")]),
            Event::Told { answer } if !self.asked.is_empty() => {
                let (number, of) = self.asked.remove(0);
                let result = match answer {
                    0 => Err("away".to_owned()),
                    1 => Ok(None),
                    2 => Ok(Some(self.pod(of, UNLABELLED))),
                    3 if !self.nameless.contains(&number) => {
                        Ok(Some(Pod { uid: "another".into(), ..self.pod(of, MEMBER) }))
                    }
                    _ => Ok(Some(self.pod(of, MEMBER))),
                };
                self.node.members.told(number, result);
            }
            Event::Looked { found, sandbox, deserted } => self.looked(found, sandbox, deserted),
            Event::Drive { failing } => self.drive(failing),
            Event::Marked { well } if !self.writes.is_empty() => {
                let (pod, mark) = self.writes.remove(0);
                if well {
                    self.marks[pod] = mark;
                }
                members.marked(UIDS[pod], if well { Ok(()) } else { Err("no".to_owned()) }, now);
            }
            Event::Forget => {
                if let Some((number, _)) = self.questions.pop_first() {
                    members.forget(number);
                }
            }
            Event::Wait { tenths } => self.node.now += Duration::from_millis(100) * u32::from(tenths),
            Event::Told { .. } | Event::Marked { .. } => {}
        }
    }

    fn looked(&mut self, found: u8, sandbox: usize, deserted: u8) {
        let Some(look) = self.look.take() else { return };
        let pods = look.pods.iter().map(|sought| {
            let pod = number(&sought.uid);
            let result = if bit(found, pod) {
                self.proven.insert((pod, sandbox));
                Ok(place(&self.netns(pod, sandbox)))
            } else {
                Err("not there".to_owned())
            };
            (Arc::clone(&sought.uid), result)
        });
        let pods = pods.collect();
        let deserted =
            look.deserted.iter().filter(|(uid, _)| bit(deserted, number(uid))).map(|(uid, _)| Arc::clone(uid));
        self.node.members.looked(Found { pods, deserted: deserted.collect() }, self.node.now);
    }

    fn drive(&mut self, failing: u8) {
        let wanted = self.node.members.wanted();
        let ended = self.node.members.ended();
        let leaving = |status: &&PodStatus| {
            let uid = &status.spec.uid;
            status.state.is_captured() && !ended.contains(uid) && wanted.iter().all(|spec| spec.uid != *uid)
        };
        let mut after: Vec<_> = self.driver.iter().filter(leaving).cloned().collect();
        after.iter_mut().for_each(|status| status.state = PodState::Draining);
        after.extend(wanted.into_iter().map(|spec| {
            let fails = bit(failing, number(&spec.uid));
            let state = if fails { PodState::Failed("no".to_owned()) } else { PodState::Enrolled };
            PodStatus { spec, state }
        }));
        self.node.members.statuses(&after);
        self.driver = after;
    }

    fn captured(&self, pod: usize) -> Option<Netns> {
        let status = self.driver.iter().find(|status| *status.spec.uid == *UIDS[pod])?;
        status.state.is_captured().then(|| netns(&status.spec))
    }

    /// Takes what is to be done, and looks whether it may be.
    fn act(&mut self) -> Result<(), TestCaseError> {
        for act in self.node.acts() {
            match act {
                Act::Ask { question, .. } => {
                    let (pod, _) = self.questions[&question];
                    self.asked.push((question, pod));
                }
                Act::Look(look) => prop_assert!(self.look.replace(look).is_none(), "one pass at a time"),
                Act::Mark { pod, mark } => {
                    let pod = number(&pod.uid);
                    prop_assert!(self.writes.iter().all(|(other, _)| *other != pod), "one write at a time");
                    prop_assert_ne!(self.marks[pod], mark, "it is written because it is different");
                    match mark {
                        Some(ENABLED) => prop_assert!(self.captured(pod).is_some()),
                        Some(_) => {
                            let wanted = self.node.members.wanted();
                            let here = |status: &PodStatus| {
                                wanted.iter().any(|spec| spec.uid == status.spec.uid && spec.netns == status.spec.netns)
                            };
                            let mut captured =
                                self.driver.iter().filter(|status| status.state.is_captured() && here(status));
                            prop_assert!(captured.all(|status| *status.spec.uid != *UIDS[pod]));
                        }
                        None => prop_assert!(matches!(self.shown[pod], Some(Standing::Outside(_)))),
                    }
                    self.writes.push((pod, mark));
                }
                Act::Missed { pod, .. } => {
                    let pod = number(&pod.uid);
                    prop_assert!(self.questions.values().all(|(asked, _)| *asked != pod), "it is being announced");
                }
                Act::Answer { question, answer } => {
                    let Some((pod, sandbox)) = self.questions.remove(&question) else {
                        return Err(TestCaseError::fail(format!("{question:?} was answered or forgotten before")));
                    };
                    if answer == Answer::Member {
                        prop_assert_eq!(self.captured(pod), Some(self.netns(pod, sandbox)));
                    }
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let wanted = self.node.wanted();
        let uids: BTreeSet<_> = wanted.iter().map(|(uid, _)| uid.clone()).collect();
        prop_assert_eq!(uids.len(), wanted.len(), "no pod is in two namespaces");
        for (uid, netns) in &wanted {
            let pod = number(uid);
            let proven = (0..SANDBOXES)
                .any(|sandbox| self.proven.contains(&(pod, sandbox)) && self.netns(pod, sandbox) == *netns);
            prop_assert!(proven, "{uid}");
            let outside = matches!(self.shown[pod], Some(Standing::Outside(reason)) if reason != Outside::Ended);
            prop_assert!(!outside, "{uid}");
            prop_assert!(!self.node.members.ended().contains(&**uid), "{uid}");
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_happens(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
            world.act()?;
            world.check()?;
        }
        world.happen(Event::Wait { tenths: 201 });
        world.act()?;
        prop_assert!(world.questions.is_empty(), "every question is answered");
        // With everything in order, what is a member is captured and marked, and nothing else is.
        for _ in 0..160 {
            for event in [
                Event::Picture([Some(0), Some(2), None]),
                Event::Looked { found: 255, sandbox: 0, deserted: !1 },
                Event::Drive { failing: 0 },
                Event::Marked { well: true },
                Event::Told { answer: 1 },
                Event::Wait { tenths: 7 },
            ] {
                world.happen(event);
                world.act()?;
                world.check()?;
            }
        }
        prop_assert_eq!(world.node.wanted().into_iter().map(|(uid, _)| uid).collect::<Vec<_>>(), ["a"]);
        prop_assert_eq!((world.marks[0], world.marks[1]), (Some(ENABLED), None));
        prop_assert!(world.node.members.ended().is_empty());
        let quiet = world.node.after(Duration::from_millis(1));
        prop_assert_eq!(quiet, [], "and there is nothing left to do");
    }
}
