//! The plugin, called as a runtime calls it, against the agent's end of the socket and against strange ones.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::cni::serve;
use crate::cni::wire::LONGEST;
use crate::sys::thread;
use crate::task::Tasks;

const SHORT: Patience =
    Patience { add: Duration::from_millis(300), check: Duration::from_millis(300), tell: Duration::from_millis(200) };
/// A result as a plugin may write it: what is passed on must be this, to the byte.
const RESULT: &str = r#"{ "cniVersion":"1.0.0", "interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],
  "ips":[{"address":"10.0.0.7/24","interface":1,"weird":1.50},{"address":"10.0.0.1/24","interface":0}], "z":1,"a":12345678901234567890123 }"#;

/// A place for a socket, with an agent at it or without.
struct Scene {
    directory: TempDir,
    asked: Arc<Mutex<Vec<Request>>>,
    _runtime: Option<tokio::runtime::Runtime>,
}

impl Scene {
    fn without_agent() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), asked: Arc::default(), _runtime: None }
    }

    /// With an agent that answers each question by `judge`, or never.
    fn new(judge: impl Fn(&Request) -> Option<Answer> + Send + 'static) -> Self {
        let mut scene = Self::without_agent();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tasks, asked) = (Tasks::new(), Arc::clone(&scene.asked));
        let entered = runtime.enter();
        let mut questions = serve(&scene.socket(), &tasks).unwrap();
        tasks.clone().spawn(async move {
            let mut never = Vec::new();
            while let Some(question) = questions.recv().await {
                asked.lock().unwrap().push(question.request.clone());
                match judge(&question.request) {
                    Some(answer) => drop(question.reply.send(answer)),
                    None => never.push(question.reply),
                }
            }
            drop(tasks);
        });
        drop(entered);
        scene._runtime = Some(runtime);
        scene
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("cni.sock")
    }

    fn config(&self) -> Value {
        json!({"cniVersion": "1.0.0", "name": "net", "type": "mesh-agent-cni", "socket": self.socket(),
            "excludeNamespaces": ["kube-system"]})
    }

    /// Calls the plugin for a pod of the namespace.
    fn call(&self, command: &str, namespace: &str) -> Result<String, String> {
        let text = self.config().to_string();
        let text = format!("{},\"prevResult\":{RESULT}}}", text.strip_suffix('}').unwrap());
        run(&variables(command, &arguments(namespace)), text.as_bytes(), &SHORT)
    }

    /// What the plugin says when it fails.
    fn fault(&self, command: &str) -> Value {
        serde_json::from_str(&self.call(command, "shop").unwrap_err()).unwrap()
    }

    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn arguments(namespace: &str) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
    )
}

fn variables(command: &str, arguments: &str) -> impl Fn(&str) -> Option<String> {
    let all = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", arguments),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let all: BTreeMap<_, _> = all.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    move |name| all.get(name).cloned()
}

fn sandbox() -> Sandbox {
    Sandbox {
        container: "c1".into(),
        uid: Some("u1".into()),
        name: "web".into(),
        namespace: "shop".into(),
        netns: "/run/netns/x".into(),
        interface: "eth0".into(),
        addresses: vec![IpAddr::from([10, 0, 0, 7])],
    }
}

#[test]
fn a_pod_starts_when_the_agent_has_it_or_does_not_want_it() {
    for answer in [Answer::Member, Answer::Outside("it is not labelled".into())] {
        let scene = Scene::new(move |_| Some(answer.clone()));
        assert_eq!(scene.call("ADD", "shop").as_deref(), Ok(RESULT));
        assert_eq!(scene.asked(), [Request::Add(sandbox())]);
        assert_eq!(scene.call("CHECK", "shop").as_deref(), Ok(""));
        assert_eq!(scene.asked(), [Request::Check(sandbox())]);
    }
}

#[test]
fn a_pod_that_is_refused_is_tried_again() {
    let scene = Scene::new(|_| Some(Answer::Refused("port 15008 is taken".into())));
    for command in ["ADD", "CHECK"] {
        let expected = json!({"cniVersion": "1.0.0", "code": 11, "msg": "pod shop/web cannot be in the mesh yet",
            "details": "port 15008 is taken"});
        assert_eq!(scene.fault(command), expected, "{command}");
    }
}

#[test]
fn without_an_agent_no_pod_starts() {
    let scene = Scene::without_agent();
    let says = |reason: &str| {
        let fault = scene.fault("ADD");
        let socket = scene.socket();
        let expected = format!(
            "mesh-agent is not running on this node ({}: {reason}): pods cannot be started until it is; see the DaemonSet \
             mesh-agent",
            socket.display()
        );
        assert_eq!((&fault["code"], fault["msg"].as_str()), (&json!(11), Some(expected.as_str())));
        assert_eq!(scene.fault("CHECK")["code"], 11);
    };
    says("no such file");
    drop(UnixListener::bind(scene.socket()).unwrap());
    says("connection refused");
}

#[test]
fn some_pods_start_without_the_agent() {
    let scene = Scene::without_agent();
    for command in ["ADD", "CHECK", "DEL"] {
        let expected = if command == "ADD" { RESULT } else { "" };
        assert_eq!(scene.call(command, "kube-system").as_deref(), Ok(expected), "{command}");
        let text = format!("{{\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"prevResult\":{RESULT}}}");
        let podman = run(&variables(command, ""), text.as_bytes(), &SHORT);
        assert_eq!(podman.as_deref(), Ok(expected), "{command}: not Kubernetes, and no socket needed");
    }
    // Half a name is no way around the agent.
    let text = format!("{{\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"prevResult\":{RESULT}}}");
    let fault = run(&variables("ADD", "K8S_POD_NAMESPACE=kube-system"), text.as_bytes(), &SHORT).unwrap_err();
    assert_eq!(serde_json::from_str::<Value>(&fault).unwrap()["code"], 4);
}

#[test]
fn the_end_of_a_pod_waits_for_no_agent() {
    for scene in [Scene::without_agent(), Scene::new(|_| None), Scene::new(|_| Some(Answer::Refused("no".into())))] {
        let start = Instant::now();
        assert_eq!(scene.call("DEL", "shop").as_deref(), Ok(""));
        assert!(start.elapsed() < SHORT.tell * 4, "{:?}", start.elapsed());
    }
    let scene = Scene::new(|_| Some(Answer::Member));
    let config = scene.config().to_string();
    let again = || run(&variables("DEL", &arguments("shop")), config.as_bytes(), &SHORT);
    assert_eq!((again().as_deref(), again().as_deref()), (Ok(""), Ok("")), "twice, and without a result");
    let delete = Request::Delete { container: "c1".into(), uid: Some("u1".into()) };
    assert_eq!(scene.asked(), [delete.clone(), delete]);
}

#[test]
fn garbage_collection_says_what_there_is() {
    let scene = Scene::new(|_| Some(Answer::Member));
    let collect = |attachments: Value| {
        let mut config = scene.config();
        config["cni.dev/valid-attachments"] = attachments.clone();
        // Runtimes say it under the name of the first specification as well.
        config["cni.dev/attachments"] = attachments;
        run(&|name| (name == "CNI_COMMAND").then(|| "GC".into()), config.to_string().as_bytes(), &SHORT)
    };
    assert_eq!(collect(Value::Null).as_deref(), Ok(""));
    assert_eq!(scene.asked(), [], "nothing said is not that there is nothing");
    let two = json!([{"containerID": "b", "ifname": "eth0"}, {"containerID": "a", "ifname": "eth0"}]);
    for (attachments, expected) in [(two, &["a", "b"][..]), (json!([]), &[])] {
        assert_eq!(collect(attachments).as_deref(), Ok(""));
        let containers = expected.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(scene.asked(), [Request::Gc { containers }]);
    }
}

#[test]
fn the_network_is_ready_without_an_agent() {
    let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "mesh-agent-cni", "socket": "/nowhere/cni.sock"})
        .to_string();
    let status = run(&|name| (name == "CNI_COMMAND").then(|| "STATUS".into()), config.as_bytes(), &SHORT);
    assert_eq!(status.as_deref(), Ok(""));
}

#[test]
fn version_needs_nothing_else() {
    let text =
        run(&|name| (name == "CNI_COMMAND").then(|| "VERSION".into()), &b"{\"cniVersion\":\"0.4.0\"}"[..], &SHORT);
    let answer: Value = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!((&answer["cniVersion"], &answer["supportedVersions"][4]), (&json!("0.4.0"), &json!("1.1.0")));
}

#[test]
fn what_the_runtime_does_wrong_has_its_code() {
    let scene = Scene::without_agent();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut config = scene.config();
        config["prevResult"] = serde_json::from_str(RESULT).unwrap();
        change(&mut config);
        config.to_string().into_bytes()
    };
    let cases = [
        (b"{".to_vec(), 6),
        (vec![0xff], 5),
        (with(&|config| config["cniVersion"] = json!("0.2.0")), 1),
        (with(&|config| config["prevResult"] = Value::Null), 7),
        (with(&|config| config["socket"] = Value::Null), 7),
        (with(&|config| config["prevResult"] = json!({"ips": [{"address": "none"}]})), 6),
        (with(&|_| {}), 11),
    ];
    for (input, code) in cases {
        let fault = run(&variables("ADD", &arguments("shop")), input.as_slice(), &SHORT).unwrap_err();
        let fault: Value = serde_json::from_str(&fault).unwrap();
        assert_eq!(fault["code"], code, "{}: {fault}", String::from_utf8_lossy(&input));
    }
    let none = run(&|_| None, &b""[..], &SHORT).unwrap_err();
    assert!(none.contains("CNI_COMMAND") && none.contains("container runtimes"), "{none}");
}

/// Something at the socket that takes one question, and does `then` with the connection.
fn strange(scene: &Scene, then: impl FnOnce(&mut dyn Write) + Send + 'static) -> JoinHandle<()> {
    std::fs::remove_file(scene.socket()).ok();
    let listener = UnixListener::bind(scene.socket()).unwrap();
    let serve = move || {
        let (stream, _) = listener.accept().unwrap();
        io::BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        then(&mut &stream);
    };
    thread::spawn("strange", serve).unwrap()
}

#[test]
fn a_strange_agent_starts_no_pod() {
    let scene = Scene::without_agent();
    type Then = Box<dyn FnOnce(&mut dyn Write) + Send>;
    let says = |bytes: &[u8]| -> Then {
        let bytes = bytes.to_vec();
        // The plugin may have heard enough.
        Box::new(move |stream| drop(stream.write_all(&bytes)))
    };
    let drip: Then = Box::new(|stream| {
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(SHORT.add / 10);
        }
    });
    let cases: [(Then, &str); 6] = [
        (says(b""), "has stopped before"),
        (says(b"{\"v\":1,\"message\":\"memb"), "has stopped before"),
        (says(b"{\"v\":2,\"message\":\"member\"}\n"), "version 2"),
        (says(b"yes\n"), "cannot be read"),
        (says(&[b' '; LONGEST + 5000]), "are the limit"),
        (drip, "has not answered within 300ms"),
    ];
    for (then, expected) in cases {
        let agent = strange(&scene, then);
        let fault = scene.fault("ADD");
        assert_eq!(fault["code"], 11, "{fault}");
        assert!(fault["msg"].as_str().unwrap().contains(expected), "{fault}");
        agent.join().unwrap();
    }
}

#[test]
fn an_agent_that_takes_no_connection_is_waited_for_as_long_as_is_said() {
    let scene = Scene::without_agent();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(scene.socket()).unwrap()).unwrap();
    socket.listen(0).unwrap();
    // The queue of such a listener has one place.
    let _first = std::os::unix::net::UnixStream::connect(scene.socket()).unwrap();
    let start = Instant::now();
    let fault = scene.fault("ADD");
    assert!(fault["msg"].as_str().unwrap().contains("has not answered within"), "{fault}");
    assert!(start.elapsed() >= SHORT.add && start.elapsed() < SHORT.add * 10, "{:?}", start.elapsed());
}

#[test]
fn a_runtime_starts_it_by_its_name() {
    assert!(is_plugin(Path::new("/opt/cni/bin/mesh-agent-cni")) && is_plugin(Path::new("mesh-agent-cni")));
    assert!(!is_plugin(Path::new("/usr/bin/mesh-agent")) && !is_plugin(Path::new("/opt/mesh-agent-cni/x")));
}
