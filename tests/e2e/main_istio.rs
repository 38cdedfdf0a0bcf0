//! The end-to-end tests against a real istiod on a real API server: `istio [--list] [FILTER...]`, as `cargo xtask e2e
//! istio` runs it. The runner is that of the other end-to-end tests.

#[allow(dead_code, reason = "the runner can do more than these cases ask of it")]
mod runner;

mod istio;
#[allow(dead_code, reason = "shared with the other end-to-end tests, which ask more of it")]
#[path = "traffic/support.rs"]
mod support;

use std::process::ExitCode;

use runner::{Group, run};

const GROUPS: &[Group] = &[Group { name: "istio", cases: &[istio::CASES] }];

fn main() -> ExitCode {
    run(GROUPS)
}
