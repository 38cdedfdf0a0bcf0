//! The task with an API server and a driver of a few lines, by a clock that is only as quick as they are.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::kubernetes::{Outside, Standing};
use crate::model::pod::PodState;
use crate::model::{Inbound, PodNetns};
use crate::task::Tasks;

/// How long the API server takes.
const ANSWER: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
struct Server {
    pods: Arc<Mutex<BTreeMap<String, Pod>>>,
    /// What was written, in order.
    marks: Arc<Mutex<Vec<Written>>>,
}

/// A pod's name, and its annotation from then on.
type Written = (String, Option<String>);

impl Cluster for Server {
    async fn pod(&self, _namespace: &str, name: &str) -> Result<Option<Pod>, String> {
        sleep(ANSWER).await;
        if name == "away" {
            return Err("it is away".to_owned());
        }
        Ok(self.pods.lock().unwrap().get(name).cloned())
    }

    async fn mark(&self, pod: &Pod, mark: Option<&str>) -> Result<(), String> {
        sleep(ANSWER).await;
        self.marks.lock().unwrap().push((pod.name.clone(), mark.map(str::to_owned)));
        Ok(())
    }
}

fn pod(name: &str, standing: Standing) -> Pod {
    Pod {
        uid: format!("uid-{name}").into(),
        object: format!("uid-{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        service_account: "sa".into(),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        probe_ports: Vec::new(),
        names: None,
        standing,
        mark: None,
        inbound: Inbound::Captured,
        virtual_interfaces: Vec::new(),
    }
}

/// The task, and all that it deals with.
struct Scene {
    root: TempDir,
    server: Server,
    pictures: watch::Sender<Option<Arc<Picture>>>,
    door: mpsc::Sender<Asked>,
    outputs: Outputs,
    _tasks: Tasks,
}

impl Scene {
    fn new(former: Vec<PodSpec>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let places = Places { proc: root.path().join("proc"), netns: root.path().join("netns") };
        fs::create_dir(&places.proc).unwrap();
        fs::create_dir(&places.netns).unwrap();
        let (server, tasks) = (Server::default(), Tasks::new());
        let (pictures, picture) = watch::channel(None);
        let (door, asked) = mpsc::channel(16);
        let (told, statuses) = watch::channel(Vec::new());
        let (announced, asked) = (Announced::default(), Some(asked));
        let inputs = Inputs { cluster: server.clone(), pictures: picture, asked, statuses, former, announced };
        let settings = Settings { places, addresses: vec!["192.0.2.1".parse().unwrap()] };
        let (source, outputs) = Source::new(inputs, settings);
        tasks.spawn(source.run());
        tasks.spawn(drive(outputs.clone(), told));
        Self { root, server, pictures, door, outputs, _tasks: tasks }
    }

    fn picture(&self, pods: &[Pod]) {
        let pods = pods.iter().map(|pod| (Arc::clone(&pod.uid), Arc::new(pod.clone()))).collect();
        self.pictures.send_replace(Some(Arc::new(Picture { pods })));
    }

    /// Makes a namespace for a sandbox of the pod, and announces it.
    fn sandbox(&self, name: &str) -> Sandbox {
        let netns = self.root.path().join("netns").join(name);
        fs::write(&netns, "").unwrap();
        Sandbox {
            container: format!("container-{name}"),
            uid: Some(format!("uid-{name}")),
            name: name.into(),
            namespace: "shop".into(),
            netns,
            interface: "eth0".into(),
            addresses: Vec::new(),
        }
    }

    async fn ask(&self, request: Request) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.door.send(Asked { request, reply }).await.unwrap();
        answer.await.expect("an answer")
    }

    fn wanted(&self) -> Vec<String> {
        self.outputs.pods.borrow().iter().map(|spec| spec.name.clone()).collect()
    }

    async fn until_wanted(&mut self, names: &[&str]) {
        let same = |pods: &Arc<Vec<Arc<PodSpec>>>| pods.iter().map(|spec| &*spec.name).eq(names.iter().copied());
        drop(self.outputs.pods.wait_for(same).await.unwrap());
    }
}

/// Captures whatever is wanted, after a moment.
async fn drive(outputs: Outputs, statuses: watch::Sender<Vec<PodStatus>>) {
    let mut pods = outputs.pods;
    loop {
        sleep(Duration::from_millis(100)).await;
        let wanted = Arc::clone(&pods.borrow_and_update());
        let captured = |spec: &Arc<PodSpec>| PodStatus { spec: Arc::clone(spec), state: PodState::Enrolled };
        statuses.send_replace(wanted.iter().map(captured).collect());
        if pods.changed().await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_is_captured_before_it_starts_and_marked() {
    let mut scene = Scene::new(Vec::new());
    scene.picture(&[pod("known", Standing::Member)]);
    scene.server.pods.lock().unwrap().insert("new".into(), pod("new", Standing::Member));
    let (known, new) = (scene.sandbox("known"), scene.sandbox("new"));
    let began = Instant::now();
    assert_eq!(scene.ask(Request::Add(known)).await, Answer::Member);
    assert!(began.elapsed() < ANSWER, "the picture knows it");
    assert_eq!(scene.ask(Request::Add(new.clone())).await, Answer::Member);
    assert_eq!(scene.wanted(), ["known", "new"]);
    assert_eq!(scene.ask(Request::Check(new)).await, Answer::Member);
    sleep(ANSWER * 3).await;
    let enabled = |name: &str| (name.to_owned(), Some("enabled".to_owned()));
    assert_eq!(*scene.server.marks.lock().unwrap(), [enabled("known"), enabled("new")]);
    let spec = Arc::clone(&scene.outputs.pods.borrow()[0]);
    let crate::model::Captured::ByPrograms(programs) = &spec.captured else { panic!("by programs") };
    let from: Vec<_> = programs.node_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(from, ["127.0.0.1", "192.0.2.1"], "as the stack would choose, and as written");
    let deleted = Request::Delete { container: "container-new".into(), uid: Some("uid-new".into()) };
    assert_eq!(scene.ask(deleted).await, Answer::Member);
    scene.until_wanted(&["known"]).await;
    assert!(scene.outputs.ended.borrow().contains("uid-new"), "that is said before");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_answered_yes() {
    let scene = Scene::new(Vec::new());
    let Answer::Refused(reason) = scene.ask(Request::Status).await else { panic!("there is no picture") };
    assert!(reason.contains("has not told"), "{reason}");
    scene.picture(&[pod("outside", Standing::Outside(Outside::OptedOut))]);
    sleep(ANSWER).await;
    assert_eq!(scene.ask(Request::Status).await, Answer::Member);
    assert_eq!(scene.ask(Request::Gc { containers: Vec::new() }).await, Answer::Member);
    let outside = Request::Add(scene.sandbox("outside"));
    assert_eq!(scene.ask(outside).await, Answer::Outside(Outside::OptedOut.to_string()));
    let nowhere = Sandbox { netns: "/nowhere".into(), ..scene.sandbox("outside") };
    for (asked, expected) in [
        (nowhere, "/nowhere cannot be opened: No such file"),
        (scene.sandbox("unheard"), "has no pod shop/unheard"),
        (scene.sandbox("away"), "it is away"),
    ] {
        let Answer::Refused(reason) = scene.ask(Request::Add(asked)).await else { panic!("{expected}") };
        assert!(reason.contains(expected), "{reason}");
    }
    let said: Vec<_> = scene.outputs.remarks.borrow().iter().map(|remark| remark.what.to_string()).collect();
    assert_eq!(said, [Outside::OptedOut.to_string()]);
}

/// A node that starts many pods at once must not have them wait for each other.
#[tokio::test(start_paused = true)]
async fn pods_are_asked_for_together() {
    let scene = Scene::new(Vec::new());
    scene.picture(&[]);
    let names: Vec<_> = (0..QUESTIONS).map(|number| format!("p{number:02}")).collect();
    for name in &names {
        scene.server.pods.lock().unwrap().insert(name.clone(), pod(name, Standing::Member));
    }
    let began = Instant::now();
    let answers = names.iter().map(|name| scene.ask(Request::Add(scene.sandbox(name))));
    let answers = futures_util::future::join_all(answers).await;
    assert!(answers.iter().all(|answer| *answer == Answer::Member), "{answers:?}");
    assert!(began.elapsed() < ANSWER * 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_former_agent_left_is_wanted_from_the_first_moment() {
    let place = tempfile::NamedTempFile::new().unwrap();
    let netns = PodNetns::Proven { path: place.path().to_owned(), netns: Netns::open(place.path()).unwrap() };
    let left = PodSpec {
        uid: "uid-left".into(),
        name: "left".into(),
        namespace: "shop".into(),
        service_account: "sa".into(),
        netns,
        captured: crate::model::Captured::ByPrograms(crate::model::Programs::default()),
    };
    let mut scene = Scene::new(vec![left]);
    let process = scene.root.path().join("proc/1/ns");
    fs::create_dir_all(&process).unwrap();
    std::os::unix::fs::symlink(place.path(), process.join("net")).unwrap();
    assert_eq!(scene.wanted(), ["left"]);
    sleep(ANSWER * 100).await;
    assert_eq!(scene.wanted(), ["left"]);
    scene.picture(&[pod("left", Standing::Outside(Outside::NotLabelled))]);
    scene.until_wanted(&[]).await;
    assert!(scene.outputs.ended.borrow().is_empty(), "it lives");
}

#[tokio::test(start_paused = true)]
async fn whoever_hangs_up_is_forgotten() {
    let scene = Scene::new(Vec::new());
    let (reply, answer) = oneshot::channel();
    scene.door.send(Asked { request: Request::Add(scene.sandbox("slow")), reply }).await.unwrap();
    drop(answer);
    sleep(ANSWER * 3).await;
    assert_eq!(scene.wanted(), [""; 0]);
    scene.picture(&[pod("slow", Standing::Member)]);
    sleep(ANSWER).await;
    let look = scene.outputs.remarks.borrow()[0].what.to_string();
    assert!(look.contains("no process of the pod is among those in"), "{look}");
}
