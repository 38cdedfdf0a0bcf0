//! The end-to-end tests on a real Kubernetes cluster: `kube [--list] [FILTER...]`, as `cargo xtask e2e kube` runs it. The
//! runner is that of the other end-to-end tests.

#[allow(dead_code, unused_imports, reason = "the runner can do more than these cases ask of it")]
mod runner;

mod kube;

use std::process::ExitCode;

use runner::{Group, run};

const GROUPS: &[Group] = &[Group { name: "kube", cases: &[kube::CASES] }];

fn main() -> ExitCode {
    run(GROUPS)
}
