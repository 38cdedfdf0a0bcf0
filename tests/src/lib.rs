//! The lab: nodes and pods as network namespaces on this machine, with the real agent and authority running in them.
//!
//! A [`Lab`] is started from a [`Topology`] and is gone when it is dropped. What the mesh knows of it is a [`World`],
//! which is written as each node's YAML file and can be changed while everything runs:
//!
//! ```no_run
//! use std::time::Duration;
//! use mesh_e2e::{Lab, Pod, Service, Topology};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::start(
//!     Topology::new()
//!         .pod(Pod::new("client", "n1"))
//!         .pod(Pod::new("server", "n2").label("app", "server"))
//!         .service(Service::new("web").port(80, 8080).selects("app", "server")),
//! )?;
//! let _echo = lab.pod("server").echo(8080)?;
//! let stream = lab.pod("client").connect(lab.vip4("web", 80))?;
//! lab.publish(|world| world.authorize("- {name: nobody, action: DENY, rules: [{}]}"))?;
//! lab.agent("n2").log().wait(Duration::from_secs(1), |line| line.error().contains("policy"))?;
//! # drop(stream);
//! # Ok(())
//! # }
//! ```
//!
//! Everything is made with iproute2 and needs root; without it starting a lab fails and says so. Nothing is changed in
//! the machine's own network namespace. The agent is a black box: its binary, its YAML file, its log and its pages.
//!
//! | module | what |
//! |---|---|
//! | [`topology`] | what a lab is made of |
//! | [`world`] | what the mesh is told, as YAML |
//! | [`lab`], [`place`] | the running lab, its nodes and pods |
//! | [`namespace`] | running closures and programs inside a pod or node |
//! | [`agent`], [`authority`], [`process`], [`log`], [`documents`], [`discovery`] | the processes and what they say |
//! | [`server`], [`socket`], [`nginx`] | servers and clients for pods |
//! | [`envoy`] | a real Envoy as a waypoint or as the gateway of a network |
//! | [`attach`] | agents for namespaces that someone else has made |
//! | [`zds`] | a CNI agent that hands pods over to the nodes' agents, and the rules it keeps in them |
//! | [`wire`] | what crosses a link |
//! | [`kube`](mod@kube) | a Kubernetes API and an istiod for the lab |
//! | [`sweep`] | removing labs, also those whose process was killed |

pub mod agent;
pub mod attach;
pub mod authority;
pub mod binary;
mod cgroup;
pub mod discovery;
pub mod documents;
pub mod envoy;
pub mod eventually;
mod http;
pub mod kube;
pub mod lab;
pub mod log;
pub mod namespace;
pub mod nginx;
pub mod place;
pub mod process;
pub mod server;
pub mod socket;
pub mod sweep;
pub mod topology;
pub mod wire;
mod wiring;
pub mod world;
pub mod zds;

pub use agent::Agent;
pub use envoy::Envoy;
pub use eventually::eventually;
pub use kube::Kube;
pub use lab::{Lab, require_root};
pub use log::{Line, Log};
pub use namespace::Namespace;
pub use nginx::Nginx;
pub use place::{Node, RunningPod};
pub use process::Process;
pub use server::Server;
pub use topology::{Membership, Pod, Service, Topology};
pub use wire::{Capture, Packet, Wire};
pub use world::World;
