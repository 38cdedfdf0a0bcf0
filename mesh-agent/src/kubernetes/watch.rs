//! The watches of the node's pods and of all namespaces, and the picture that they keep up to date.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::runtime::watcher::{Config, DefaultBackoff, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::error::{ApiError, is_gone};
use super::held::Held;
use super::link::{Link, Side};
use super::object::{NamespaceObject, PodObject};
use super::{Api, Picture, Settings, Watched};
use crate::task::Tasks;

/// Events that wait to be taken.
const EVENTS: usize = 64;
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// One of the watches, with what it needs to tell how it goes.
struct Watch<K> {
    objects: kube::Api<K>,
    config: Config,
    side: Side,
    link: watch::Sender<Link>,
    settings: Arc<Settings>,
}

pub(super) fn start(api: &Api, tasks: &Tasks) -> Watched {
    let (pictures, pictures_seen) = watch::channel(None);
    let (link, link_seen) = watch::channel(Link::new(api.settings.address.clone(), SystemTime::now()));
    let (pod_events, pods) = mpsc::channel(EVENTS);
    let (namespace_events, namespaces) = mpsc::channel(EVENTS);
    tasks.spawn(of_pods(api, &link).run(pod_events));
    tasks.spawn(of_namespaces(api, &link).run(namespace_events));
    tasks.spawn(keep(Held::new(&api.settings.excluded_namespaces), pods, namespaces, pictures));
    Watched { pictures: pictures_seen, link: link_seen }
}

/// Without pages: an API server answers those from its storage, and then it reads the pods of all nodes for each node that
/// asks. A node's pods are few.
fn of_pods(api: &Api, link: &watch::Sender<Link>) -> Watch<PodObject> {
    let config = Config { page_size: None, ..config() }.fields(&format!("spec.nodeName={}", api.settings.node));
    let client = client(api, Side::Pods, link);
    Watch::new(kube::Api::all(client), config, Side::Pods, link, api)
}

fn of_namespaces(api: &Api, link: &watch::Sender<Link>) -> Watch<NamespaceObject> {
    let client = client(api, Side::Namespaces, link);
    Watch::new(kube::Api::all(client), config(), Side::Namespaces, link, api)
}

/// The server ends a watch after a time, and the library a little later if it did not. The nodes of a cluster should not
/// come back in step.
fn config() -> Config {
    Config::default().timeout(fastrand::u32(180..290))
}

/// Its answers keep the link up. The library does not tell of a watch that goes on after it was broken.
fn client(api: &Api, side: Side, link: &watch::Sender<Link>) -> Client {
    let link = link.clone();
    api.http.client(move || {
        if link.send_if_modified(|link| link.answered(side, SystemTime::now())) {
            tracing::info!("watching the pods of this node at the API server");
        }
    })
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    fn new(objects: kube::Api<K>, config: Config, side: Side, link: &watch::Sender<Link>, api: &Api) -> Self {
        Self { objects, config, side, link: link.clone(), settings: Arc::clone(&api.settings) }
    }

    fn stream(&self) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K> {
        watcher(self.objects.clone(), self.config.clone())
    }

    /// Sends the events, for ever.
    async fn run(self, events: mpsc::Sender<Event<K>>) {
        let mut stream = self.stream().boxed();
        let mut waits = DefaultBackoff::default();
        while let Some(next) = stream.next().await {
            let error = match next {
                Ok(event) => {
                    // A list begins before it is known whether it succeeds.
                    if !matches!(event, Event::Init) {
                        waits.reset();
                    }
                    if events.send(event).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => error,
            };
            if is_gone(&error) {
                tracing::info!(watch = ?self.side, "the API server has no history as old as ours, listing again");
                stream = self.stream().boxed();
            } else {
                self.failed(error);
            }
            sleep(waits.next().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)).await;
        }
    }

    fn failed(&self, error: watcher::Error) {
        let resource = match self.side {
            Side::Pods => "pods",
            Side::Namespaces => "namespaces",
        };
        let error = ApiError::of_watch(error, resource, &self.settings).to_string();
        let mut news = false;
        self.link.send_modify(|link| news = link.failed(self.side, error.clone(), SystemTime::now()));
        if news {
            tracing::warn!(error, "no news of pods from the API server, what is known stays in force");
        }
    }
}

/// Publishes a picture whenever there is another one.
async fn keep(
    mut held: Held,
    mut pods: mpsc::Receiver<Event<PodObject>>,
    mut namespaces: mpsc::Receiver<Event<NamespaceObject>>,
    pictures: watch::Sender<Option<Arc<Picture>>>,
) {
    loop {
        let picture = tokio::select! {
            event = pods.recv() => match event {
                Some(event) => held.pod(event),
                None => return,
            },
            event = namespaces.recv() => match event {
                Some(event) => held.namespace(event),
                None => return,
            },
        };
        if let Some(picture) = picture {
            tracing::debug!(pods = picture.pods.len(), "the node's pods have changed");
            pictures.send_replace(Some(picture));
        }
    }
}
