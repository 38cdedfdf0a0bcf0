//! The pods as Kubernetes has them: the API server, the plugin that announces new ones, and what is made of both.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::{mpsc, oneshot, watch};

use super::pods::mark;
use crate::admin::ready::Gate;
use crate::cni::install::{self, Installer};
use crate::cni::{self, Answer, Asked, Request};
use crate::file::schema::{Cni, Kubernetes, Node};
use crate::kubernetes::{Api, Link, Picture, Settings};
use crate::model::PodSpec;
use crate::model::pod::PodStatus;
use crate::pods::find::Places;
use crate::pods::members::{Remark, What};
use crate::pods::source::{self, Inputs, Outputs, Source};
use crate::task::Tasks;
use crate::telemetry::announced::Announced;
use crate::zds::Pods;

/// The name in the run directory of the socket on which the plugin asks.
pub(super) const SOCKET: &str = "cni.sock";
/// How long an uninstallation waits for the list of pods.
const LISTED: Duration = Duration::from_secs(20);
/// How long pods that cannot be captured keep the node from being ready.
const SETTLED: Duration = Duration::from_secs(20);
const SEEN: Duration = Duration::from_millis(100);
/// Questions that are being timed; more wait in their connections.
const WAITING: usize = 16;

/// What the pages read.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) link: watch::Receiver<Link>,
    pub(super) remarks: watch::Receiver<Arc<Vec<Remark>>>,
    pub(super) installer: Option<Installer>,
    pub(super) standing: Option<watch::Receiver<install::Standing>>,
}

/// The source of the pods, to be run when there is somebody to serve them.
pub(super) struct Cluster {
    source: Source<Api>,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
    pub(super) outputs: Outputs,
    pub(super) view: View,
}

/// Starts the watch, and the plugin's service where it is wanted. `statuses` says how the pods fare that the source wants,
/// `former` are those that a former agent left.
pub(super) fn start(
    (node, cluster): (&Node, &Kubernetes),
    announced: &Announced,
    statuses: watch::Receiver<Vec<PodStatus>>,
    former: Vec<PodSpec>,
    tasks: &Tasks,
) -> anyhow::Result<Cluster> {
    let api = Api::connect(&settings(node, cluster)).context("node.kubernetes")?;
    let watched = api.watch(tasks);
    let (asked, installer) = match &node.cni {
        None => (None, None),
        Some(cni) => {
            let socket = node.run_dir.join(SOCKET);
            let asked = cni::serve(&socket, tasks).with_context(|| socket.display().to_string())?;
            (Some(timed(asked, announced.clone(), tasks)), Some(installer(node, cni)))
        }
    };
    let standing = installer.as_ref().map(|installer| installer.keep(tasks));
    let pictures = watched.pictures.clone();
    let announced = announced.clone();
    let inputs = Inputs { cluster: api, pictures: watched.pictures, asked, statuses, former, announced };
    let places = Places { proc: cluster.proc.clone(), netns: cluster.netns.clone() };
    let (source, outputs) = Source::new(inputs, source::Settings { places, addresses: node.addresses.clone() });
    let view = View { link: watched.link, remarks: outputs.remarks.clone(), installer, standing };
    Ok(Cluster { source, pictures, outputs, view })
}

impl Cluster {
    /// Runs the source. `gate` is marked when the pods that ran at the start are captured.
    pub(super) fn open(self, gate: Gate, statuses: watch::Receiver<Vec<PodStatus>>, tasks: &Tasks) -> Pods {
        tasks.spawn(self.source.run());
        let (mut pictures, wanted, remarks) = (self.pictures, self.outputs.pods.clone(), self.outputs.remarks);
        tasks.spawn(async move {
            if pictures.wait_for(Option::is_some).await.is_ok() {
                settled(wanted, remarks, statuses).await;
                mark(gate).await;
            }
        });
        self.outputs.pods
    }
}

/// Waits until all that is wanted is captured. A pod that cannot be found holds up the node for some time only: others of
/// the node are served.
async fn settled(
    mut wanted: Pods,
    mut remarks: watch::Receiver<Arc<Vec<Remark>>>,
    mut statuses: watch::Receiver<Vec<PodStatus>>,
) {
    let captured = async {
        loop {
            let pods = Arc::clone(&wanted.borrow_and_update());
            let sought = remarks.borrow_and_update().iter().any(|remark| matches!(remark.what, What::Sought(_)));
            let served = {
                let statuses = statuses.borrow_and_update();
                let is = |spec: &Arc<PodSpec>| {
                    statuses.iter().any(|pod| pod.spec.uid == spec.uid && pod.state.is_captured())
                };
                pods.iter().all(is)
            };
            if served && !sought {
                return;
            }
            tokio::select! {
                Ok(()) = wanted.changed() => {}
                Ok(()) = remarks.changed() => {}
                Ok(()) = statuses.changed() => {}
                else => return,
            }
        }
    };
    // The source sees the picture a moment later than we do.
    tokio::time::sleep(SEEN).await;
    if tokio::time::timeout(SETTLED, captured).await.is_err() {
        tracing::warn!("not all pods are captured yet; the node is ready for others");
    }
}

fn settings(node: &Node, cluster: &Kubernetes) -> Settings {
    Settings {
        address: cluster.address.clone(),
        root: cluster.root.clone(),
        token: cluster.token.clone(),
        node: node.name.clone(),
        excluded_namespaces: cluster.excluded_namespaces.clone(),
    }
}

/// What keeps the plugin on the node.
pub(super) fn installer(node: &Node, cni: &Cni) -> Installer {
    let seen: &Path = cni.run_dir.as_ref().unwrap_or(&node.run_dir);
    Installer::new(install::Settings {
        programs: cni.programs.clone(),
        networks: cni.networks.clone(),
        network: cni.network.clone(),
        socket: seen.join(SOCKET),
        excluded_namespaces: node.kubernetes.iter().flat_map(|one| one.excluded_namespaces.clone()).collect(),
    })
}

/// Passes the plugin's questions on, and notes how long those about new pods took to be answered.
fn timed(mut asked: mpsc::Receiver<Asked>, announced: Announced, tasks: &Tasks) -> mpsc::Receiver<Asked> {
    let (door, questions) = mpsc::channel(WAITING);
    let own = tasks.clone();
    tasks.spawn(async move {
        while let Some(Asked { request, reply }) = asked.recv().await {
            if !matches!(request, Request::Add(_)) {
                if door.send(Asked { request, reply }).await.is_err() {
                    return;
                }
                continue;
            }
            let (inner, answer) = oneshot::channel();
            if door.send(Asked { request, reply: inner }).await.is_err() {
                return;
            }
            own.spawn(answered(reply, answer, announced.clone()));
        }
    });
    questions
}

async fn answered(mut reply: oneshot::Sender<Answer>, answer: oneshot::Receiver<Answer>, announced: Announced) {
    let start = Instant::now();
    tokio::select! {
        answer = answer => {
            if let Ok(answer) = answer {
                announced.answered(start.elapsed());
                // The runtime may have given up.
                reply.send(answer).ok();
            }
        }
        // Dropping the other end tells who works on the answer.
        () = reply.closed() => {}
    }
}

/// Takes the annotation from all pods of the node.
pub(super) async fn unmark(node: &Node, cluster: &Kubernetes, tasks: &Tasks) -> anyhow::Result<()> {
    let api = Api::connect(&settings(node, cluster))?;
    let mut watched = api.watch(tasks);
    let listed = tokio::time::timeout(LISTED, watched.pictures.wait_for(Option::is_some)).await;
    let picture = match listed {
        Ok(Ok(picture)) => picture.clone().unwrap_or_default(),
        Ok(Err(_)) | Err(_) => {
            let error = watched.link.borrow().last_error.clone().map(|(_, error)| error);
            bail!("the pods are not known: {}", error.unwrap_or_else(|| "the API server does not answer".to_owned()))
        }
    };
    for pod in picture.pods.values().filter(|pod| pod.mark.is_some()) {
        api.mark(pod, None).await.with_context(|| format!("{}/{}", pod.namespace, pod.name))?;
    }
    Ok(())
}
