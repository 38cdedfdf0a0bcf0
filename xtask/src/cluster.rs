//! `cargo xtask cluster`: a real Kubernetes cluster of two nodes on this machine, kept running to play with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{kube, setup};

mod play;

/// What its nodes run that is not built here.
const PROGRAMS: [(&str, &str); 4] =
    [("containerd", "containerd"), ("runc", "runc"), ("busybox", "busybox-static"), ("conntrack", "conntrack")];
/// And what has no program on the path.
const PLUGINS: (&str, &str) = ("/usr/lib/cni/bridge", "containernetworking-plugins");

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Build or install all that it is made of, as far as that is not done
    Build,
    /// Start it, and leave it running
    Up(Up),
    /// Stop and remove it
    Down,
    /// What runs, nodes and pods
    Status,
    /// Run kubectl as an administrator
    Kubectl {
        /// Its arguments
        #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a command on a node
    Exec {
        #[arg(value_name = "NODE")]
        node: String,
        /// The command and its arguments
        #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Make an image of files, or take an archive, and make it known to all nodes
    Import(Import),
    /// Hold what `up` started
    #[command(hide = true)]
    Hold {
        /// The agent's program, for the mesh
        #[arg(long)]
        agent: Option<PathBuf>,
    },
}

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
struct Up {
    /// With the mesh on all nodes, and a shop of three services that can be put into it
    #[arg(long)]
    mesh: bool,
}

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
struct Import {
    /// The image's name with its tag, such as localhost/lab/agent:1
    #[arg(value_name = "NAME")]
    name: String,
    /// A folder that becomes the image's root; an archive, as `docker save` writes it, which has a name of its own; or a
    /// static program, which becomes the image's only file and its entry point
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// What its containers run, when PATH is a folder
    #[arg(value_name = "WORD", last = true)]
    entrypoint: Vec<String>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Build => build(root).map(drop),
        Verb::Up(up) => play::up(root, up),
        Verb::Down => play::down(),
        Verb::Status => play::status(),
        Verb::Kubectl { arguments } => play::kubectl(arguments),
        Verb::Exec { node, command } => play::exec(node, command),
        Verb::Import(import) => play::import(import),
        Verb::Hold { agent } => play::hold(root, agent.as_deref()),
    }
}

/// Gives the folder of the programs.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    setup::provide(root, &PROGRAMS)?;
    if !Path::new(PLUGINS.0).exists() {
        setup::install(root, &[PLUGINS.1])?;
    }
    kube::build::ensure(root)
}
