//! The client against an API server of the test's own, over real TLS and HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use self::server::{Call, Events, Server, another_root};
use super::{Api, ApiError, Link, LinkState, Outside, Picture, Pod, Standing, Watched};
use crate::model::Inbound;
use crate::task::Tasks;

mod server;

const PATIENCE: Duration = Duration::from_secs(10);
const PODS: &str = "GET /api/v1/pods";
const NAMESPACES: &str = "GET /api/v1/namespaces";

fn pod(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "apps", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {"nodeName": "n1", "serviceAccountName": "web", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
    })
}

fn namespace(name: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "resourceVersion": "7", "labels": {"istio.io/dataplane-mode": mode}},
    })
}

fn names(picture: &Picture) -> Vec<(&str, Standing)> {
    picture.pods.values().map(|pod| (&*pod.name, pod.standing)).collect()
}

/// A client that watches, and its server.
struct Scene {
    server: Server,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
    link: watch::Receiver<Link>,
    tasks: Tasks,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Scene {
    async fn new(protocol: &str) -> Self {
        let server = Server::new(protocol).await;
        let tasks = Tasks::new();
        let Watched { pictures, link } = Api::connect(&server.settings()).unwrap().watch(&tasks);
        Self { server, pictures, link, tasks }
    }

    /// With these pods listed, a namespace that is in the mesh, and both watches open.
    async fn started(protocol: &str, pods: &[Value]) -> (Self, Events, Events) {
        let mut scene = Self::new(protocol).await;
        scene.server.call(PODS).await.list("10", pods);
        scene.server.call(NAMESPACES).await.list("20", &[namespace("apps", "ambient")]);
        let pods = scene.server.call(PODS).await.events("10");
        let namespaces = scene.server.call(NAMESPACES).await.events("20");
        scene.picture(|_| true).await;
        scene.link(|link| matches!(link.state, LinkState::Connected { .. })).await;
        (scene, pods, namespaces)
    }

    /// Waits for such a picture.
    async fn picture(&mut self, is: impl Fn(&Picture) -> bool) -> Arc<Picture> {
        let wanted = self.pictures.wait_for(|picture| picture.as_ref().is_some_and(|picture| is(picture)));
        let found = timeout(PATIENCE, wanted).await.expect("such a picture in time").unwrap();
        Arc::clone(found.as_ref().unwrap())
    }

    async fn link(&mut self, is: impl Fn(&Link) -> bool) -> Link {
        timeout(PATIENCE, self.link.wait_for(is)).await.expect("such a link in time").unwrap().clone()
    }

    async fn away(&mut self) -> String {
        let link = self.link(|link| matches!(link.state, LinkState::Away { .. })).await;
        link.last_error.unwrap().1
    }

    async fn connected(&mut self) {
        self.link(|link| matches!(link.state, LinkState::Connected { .. })).await;
    }
}

async fn lists_and_watches(protocol: &str) {
    let mut scene = Scene::new(protocol).await;
    let list = scene.server.call(PODS).await;
    assert_eq!(list.query(), ["", "fieldSelector=spec.nodeName%3Dn1"]);
    assert_eq!(list.header("authorization"), "Bearer token-1");
    assert!(list.header("user-agent").starts_with("mesh-agent/"));
    list.list("10", &[pod("a", 1), pod("b", 2)]);
    let list = scene.server.call(NAMESPACES).await;
    assert!(list.header("accept").contains("PartialObjectMetadataList"), "{}", list.header("accept"));
    assert!(scene.pictures.borrow().is_none(), "one list is no picture");
    list.list("20", &[namespace("apps", "ambient")]);
    let first = scene.picture(|_| true).await;
    assert_eq!(names(&first), [("a", Standing::Member), ("b", Standing::Member)]);
    let watch = scene.server.call(PODS).await;
    assert!(watch.query().contains(&"fieldSelector=spec.nodeName%3Dn1"), "{:?}", watch.query());
    assert!(watch.query().contains(&"allowWatchBookmarks=true"));
    assert!(watch.query().iter().any(|pair| pair.starts_with("timeoutSeconds=")));
    let pods = watch.events("10");
    let namespaces = scene.server.call(NAMESPACES).await.events("20");
    scene.connected().await;

    pods.send("DELETED", pod("a", 30)).await;
    pods.send("ADDED", pod("c", 31)).await;
    let picture = scene.picture(|picture| picture.pods.contains_key("uid-c")).await;
    assert_eq!(names(&picture), [("b", Standing::Member), ("c", Standing::Member)]);
    namespaces.send("MODIFIED", namespace("apps", "none")).await;
    let outside = Standing::Outside(Outside::NotLabelled);
    let picture = scene.picture(|picture| picture.pods.values().all(|pod| pod.standing == outside)).await;
    assert_eq!(names(&picture), [("b", outside), ("c", outside)]);

    // The server ends the watch, as it does after some minutes; it goes on where it was.
    let bookmark = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "44"}});
    pods.send("BOOKMARK", bookmark).await;
    drop(pods);
    let pods = scene.server.call(PODS).await.events("44");
    pods.send("DELETED", pod("b", 45)).await;
    let picture = scene.picture(|picture| picture.pods.len() == 1).await;
    assert_eq!(names(&picture), [("c", outside)]);
    assert_eq!(scene.link.borrow().last_error, None, "nothing of this is an error");
}

#[tokio::test]
async fn lists_and_watches_over_http_2() {
    lists_and_watches("h2").await;
}

#[tokio::test]
async fn lists_and_watches_over_http_1() {
    lists_and_watches("http/1.1").await;
}

#[tokio::test]
async fn history_that_has_gone_is_listed_again() {
    let (mut scene, pods, _namespaces) = Scene::started("h2", &[pod("a", 1), pod("b", 2)]).await;
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version: 10 (99)"});
    pods.send("ERROR", gone).await;
    scene.server.call(PODS).await.list("100", &[pod("b", 2)]);
    let picture = scene.picture(|picture| picture.pods.len() == 1).await;
    assert_eq!(names(&picture), [("b", Standing::Member)]);
    // The other form of the same: the watch is not even begun.
    scene.server.call(PODS).await.refuse(410, "too old resource version: 100 (199)", json!([]));
    scene.server.call(PODS).await.list("200", &[pod("c", 3)]);
    let picture = scene.picture(|picture| picture.pods.contains_key("uid-c")).await;
    assert_eq!(names(&picture), [("c", Standing::Member)]);
    assert_eq!(scene.link.borrow().last_error, None, "history is dropped in normal operation");
    assert!(matches!(scene.link.borrow().state, LinkState::Connected { .. }));
}

async fn outlives(protocol: &str) {
    let (mut scene, pods, namespaces) = Scene::started(protocol, &[pod("a", 1)]).await;
    scene.server.down().await;
    drop((pods, namespaces));
    let broke = "the connection to the API server broke: it ended without a word, maybe the API server is restarting";
    assert_eq!(scene.away().await, broke);
    let begin = format!("cannot reach the API server at {}: ", scene.server.settings().address);
    let end = "; nothing listens there, maybe the API server is restarting";
    let told = |error: &str| error.starts_with(&begin) && error.ends_with(end);
    let away = |link: &Link| link.last_error.as_ref().is_some_and(|(_, error)| told(error));
    let link = scene.link(away).await;
    assert!(matches!(link.state, LinkState::Away { .. }), "{link:?}");
    assert_eq!(names(scene.pictures.borrow().as_ref().unwrap()), [("a", Standing::Member)]);
    scene.server.up().await;
    // A watch that goes on is an answer, though nothing happens on it.
    let pods = scene.server.call(PODS).await.events("10");
    let _namespaces = scene.server.call(NAMESPACES).await.events("20");
    scene.connected().await;
    assert!(!scene.pictures.has_changed().unwrap());
    pods.send("DELETED", pod("a", 12)).await;
    scene.picture(|picture| picture.pods.is_empty()).await;
}

#[tokio::test]
async fn the_picture_outlives_the_api_server_over_http_2() {
    outlives("h2").await;
}

#[tokio::test]
async fn the_picture_outlives_the_api_server_over_http_1() {
    outlives("http/1.1").await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_again() {
    let (mut scene, pods, _namespaces) = Scene::started("h2", &[]).await;
    pods.fail().await;
    let error = scene.away().await;
    assert!(error.starts_with("the connection to the API server broke: "), "{error}");
    scene.server.call(PODS).await.refuse_with_text(503, "no backend");
    let told = "the API server refuses to watch pods (503: no backend)";
    scene.link(|link| link.last_error.as_ref().is_some_and(|(_, error)| error == told)).await;
    let _pods = scene.server.call(PODS).await.events("10");
    scene.connected().await;
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_asked_for_at_once() {
    let (mut scene, pods, _namespaces) = Scene::started("h2", &[]).await;
    drop(pods);
    drop(scene.server.call(PODS).await.events("10"));
    let began = Instant::now();
    for _ in 0..2 {
        drop(scene.server.call(PODS).await.events("10"));
    }
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_lack_of_permission_is_named_until_it_is_granted() {
    let mut scene = Scene::new("h2").await;
    scene.server.call(NAMESPACES).await.list("20", &[]);
    let denied = r#"pods is forbidden: User "system:serviceaccount:mesh:agent" cannot list resource "pods""#;
    scene.server.call(PODS).await.refuse(403, denied, json!([]));
    let expected =
        format!("the service account may not list pods: see deploy/kubernetes for its permissions (403: {denied})");
    assert_eq!(scene.away().await, expected);
    scene.server.call(PODS).await.list("10", &[]);
    scene.server.call(PODS).await.refuse(403, "no", json!([]));
    let told = |link: &Link| link.last_error.as_ref().is_some_and(|(_, error)| error.contains("may not watch pods"));
    scene.link(told).await;
    let _pods = scene.server.call(PODS).await.events("10");
    scene.connected().await;
    assert!(scene.pictures.borrow().is_some());
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_named_and_read_again() {
    let mut scene = Scene::new("http/1.1").await;
    scene.server.call(PODS).await.refuse(401, "Unauthorized", json!([]));
    let expected = format!(
        "the API server does not accept the token in {} (401: Unauthorized); it may have expired, or be of another cluster",
        scene.server.path("token").display()
    );
    assert_eq!(scene.away().await, expected);
    scene.server.write("token", "token-2\n");
    let again = scene.server.call(PODS).await;
    assert_eq!(again.header("authorization"), "Bearer token-2");
}

/// A server, and a client that does not watch.
async fn ask(protocol: &str) -> (Server, Api) {
    let server = Server::new(protocol).await;
    let api = Api::connect(&server.settings()).unwrap();
    (server, api)
}

/// A list that is asked for by one name.
async fn named(server: &mut Server, path: &str, name: &str) -> Call {
    let call = server.call(path).await;
    let wanted = format!("fieldSelector=metadata.name%3D{name}");
    assert!(call.query().contains(&&*wanted), "{wanted}: {:?}", call.query());
    call
}

const PODS_OF_APPS: &str = "GET /api/v1/namespaces/apps/pods";

#[tokio::test]
async fn one_pod_is_asked_for() {
    let (mut server, api) = ask("h2").await;
    let answers = async {
        named(&mut server, PODS_OF_APPS, "a").await.list("9", &[pod("a", 1)]);
        let of_namespace = named(&mut server, NAMESPACES, "apps").await;
        assert!(of_namespace.header("accept").contains("PartialObjectMetadata"));
        of_namespace.list("9", &[namespace("apps", "ambient")]);
    };
    let (found, ()) = tokio::join!(api.pod("apps", "a"), answers);
    let found = found.unwrap().unwrap();
    assert_eq!((&*found.uid, &*found.service_account, found.standing), ("uid-a", "web", Standing::Member));

    let mut elsewhere = pod("a", 1);
    elsewhere["spec"]["nodeName"] = json!("n2");
    let answers = async {
        named(&mut server, PODS_OF_APPS, "a").await.list("9", &[elsewhere]);
        named(&mut server, NAMESPACES, "apps").await.list("9", &[namespace("apps", "ambient")]);
        named(&mut server, PODS_OF_APPS, "b").await.list("9", &[]);
        named(&mut server, NAMESPACES, "apps").await.list("9", &[namespace("apps", "ambient")]);
        named(&mut server, PODS_OF_APPS, "a").await.list("9", &[pod("a", 1)]);
        named(&mut server, NAMESPACES, "apps").await.list("9", &[]);
    };
    let ask = async {
        let mut found = Vec::new();
        for name in ["a", "b", "a"] {
            found.push(api.pod("apps", name).await.unwrap());
        }
        found
    };
    let (found, ()) = tokio::join!(ask, answers);
    assert_eq!(found, [None, None, None], "another node's, none, and one without a namespace");
    assert_eq!(api.pod("apps", "../../secrets/x").await.unwrap(), None, "asks nobody");
    assert_eq!(api.pod("apps", "a,spec.nodeName=n2").await.unwrap(), None, "asks nobody");
}

#[tokio::test]
async fn an_api_server_that_says_nothing_is_waited_for_with_a_limit() {
    let (mut server, api) = ask("http/1.1").await;
    let silence = async {
        let _call = server.call(PODS_OF_APPS).await;
        server.call(NAMESPACES).await.list("9", &[namespace("apps", "ambient")]);
        tokio::time::pause();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        found = api.pod("apps", "a") => found.unwrap_err(),
        () = silence => unreachable!("it waits for ever"),
    };
    let expected =
        format!("the API server at {} did not answer within 30s; it may be overloaded", api.settings.address);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn the_roots_are_read_for_each_connection() {
    let (mut server, api) = ask("h2").await;
    let good = std::fs::read_to_string(server.path("root.pem")).unwrap();
    server.write("root.pem", &another_root());
    let error = api.pod("apps", "a").await.unwrap_err();
    assert!(matches!(error, ApiError::Untrusted { .. }), "{error:?}");
    let text = error.to_string();
    let (address, root) = (&api.settings.address, server.path("root.pem"));
    let begin = format!("the API server at {address} shows a certificate that {} does not vouch for: ", root.display());
    assert!(text.starts_with(&begin) && text.ends_with("; maybe the file is of another cluster"), "{text}");
    for (bad, expected) in [("", "has no certificate in it"), ("nonsense", "has no certificate in it")] {
        server.write("root.pem", bad);
        let error = api.pod("apps", "a").await.unwrap_err().to_string();
        assert_eq!(error, format!("{} {expected}", root.display()));
    }
    server.write("root.pem", &format!("{}{good}", another_root()));
    let answers = async {
        server.call(PODS_OF_APPS).await.list("9", &[pod("a", 1)]);
        server.call(NAMESPACES).await.list("9", &[namespace("apps", "none")]);
    };
    let (found, ()) = tokio::join!(api.pod("apps", "a"), answers);
    assert_eq!(found.unwrap().unwrap().standing, Standing::Outside(Outside::NotLabelled));
}

#[tokio::test]
async fn another_name_and_no_tls() {
    let server = Server::new("h2").await;
    let mut settings = server.settings();
    settings.address = settings.address.replace("127.0.0.1", "localhost");
    let error = Api::connect(&settings).unwrap().pod("apps", "a").await.unwrap_err().to_string();
    assert!(error.ends_with("or the API server is known by another name"), "{error}");
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    settings.address = format!("https://{}", plain.local_addr().unwrap());
    let answer = async {
        loop {
            let (tcp, _) = plain.accept().await.unwrap();
            tcp.writable().await.unwrap();
            tcp.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    };
    let error = tokio::select! {
        found = async { Api::connect(&settings).unwrap().pod("apps", "a").await } => found.unwrap_err().to_string(),
        () = answer => unreachable!("it answers for ever"),
    };
    assert!(error.ends_with("; maybe that port speaks no TLS 1.3"), "{error}");
}

#[tokio::test]
async fn mistakes_are_told_at_the_start() {
    let server = Server::new("h2").await;
    let told = |change: &dyn Fn(&mut super::Settings)| {
        let mut settings = server.settings();
        change(&mut settings);
        Api::connect(&settings).unwrap_err().to_string()
    };
    assert!(told(&|settings| settings.address = "http://a".into()).contains("is no address of an API server"));
    assert!(told(&|settings| settings.root = "/nowhere/ca.crt".into()).starts_with("/nowhere/ca.crt: No such file"));
    assert!(told(&|settings| settings.token = "/nowhere/token".into()).starts_with("/nowhere/token: No such file"));
    server.write("binary", "a\u{1}b");
    let binary = server.path("binary");
    let text = told(&|settings| settings.token.clone_from(&binary));
    assert_eq!(text, format!("the token in {} is not printable text", binary.display()));
    let text = told(&|settings| settings.root.clone_from(&binary));
    assert_eq!(text, format!("{} has no certificate in it", binary.display()));
}

fn plain() -> Pod {
    Pod {
        uid: "uid-a".into(),
        object: "uid-a".into(),
        name: "a".into(),
        namespace: "apps".into(),
        service_account: "web".into(),
        addresses: vec![],
        probe_ports: vec![],
        names: None,
        standing: Standing::Member,
        mark: None,
        inbound: Inbound::Captured,
        virtual_interfaces: Vec::new(),
    }
}

#[tokio::test]
async fn a_mark_is_written_and_removed() {
    let (mut server, api) = ask("h2").await;
    let plain = plain();
    let (enabled, removed) = (json!("enabled"), json!(null));
    for (mark, value) in [(Some("enabled"), enabled), (None, removed)] {
        let answer = async {
            let call = server.call("PATCH /api/v1/namespaces/apps/pods/a/status").await;
            assert_eq!(call.header("content-type"), "application/merge-patch+json");
            assert!(call.query().contains(&"fieldManager=mesh-agent"), "{:?}", call.query());
            let expected =
                json!({"metadata": {"uid": "uid-a", "annotations": {"ambient.istio.io/redirection": value}}});
            assert_eq!(serde_json::from_slice::<Value>(&call.body).unwrap(), expected);
            call.json(&pod("a", 2));
        };
        let (marked, ()) = tokio::join!(api.mark(&plain, mark), answer);
        marked.unwrap();
    }
}

/// The kubelet shows a static pod under another uid than the runtime has for it.
#[tokio::test]
async fn a_static_pod_is_known_by_the_uid_that_the_runtime_has() {
    let (mut server, api) = ask("h2").await;
    let mut mirror = pod("a", 1);
    mirror["metadata"]["annotations"] =
        json!({"kubernetes.io/config.mirror": "static-1", "kubernetes.io/config.hash": "static-1"});
    let answers = async {
        named(&mut server, PODS_OF_APPS, "a").await.list("9", &[mirror]);
        named(&mut server, NAMESPACES, "apps").await.list("9", &[namespace("apps", "ambient")]);
    };
    let (found, ()) = tokio::join!(api.pod("apps", "a"), answers);
    let found = found.unwrap().unwrap();
    assert_eq!((&*found.uid, &*found.object), ("static-1", "uid-a"));
    let write = async {
        let call = server.call("PATCH /api/v1/namespaces/apps/pods/a/status").await;
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(body["metadata"]["uid"], "uid-a");
        call.json(&pod("a", 2));
    };
    let (written, ()) = tokio::join!(api.mark(&found, Some("enabled")), write);
    written.unwrap();
}

#[tokio::test]
async fn a_mark_on_a_pod_that_has_gone_is_no_error() {
    let (mut server, api) = ask("h2").await;
    let plain = plain();
    let uid = json!([{"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "field is immutable"}]);
    let other = json!([{"reason": "FieldValueInvalid", "field": "metadata.annotations", "message": "too long"}]);
    let conflict = "Precondition failed: UID in precondition: uid-a, UID in object meta: uid-b";
    let modified = "Operation cannot be fulfilled on pods \"a\": the object has been modified";
    let cases = [
        (404, "pods \"a\" not found", json!([]), None),
        (409, conflict, json!([]), None),
        (422, "Pod \"a\" is invalid: metadata.uid: Invalid value: \"uid-a\": field is immutable", uid, None),
        (409, modified, json!([]), Some("the API server refuses to patch pods/status (409: Operation cannot")),
        (422, "Pod \"a\" is invalid", other, Some("the API server refuses to patch pods/status (422: Pod \"a\" is")),
        (403, "no", json!([]), Some("the service account may not patch pods/status: see deploy/kubernetes")),
        (500, "etcd", json!([]), Some("the API server refuses to patch pods/status (500: etcd)")),
    ];
    for (code, message, causes, expected) in cases {
        let answer =
            async { server.call("PATCH /api/v1/namespaces/apps/pods/a/status").await.refuse(code, message, causes) };
        let (marked, ()) = tokio::join!(api.mark(&plain, Some("enabled")), answer);
        let text = marked.err().map(|error| error.to_string());
        assert_eq!(text.is_some(), expected.is_some(), "{text:?}");
        if let (Some(text), Some(expected)) = (text, expected) {
            assert!(text.starts_with(expected), "{text}");
        }
    }
}
