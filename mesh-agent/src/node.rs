//! The node role, composed: the one file that knows every part. Built in order, started, and ended in reverse.
//!
//! ```text
//! file --> config --+--> worlds ----> shards (one thread per core)   (or istiod --> xds --> worlds)
//!                   +--> pods ------> driver --> kernel, shards      (or CNI agent --> zds --> pods)
//!                   +--> identities > certs
//! shards, driver, certs, config ----> pages, metrics (reads only)
//! ```

mod direct;
mod documents;
mod dump;
mod facts;
mod kubernetes;
mod mesh;
mod metrics;
mod pages;
mod pods;
mod revocation;
mod settings;
pub mod source;
mod thrift;
pub mod uninstall;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::source::{Read, Source};
use crate::admin::ready::Ready;
use crate::admin::router::Router;
use crate::admin::server;
use crate::bpf::attach::Mechanism;
use crate::bpf::direct::Direct;
use crate::bpf::facts::Facts;
use crate::bpf::fs::Pins;
use crate::bpf::object::Logging;
use crate::dns;
use crate::file::given::Given;
use crate::file::schema::{CaptureBy, Node, Steering};
use crate::file::watch::Edits;
use crate::file::{self, Config, LoadState};
use crate::identity::ca::CaClient;
use crate::identity::{Certs, Revocations};
use crate::model::{PodSpec, World};
use crate::pods::capture::{Capture, Kernel};
use crate::pods::driver::{Driver, PodStatus};
use crate::pods::listeners::Names;
use crate::pods::redirected::Redirected;
use crate::proxy::record::{Books, KernelFacts};
use crate::proxy::shard::{Deps, Shards, Threads};
use crate::sys::cores::Homes;
use crate::sys::socket;
use crate::sys::{caps, cores, kernel, limits, memory, mounts, signal};
use crate::task::Tasks;
use crate::telemetry;
use crate::telemetry::announced::Announced;
use crate::telemetry::log::Log;
use crate::telemetry::metrics::Metrics;
use crate::xds::Demand;

/// The admin socket's name in the run directory.
const ADMIN_SOCKET: &str = "admin.sock";

/// How long control tasks may take to end after the last connection did.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What the pages and the metrics read. All of it is cheap to clone and safe to ask at any time.
#[derive(Clone)]
pub(crate) struct View {
    started: Instant,
    node: Arc<Node>,
    mechanism: Mechanism,
    worlds: watch::Receiver<Arc<World>>,
    istiod: Option<crate::xds::Handle>,
    kubernetes: Option<kubernetes::View>,
    loads: watch::Receiver<LoadState>,
    pods: watch::Receiver<Vec<PodStatus>>,
    certs: Certs,
    revocations: Revocations,
    shards: Shards,
    capture: Arc<dyn Capture>,
    facts: Option<Arc<dyn KernelFacts>>,
    ready: Ready,
    log: crate::telemetry::log::Filter,
}

/// Runs the node agent until SIGTERM or SIGINT.
pub fn run(source: &Source, log: Log) -> anyhow::Result<()> {
    caps::require_root()?;
    kernel::require()?;
    limits::raise_open_files();
    memory::keep_buffers();
    let Read { path, edits, config } = source.read()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    runtime.block_on(serve(&path, edits, config, log))
}

async fn serve(path: &Path, edits: Option<(Edits, Given)>, config: Config, log: Log) -> anyhow::Result<()> {
    let node = Arc::new(config.node.clone());
    socket::keep_alive(settings::keepalive(&node.keepalive));
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let tasks = Tasks::new();
    let ready = Ready::new();
    let enrolled = ready.gate("pods");
    let kernel = kernel(&node)?;
    let revocations = revocation::follow(node.ca.crl.as_deref(), &tasks);
    let certs = Certs::start(CaClient::new(settings::authority(&node), revocations.clone()), &tasks);
    certs.keep_only(&config.identities);
    let feeds = Feeds::new(config);
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
    let istiod = mesh::source(&node, &feeds.worlds, &tasks)?;
    let parts = (&kernel, istiod.as_ref().and_then(mesh::demand));
    let (shards, threads) = shards(&node, &feeds, &certs, &metrics, parts)?;
    if let Some(direct) = &kernel.direct {
        direct::follow(Arc::clone(direct), shards.clone())?;
    }
    let (driver, pods) = Driver::new(Arc::clone(&kernel.capture), shards.clone(), settings::driver(&node));
    let driver = driver.expediting(settings::grace_periods(&node));
    let announced = Announced::default();
    let cluster = node.kubernetes.as_ref().map(|cluster| {
        let former = kernel.capture.remembered();
        kubernetes::start((&node, cluster), &announced, pods.clone(), former, &tasks)
    });
    let cluster = cluster.transpose()?;
    let driver = match &cluster {
        Some(cluster) => driver.with_ended(cluster.outputs.ended.clone()),
        None => driver,
    };
    let (states, loads) = watch::channel(LoadState::good(path));
    let synced = istiod.as_ref().map(|istiod| (ready.gate("mesh configuration"), istiod.status.clone()));
    let view = View {
        started: Instant::now(),
        node: Arc::clone(&node),
        mechanism: kernel.mechanism,
        worlds: feeds.worlds.subscribe(),
        istiod,
        kubernetes: cluster.as_ref().map(|cluster| cluster.view.clone()),
        loads,
        pods: pods.clone(),
        certs: certs.clone(),
        revocations,
        shards,
        capture: kernel.capture,
        facts: kernel.facts,
        ready,
        log: log.filter(),
    };
    metrics::register(&metrics, &view);
    if view.kubernetes.is_some() {
        metrics.register(Box::new(announced));
    }
    open_pages(&view, &metrics, &tasks)?;
    tasks.spawn(thrift::give_back());
    let stop = stop_signal(&tasks);
    // Before the mesh is known, nobody could say who may talk to a pod: what is captured already is refused until then.
    if let Some((gate, status)) = synced {
        mesh::synced(gate, status, &stop).await;
    }
    let source = pods::Source { cluster, feeds: &feeds, certs: &certs, ready: &view.ready, tasks: &tasks };
    let desired = source.open(&node, enrolled, pods, &stop);
    follow(edits, feeds, states, certs, &tasks);
    tracing::info!(node = node.name, version = env!("CARGO_PKG_VERSION"), capture = ?view.mechanism, "node agent started");
    driver.run(desired, stop).await;
    end(&node, threads, &tasks).await;
    drop(log);
    Ok(())
}

/// The kernel's part, attached and ready to take pods.
struct KernelParts {
    capture: Arc<dyn Capture>,
    mechanism: Mechanism,
    facts: Option<Arc<dyn KernelFacts>>,
    direct: Option<Arc<Direct>>,
}

fn kernel(node: &Node) -> anyhow::Result<KernelParts> {
    let mechanism = match node.capture {
        CaptureBy::Auto => Mechanism::detect(),
        CaptureBy::Tcx => Mechanism::Tcx,
        CaptureBy::Clsact => Mechanism::Clsact,
    };
    let logging = if node.bpf_log { Logging::On } else { Logging::Off };
    let facts = attach_facts(node);
    let known = facts.clone().map(|facts| Arc::new(facts::Source::new(facts)) as Arc<dyn KernelFacts>);
    let names = if node.dns.capture { Names::Captured } else { Names::LeftAlone };
    let wanted = node.zds.is_none() && settings::same_node(&node.same_node).any_direct();
    let mut direct = None;
    let mut programs = |facts| -> anyhow::Result<Kernel> {
        mounts::writable_sysctls().context("making /proc/sys writable, which needs CAP_SYS_ADMIN")?;
        let pins = Pins::prepare(&node.bpf_fs, &node.name)?;
        if wanted {
            direct = Some(Arc::new(Direct::open(&pins.direct(), node.same_node.direct_connections.get())?));
        }
        let kernel = Kernel::new(pins, &node.run_dir, mechanism, logging, facts);
        let kernel = kernel.with_context(|| format!("run_dir {}", node.run_dir.display()))?;
        Ok(kernel.names(names).direct(direct.clone()))
    };
    let capture: Arc<dyn Capture> = if node.zds.is_some() {
        let former = programs(None);
        if let Err(error) = &former {
            tracing::info!(%error, "what an agent without a CNI agent may have left here is not looked for");
        }
        Arc::new(Redirected::new(facts, former.ok(), names))
    } else {
        Arc::new(programs(facts)?)
    };
    Ok(KernelParts { capture, mechanism, facts: known, direct })
}

/// Where the pods' control groups are.
fn cgroup(node: &Node) -> Option<PathBuf> {
    node.cgroup.clone().or_else(mounts::cgroup2)
}

/// Kernel facts are a bonus: without them records lack a few fields, and nothing else changes.
fn attach_facts(node: &Node) -> Option<Arc<Facts>> {
    let Some(cgroup) = cgroup(node) else {
        tracing::warn!("no cgroup2 hierarchy is mounted: records will have no kernel facts");
        return None;
    };
    match Facts::attach(&cgroup) {
        Ok(facts) => Some(Arc::new(facts)),
        Err(error) => {
            tracing::warn!(cgroup = %cgroup.display(), %error, "records will have no kernel facts");
            None
        }
    }
}

fn shards(
    node: &Node,
    feeds: &Feeds,
    certs: &Certs,
    metrics: &Metrics,
    (kernel, demand): (&KernelParts, Option<Demand>),
) -> anyhow::Result<(Shards, Threads)> {
    let cores = match node.steering {
        Steering::Spread => Vec::new(),
        Steering::Core => cores::usable().context("asking for the cores that may be used")?,
    };
    // A container may be given less time than it may use cores.
    let count = node.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let carrier = |direct: &Arc<Direct>| -> Arc<dyn direct::Kernel> {
        Arc::new(direct::Carrier::new(Arc::clone(direct), cgroup(node).as_deref(), count))
    };
    let names = telemetry::dns::Names::default();
    metrics.register(Box::new(names.clone()));
    let dns = dns::server::Deps { settings: Arc::new(settings::names(&node.dns)), metrics: names };
    let lookups = telemetry::lookups::Lookups::default();
    metrics.register(Box::new(lookups.clone()));
    let (network, worlds) = (node.network.as_str().into(), feeds.worlds.subscribe());
    let deps = Deps {
        network,
        worlds,
        certs: certs.clone(),
        demand,
        dns,
        lookups,
        habits: settings::habits(&node.tunnels),
        same_node: Arc::new(settings::same_node(&node.same_node)),
        direct: kernel.direct.as_ref().map(carrier),
    };
    let facts = kernel.facts.clone();
    let traffic = metrics.traffic().clone();
    let books = move |shard| Books::new(shard, traffic.table(), facts.clone());
    Shards::start(Homes::new(count, &cores), &deps, books).context("starting the shards")
}

/// The configuration in force, and its parts for those who need only one.
struct Feeds {
    configs: watch::Sender<Arc<Config>>,
    worlds: watch::Sender<Arc<World>>,
    pods: watch::Sender<Arc<Vec<Arc<PodSpec>>>>,
}

impl Feeds {
    fn new(config: Config) -> Self {
        Self {
            worlds: watch::Sender::new(Arc::clone(&config.world)),
            pods: watch::Sender::new(Arc::clone(&config.pods)),
            configs: watch::Sender::new(Arc::new(config)),
        }
    }
}

/// Follows the file, if there is one. Policies are in force before a pod that they protect is served.
fn follow(edits: Option<(Edits, Given)>, feeds: Feeds, states: watch::Sender<LoadState>, certs: Certs, tasks: &Tasks) {
    let mut loaded = feeds.configs.subscribe();
    match edits {
        Some(edits) => tasks.spawn(file::watch::follow(edits, feeds.configs, states)),
        None => tasks.spawn(async move {
            let _kept = (feeds.configs, states);
            std::future::pending::<()>().await;
        }),
    }
    let (worlds, pods) = (feeds.worlds, feeds.pods);
    // As it was at the start: settings of the node wait for the next one.
    let (described, listed) = {
        let node = &loaded.borrow().node;
        (node.xds.is_none(), node.zds.is_none())
    };
    tasks.spawn(async move {
        while loaded.changed().await.is_ok() {
            let config = Arc::clone(&loaded.borrow_and_update());
            if described {
                worlds.send_replace(Arc::clone(&config.world));
            }
            if described && listed {
                certs.keep_only(&config.identities);
            }
            pods.send_if_modified(|old| {
                let changed = **old != *config.pods;
                *old = Arc::clone(&config.pods);
                changed
            });
        }
        // Shutting down: what is in force stays in force while connections drain.
        std::future::pending::<()>().await;
    });
}

fn open_pages(view: &View, metrics: &Metrics, tasks: &Tasks) -> anyhow::Result<()> {
    let node = &view.node;
    let socket = server::bind_socket(&node.run_dir.join(ADMIN_SOCKET))?;
    let scraped = server::bind(node.metrics, "metrics")?;
    let asked = server::bind(node.readiness, "readiness")?;
    let tools = server::bind(node.admin, "admin")?;
    let serve = |listener, router: Router| tasks.spawn(server::serve(listener, Arc::new(router), tasks.clone()));
    serve(socket, pages::admin(view, metrics));
    serve(scraped, pages::metrics(Router::new(), metrics));
    serve(asked, view.ready.router());
    serve(tools, pages::tools(view));
    Ok(())
}

fn stop_signal(tasks: &Tasks) -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tasks.spawn(async move {
        signal::termination().await;
        tracing::info!("stopping: no new connections, open ones may end");
        told.cancel();
    });
    stop
}

async fn end(node: &Node, threads: Threads, tasks: &Tasks) {
    let joined = tokio::task::spawn_blocking(move || threads.join()).await;
    if joined.is_err() {
        tracing::error!("the shards could not be joined");
    }
    tasks.drain(LAST_CALL).await;
    Pins::of(&node.bpf_fs, &node.name).leave();
    // Another start removes what is left.
    std::fs::remove_file(node.run_dir.join(ADMIN_SOCKET)).ok();
    tracing::info!("node agent stopped");
}
