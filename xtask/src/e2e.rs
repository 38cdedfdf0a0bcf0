//! `cargo xtask e2e`: end-to-end tests that take too long, or need too much, for `cargo xtask test`.

use std::path::Path;

use anyhow::Result;
use mesh_e2e::kube::tools;
use mesh_e2e::topology;
use serde_json::{Value, json};

use crate::{cluster, kube, setup, test};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// What `cargo xtask test` runs, with other modes than the default ones where a case does not choose
    Lab {
        /// How pods of one node talk: `mtls`, `local` or `direct`
        #[arg(long, value_name = "MODE")]
        same_node: Option<String>,
        /// Which shard a connection gets: `core` or `spread`
        #[arg(long, value_name = "MODE")]
        steering: Option<String>,
        /// Only cases whose name contains one of these
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
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
        Suite::Lab { same_node, steering, filters } => {
            let mut tests = test::suite(root, "e2e")?;
            tests
                .env(topology::NODE_VARIABLE, modes(same_node.as_deref(), steering.as_deref()).to_string())
                .args(filters);
            test::run_suite("end-to-end tests", &mut tests)
        }
        Suite::Istio { filters } => {
            setup::provide_module(root, "h2", "python3-h2")?;
            let built = kube::build::ensure(root)?;
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

/// Fields of `node`.
fn modes(same_node: Option<&str>, steering: Option<&str>) -> Value {
    let same_node = same_node.map(|mode| ("same_node", json!({ "mode": mode })));
    let steering = steering.map(|mode| ("steering", json!(mode)));
    same_node.into_iter().chain(steering).map(|(name, value)| (name.to_owned(), value)).collect()
}
