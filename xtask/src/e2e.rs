//! `cargo xtask e2e`: end-to-end tests that take too long, or need too much, for `cargo xtask test`.

use std::path::Path;

use anyhow::Result;
use mesh_e2e::kube::tools;

use crate::{cluster, kube, setup, test};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// Against a real istiod on a real API server
    Istio {
        /// Only cases whose name contains one of these; cases of many minutes run only when this is their whole name
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// On a real Kubernetes cluster of two nodes
    Kube {
        /// Only cases whose name contains one of these
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.suite {
        Suite::Istio { filters } => {
            let built = kube::build::ensure(root)?;
            setup::provide_module(root, "h2", "python3-h2")?;
            let mut tests = test::suite(root, "istio")?;
            tests.env(tools::VARIABLE, built).args(filters);
            test::run_suite("end-to-end tests against istiod", &mut tests)
        }
        Suite::Kube { filters } => {
            let built = cluster::build(root)?;
            let mut tests = test::suite(root, "kube")?;
            tests.env(tools::VARIABLE, built).args(filters);
            test::run_suite("end-to-end tests on a Kubernetes cluster", &mut tests)
        }
    }
}
