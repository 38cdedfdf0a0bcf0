//! The node's configuration from one YAML file: read, checked as a whole, translated to the model, and watched.
//!
//! [`schema`] is what may be written, [`translate`] what it means, [`policy`] turns Kubernetes-shaped policies into the
//! form that the data path evaluates, [`service`] is about services, [`gateway`] is how gateways are
//! written and [`port`] how ports, [`problem`] is how mistakes are told, [`watch`] notices edits. A file with any
//! mistake is rejected whole: what is in force stays in force. [`environment`] makes the same document of the variables
//! by which Istio's node proxy is configured. [`given`] is what the command line says and the file leaves open.

pub mod duration;
pub mod environment;
mod gateway;
pub mod given;
mod pods;
mod policy;
mod port;
pub mod problem;
pub mod schema;
mod service;
mod translate;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Identity, PodSpec, World};
use given::Given;
use problem::{Problems, parse};

/// A configuration that was found good.
#[derive(Debug)]
pub struct Config {
    pub node: schema::Node,
    pub pods: Arc<Vec<Arc<PodSpec>>>,
    pub world: Arc<World>,
    /// Identities of this node's pods: those that need certificates here.
    pub identities: std::collections::HashSet<Identity>,
    /// What is probably not meant, each with its line.
    pub warnings: Vec<String>,
}

/// How the last reading of the file went, for `ctl status`.
#[derive(Clone, Debug)]
pub struct LoadState {
    pub path: PathBuf,
    /// When the file was last read.
    pub read: SystemTime,
    /// When what is in force was read.
    pub loaded: SystemTime,
    /// The file's problems, if what was last read was rejected.
    pub rejected: Option<Problems>,
}

impl LoadState {
    /// `path` has just been read and found good.
    pub fn good(path: &Path) -> Self {
        let now = SystemTime::now();
        Self { path: path.to_owned(), read: now, loaded: now, rejected: None }
    }
}

/// Reads and checks the file.
pub fn read(path: &Path, given: &Given) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(path).map_err(|error| Problems::unreadable(path, &error))?;
    let file: schema::NodeFile = parse(path, &given.fill(path, &text)?)?;
    translate::translate(path, file)
}
