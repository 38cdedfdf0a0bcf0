//! The end-to-end tests: what the mesh promises, on the real kernel, with the real binary, in the lab.
//!
//! `e2e [--list] [FILTER...]` runs the cases whose `module/name` contains one of the filters (all, when there is none),
//! one after the other, and ends with one line that counts. There is no skipping: a machine without root or without the
//! tools that the lab needs fails. The agent is a black box here, found as [`mesh_e2e::binary`] says.
//!
//! | module | what its cases are about |
//! |---|---|
//! | [`traffic`] | bytes get through the mesh, and only through it, as they would without one |
//! | [`dns`] | names of the mesh and of others |
//! | [`policy`] | who is allowed, who is not, and when that changes |
//! | [`bypass`] | pods that are reached without the mesh and reach others by it |
//! | [`virtuals`] | virtual machines inside of pods |
//! | [`direct`] | connections of pods of a node that the kernel carries |
//! | [`gateways`] | ways through waypoints and other networks, with a real Envoy |
//! | [`peers`] | wrong peers and garbage |
//! | [`config`] | wrong files |
//! | [`lifecycle`] | enrolment and its end, restarts, crashes, idling |
//! | [`zds`] | pods that a CNI agent redirects and hands over |

mod bypass;
mod config;
mod direct;
mod dns;
mod gateways;
mod lifecycle;
mod peers;
mod policy;
#[allow(dead_code, reason = "shared with the slow end-to-end tests, which ask more of it")]
mod runner;
mod traffic;
mod virtuals;
mod zds;

use std::process::ExitCode;

use runner::{Group, run};

const GROUPS: &[Group] = &[
    Group { name: "traffic", cases: traffic::CASES },
    Group { name: "dns", cases: &[dns::CASES] },
    Group { name: "policy", cases: &[policy::CASES] },
    Group { name: "bypass", cases: &[bypass::CASES] },
    Group { name: "virtuals", cases: &[virtuals::CASES] },
    Group { name: "direct", cases: &[direct::CASES] },
    Group { name: "gateways", cases: gateways::CASES },
    Group { name: "peers", cases: &[peers::CASES] },
    Group { name: "config", cases: &[config::CASES] },
    Group { name: "lifecycle", cases: &[lifecycle::CASES] },
    Group { name: "zds", cases: &[zds::CASES] },
];

fn main() -> ExitCode {
    run(GROUPS)
}
