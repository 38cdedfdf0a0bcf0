//! A subscription to what istiod says, by a client of delta xDS that is not the agent's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::stream;
use mesh_e2e::discovery::{
    ADDRESS, AUTHORIZATION, Address, Authorization, METHOD, Node, Request, Resource, Response, Service, Workload,
};
use mesh_e2e::kube::istiod::{CLUSTER, NAMESPACE};
use mesh_e2e::{Lab, eventually};
use prost::Message;
use prost_types::{Struct, Value};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::grpc::{Door, runtime, signed};

/// What istiod has said so far.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) workloads: BTreeMap<String, Workload>,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) authorizations: BTreeMap<String, Authorization>,
    /// Why the stream ended, once it has.
    ended: Option<String>,
}

/// A stream from a node, on a thread of its own until this is dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    view: Arc<Mutex<View>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Subscription {
    /// Subscribes, as the agent of `node` does, to everything.
    pub(super) fn start(lab: &Lab, node: &str) -> Result<Self> {
        let (door, token) = (Door::of(lab)?, std::fs::read_to_string(lab.kube().token(node))?);
        let (view, (stop, stopped)) = (Arc::<Mutex<View>>::default(), oneshot::channel());
        let (shared, place, itself) = (Arc::clone(&view), (**lab.node(node)).clone(), identify(node));
        let follow = move || {
            let ended = place.run(|| {
                runtime()?.block_on(async {
                    tokio::select! {
                        ended = follow(&door, &token, itself, &shared) => ended,
                        _ = stopped => Ok(()),
                    }
                })
            });
            let reason = ended.err().map_or("it ended".to_owned(), |error| format!("{error:#}"));
            locked(&shared).ended = Some(reason);
        };
        let thread = Builder::new().name("xds".to_owned()).spawn(follow).context("starting a thread")?;
        Ok(Self { view, stop: Some(stop), thread: Some(thread) })
    }

    /// Waits until istiod has said what it should; gives what `condition` gives.
    pub(super) fn wait<T>(&self, limit: Duration, condition: impl Fn(&View) -> Result<T>) -> Result<T> {
        eventually(limit, || {
            let view = locked(&self.view);
            condition(&view).map_err(|error| match &view.ended {
                Some(reason) => error.context(format!("the stream from istiod has ended: {reason}")),
                None => error,
            })
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl View {
    pub(super) fn workload(&self, uid: &str) -> Result<&Workload> {
        self.workloads.get(uid).ok_or_else(|| anyhow!("no workload {uid} among {:?}", self.workloads.keys()))
    }

    pub(super) fn service(&self, key: &str) -> Result<&Service> {
        self.services.get(key).ok_or_else(|| anyhow!("no service {key} among {:?}", self.services.keys()))
    }

    pub(super) fn authorization(&self, key: &str) -> Result<&Authorization> {
        let all = self.authorizations.keys();
        self.authorizations.get(key).ok_or_else(|| anyhow!("no authorization {key} among {all:?}"))
    }

    fn take(&mut self, response: Response) -> Result<()> {
        for name in response.removed_resources {
            self.workloads.remove(&name);
            self.services.remove(&name);
            self.authorizations.remove(&name);
        }
        for Resource { resource, name, .. } in response.resources {
            let bytes = resource.with_context(|| format!("{name} is empty"))?.value;
            match response.type_url.as_str() {
                AUTHORIZATION => drop(self.authorizations.insert(name, Authorization::decode(&*bytes)?)),
                ADDRESS => match Address::decode(&*bytes)? {
                    Address { workload: Some(workload), .. } => drop(self.workloads.insert(name, workload)),
                    Address { service: Some(service), .. } => drop(self.services.insert(name, service)),
                    Address { .. } => bail!("{name} is neither a workload nor a service"),
                },
                other => bail!("nobody asked for {other}"),
            }
        }
        Ok(())
    }
}

/// The uid of a pod of the lab.
pub(super) fn uid(namespace: &str, pod: &str) -> String {
    format!("{CLUSTER}//Pod/{namespace}/{pod}")
}

/// What the agent of `node` says of itself (protocol note, section 1.3).
fn identify(node: &str) -> Node {
    let name = format!("mesh-agent-{node}");
    let metadata = [("NAME", name.as_str()), ("NAMESPACE", NAMESPACE), ("NODE_NAME", node), ("CLUSTER_ID", CLUSTER)];
    let fields = metadata.map(|(key, value)| (key.to_owned(), Value::from(value.to_owned())));
    Node {
        id: format!("ztunnel~1.1.1.1~{name}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"),
        metadata: Some(Struct { fields: fields.into() }),
    }
}

/// Takes and acknowledges until the stream ends.
async fn follow(door: &Door, token: &str, node: Node, view: &Mutex<View>) -> Result<()> {
    let (requests, mut queue) = unbounded_channel();
    for type_url in [ADDRESS, AUTHORIZATION] {
        send(&requests, Request { node: Some(node.clone()), type_url: type_url.to_owned(), ..Request::default() })?;
    }
    let outgoing = stream::poll_fn(move |context| queue.poll_recv(context));
    let mut client = tonic::client::Grpc::new(door.connect().await?);
    client.ready().await.context("istiod's channel")?;
    let codec = ProstCodec::<Request, Response>::default();
    let request = signed(outgoing, token)?;
    let answer = client.streaming(request, PathAndQuery::from_static(METHOD), codec).await?;
    let mut incoming = answer.into_inner();
    while let Some(response) = incoming.message().await? {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        locked(view).take(response)?;
        send(&requests, Request { type_url, response_nonce, ..Request::default() })?;
    }
    Ok(())
}

fn send(requests: &UnboundedSender<Request>, request: Request) -> Result<()> {
    requests.send(request).context("the stream is closed")
}

fn locked(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}
