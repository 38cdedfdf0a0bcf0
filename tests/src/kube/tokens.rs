//! The agents' own tokens, as the kubelet would put them into their pods: bound to the pod, for istiod alone, renewed
//! in time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::istiod::NAMESPACE;
use super::kubectl::Kubectl;
use super::objects::{ACCOUNT, agent_name};
use crate::authority::replace;

/// Whom the token is for.
const AUDIENCE: &str = "istio-ca";
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// A token file for each node. A thread renews them until this is dropped.
#[derive(Debug)]
pub(super) struct Tokens {
    kubectl: Kubectl,
    directory: PathBuf,
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

impl Tokens {
    /// Writes the first tokens of `nodes`, whose agents' pods are there.
    pub(super) fn start(kubectl: &Kubectl, directory: PathBuf, nodes: &[&str]) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let mut tokens = Self { kubectl: kubectl.clone(), directory, stop: None, renewing: None };
        nodes.iter().try_for_each(|node| tokens.renew(node))?;
        let (stop, stopped) = channel();
        let (kubectl, directory) = (tokens.kubectl.clone(), tokens.directory.clone());
        let nodes: Vec<String> = nodes.iter().map(|node| (*node).to_owned()).collect();
        let renew = move || {
            while stopped.recv_timeout(LIFETIME / 2) == Err(RecvTimeoutError::Timeout) {
                for node in &nodes {
                    if let Err(error) = write(&kubectl, &directory, node) {
                        eprintln!("the token of {node} is not renewed: {error:#}");
                    }
                }
            }
        };
        tokens.renewing = Some(Builder::new().name("tokens".to_owned()).spawn(renew).context("starting a thread")?);
        tokens.stop = Some(stop);
        Ok(tokens)
    }

    /// The token's file.
    pub(super) fn file(&self, node: &str) -> PathBuf {
        file(&self.directory, node)
    }

    /// Another token in the file, now.
    pub(super) fn renew(&self, node: &str) -> Result<()> {
        write(&self.kubectl, &self.directory, node)
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            renewing.join().ok();
        }
    }
}

fn file(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("{node}.token"))
}

/// Asks for a token by the TokenRequest API.
fn write(kubectl: &Kubectl, directory: &Path, node: &str) -> Result<()> {
    let token = create(kubectl, ACCOUNT, Some(&agent_name(node)), AUDIENCE)?;
    replace(&file(directory, node), &token)
}

/// A token of a service account of istiod's namespace, bound to a pod or to nothing.
pub(super) fn create(kubectl: &Kubectl, account: &str, pod: Option<&str>, audience: &str) -> Result<String> {
    let lifetime = format!("{}s", LIFETIME.as_secs());
    let mut arguments = vec!["create", "token", account, "--namespace", NAMESPACE];
    arguments.extend(["--audience", audience, "--duration", &lifetime]);
    if let Some(pod) = pod {
        arguments.extend(["--bound-object-kind=Pod", "--bound-object-name", pod]);
    }
    kubectl.run(arguments)
}
