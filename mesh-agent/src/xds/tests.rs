//! The client against a real gRPC server over TLS, with which each test plays istiod.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status as GrpcStatus;

use self::istiod::{Call, Istiod, response};
use super::session::tests::Book;
use super::*;
use crate::task::Tasks;

mod istiod;
mod scale;

const LIMIT: Duration = Duration::from_secs(10);

/// What a test sees of what the client applied.
#[derive(Clone, Debug, Default)]
struct Shelf(Arc<Mutex<Book>>);

impl Apply for Shelf {
    fn apply(&mut self, response: Response<'_>) -> Vec<Rejected> {
        self.0.lock().unwrap().apply(response)
    }
}

impl Shelf {
    /// `name=body` of each resource.
    fn pages(&self) -> Vec<String> {
        self.0.lock().unwrap().pages.iter().map(|((_, name), body)| format!("{name}={body}")).collect()
    }
}

/// A running client.
struct Running {
    shelf: Shelf,
    handle: Handle,
    _tasks: Owner,
}

/// Ends its tasks when the test does.
struct Owner(Tasks);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn start(config: Config) -> Running {
    let shelf = Shelf::default();
    let (client, handle) = Client::new(config, shelf.clone()).unwrap();
    let tasks = Tasks::new();
    tasks.spawn(client.run());
    Running { shelf, handle, _tasks: Owner(tasks) }
}

impl Running {
    async fn until(&mut self, condition: impl Fn(&Status) -> bool) -> Status {
        until(&mut self.handle.status, condition).await
    }

    async fn has(&self, pages: &[&str]) {
        for _ in 0..500 {
            if self.shelf.pages() == pages {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.shelf.pages(), pages);
    }
}

async fn until(status: &mut watch::Receiver<Status>, condition: impl Fn(&Status) -> bool) -> Status {
    let found = timeout(LIMIT, status.wait_for(|status| condition(status))).await.map(|found| found.unwrap().clone());
    found.unwrap_or_else(|_| panic!("it does not come to that: {:#?}", status.borrow()))
}

/// The error that the client meets.
async fn error(config: Config) -> String {
    start(config).until(|status| status.last_error.is_some()).await.last_error.unwrap().1
}

/// Opens both kinds, empty.
async fn begin(call: &mut Call) {
    for kind in Kind::ALL {
        assert_eq!(call.request().await.type_url, kind.url());
    }
    for kind in Kind::ALL {
        call.send(response(kind, "first", &[], &[])).await;
        assert_eq!(call.request().await.response_nonce, "first");
    }
}

fn root(config: &Config) -> PathBuf {
    match &config.security {
        Security::Tls { root, .. } => root.clone(),
        Security::Plaintext => panic!("plaintext has no root"),
    }
}

#[tokio::test]
async fn what_goes_over_the_wire() {
    let mut istiod = Istiod::new().await;
    let mut config = istiod.config();
    config.headers = vec![("x-extra".to_owned(), "yes".to_owned())];
    let mut client = start(config);
    let mut call = istiod.call().await;
    let header =
        |name: &str| call.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    assert_eq!(["authorization", "clusterid", "x-extra"].map(header), ["Bearer token-1", "west", "yes"]);

    let first = call.request().await;
    assert!(first.node.unwrap().id.starts_with("ztunnel~10.0.0.1~agent.istio-system~"));
    assert_eq!((&*first.type_url, first.resource_names_subscribe.len()), (Kind::Address.url(), 0));
    assert!(matches!(client.handle.status.borrow().link, Link::Connecting { .. }), "nothing has come yet");
    call.send(response(Kind::Address, "n1", &["a=1=x", "b=1=bad port", "c=1=z"], &[])).await;
    call.send(response(Kind::Authorization, "n2", &["p==r"], &[])).await;

    assert_eq!(call.request().await.type_url, Kind::Authorization.url());
    let nack = call.request().await;
    assert_eq!((&*nack.type_url, &*nack.response_nonce), (Kind::Address.url(), "n1"));
    let detail = nack.error_detail.unwrap();
    assert_eq!((detail.code, &*detail.message), (0, "b: bad port is bad"));
    let ack = call.request().await;
    assert_eq!((&*ack.type_url, &*ack.response_nonce, ack.error_detail), (Kind::Authorization.url(), "n2", None));
    assert_eq!(client.shelf.pages(), ["a=x", "c=z", "p=r"]);

    let status = client.until(Status::synced).await;
    assert!(matches!(status.link, Link::Connected { .. }));
    let addresses = status.kinds.of(Kind::Address);
    assert_eq!((addresses.resources, addresses.responses, addresses.rejected), (3, 1, 1));
    assert_eq!((&*status.refusals[0].name, &*status.refusals[0].reason), ("b", "bad port is bad"));
    let messages: Vec<_> = client.handle.counters.messages().map(|(_, messages, _)| messages).collect();
    assert_eq!(messages, [1, 1, 0]);
    assert!(client.handle.counters.messages().all(|(_, messages, bytes)| (messages > 0) == (bytes > 100)));
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_with_versions_and_the_token_of_then() {
    let mut istiod = Istiod::new().await;
    let client = start(istiod.config());
    let call = istiod.call().await;
    call.send(response(Kind::Address, "n", &["a=1f=x", "b=2=bad"], &[])).await;
    call.send(response(Kind::Authorization, "n", &["p==r", "q==s"], &[])).await;
    client.has(&["a=x", "p=r", "q=s"]).await;
    istiod.rotate("token-2");
    drop(call);

    let mut call = istiod.call().await;
    assert_eq!(call.headers.get("authorization").unwrap(), "Bearer token-2");
    let first = call.request().await;
    assert!(first.node.is_some());
    assert_eq!(first.initial_resource_versions, [("a".to_owned(), "1f".to_owned())].into());
    assert_eq!(call.request().await.initial_resource_versions.len(), 0);
    client.has(&["a=x", "p=r", "q=s"]).await;
    assert_eq!(client.handle.counters.terminations(Termination::Complete), 1);
    call.send(response(Kind::Authorization, "n", &["q==s"], &[])).await;
    call.send(response(Kind::Address, "n", &[], &["a"])).await;
    client.has(&["q=s"]).await;
}

#[tokio::test]
async fn an_istiod_that_goes_away_in_the_middle_of_a_response_changes_nothing() {
    let mut istiod = Istiod::new().await;
    let cut = istiod.behind_a_wire().await;
    let mut client = start(istiod.config());
    let mut call = istiod.call().await;
    begin(&mut call).await;
    call.send(response(Kind::Address, "n", &["a=1=x"], &[])).await;
    client.has(&["a=x"]).await;

    cut.after(500_000);
    let large = "x".repeat(1000);
    let resources: Vec<_> = (0..2000).map(|i| format!("n{i}=1={large}")).collect();
    let resources: Vec<_> = resources.iter().map(String::as_str).chain(["a=2=y"]).collect();
    call.send(response(Kind::Address, "m", &resources, &[])).await;
    client.until(|status| matches!(status.link, Link::Waiting { .. })).await;
    assert_eq!(client.shelf.pages(), ["a=x"]);
    let status = client.handle.status.borrow().clone();
    assert!(status.synced(), "what was in force stays in force");
    assert!(status.last_error.unwrap().1.starts_with("the connection to istiod broke: "));

    cut.after(usize::MAX);
    let mut call = istiod.call().await;
    assert_eq!(call.request().await.initial_resource_versions, [("a".to_owned(), "1".to_owned())].into());
    call.send(response(Kind::Address, "m", &resources, &[])).await;
    client.until(|status| status.kinds.of(Kind::Address).resources == 2001).await;
    assert!(client.shelf.pages().contains(&"a=y".to_owned()));
}

#[tokio::test]
async fn an_istiod_that_sends_garbage_is_left() {
    let mut istiod = Istiod::new().await;
    let client = start(istiod.config());
    let mut call = istiod.call().await;
    let mut message = response(Kind::Address, "n", &["a=1=x"], &[]);
    message.resources.insert(0, bytes::Bytes::from_static(b"\xff\xff\xff"));
    call.send(message).await;
    client.has(&["a=x"]).await;
    call.request().await;
    call.request().await;
    let refusal = call.request().await.error_detail.unwrap().message;
    assert!(refusal.starts_with("(a resource without a readable name): "), "{refusal}");

    call.send_raw(b"\xff\xff\xff".to_vec()).await;
    istiod.call().await;
    assert_eq!(client.handle.counters.terminations(Termination::Error), 1);
    let error = client.handle.status.borrow().last_error.clone().unwrap().1;
    assert!(error.starts_with("istiod sent what is no response: "), "{error}");
    assert_eq!(client.shelf.pages(), ["a=x"]);
}

#[tokio::test]
async fn an_istiod_of_another_root_is_not_believed_until_the_file_has_its_root() {
    let mut istiod = Istiod::new().await;
    let config = istiod.config();
    let path = root(&config);
    let right = std::fs::read(&path).unwrap();
    std::fs::write(&path, istiod::another_root()).unwrap();
    let mut client = start(config);
    let status = client.until(|status| status.last_error.is_some()).await;
    let (_, error) = status.last_error.unwrap();
    for part in [
        "cannot reach istiod at https://",
        "(trusting ",
        "invalid peer certificate",
        "maybe istiod has another root by now",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert_eq!(istiod.calls_waiting(), 0);
    assert!(client.handle.counters.terminations(Termination::ConnectionError) > 0);
    std::fs::write(&path, right).unwrap();
    begin(&mut istiod.call().await).await;
    client.until(Status::synced).await;
}

#[tokio::test]
async fn errors_name_the_likely_cause() {
    let istiod = Istiod::new().await;
    let check = async |change: &dyn Fn(&mut Config, &Path), parts: &[&str]| {
        let (mut config, folder) = (istiod.config(), istiod.folder());
        change(&mut config, folder);
        let error = error(config).await;
        parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
    };
    let named = |config: &mut Config, path: &Path| {
        config.security = Security::Tls { root: path.join("root.pem"), server_name: Some("other.test".to_owned()) };
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(&named, &["other.test", "another name"]).await;
    check(&|config, _| config.address = format!("https://{free}"), &["nothing listens there"]).await;
    check(&|config, _| config.address = "https://no-such-host.invalid:1".into(), &["cannot reach istiod at", "dns"])
        .await;
    check(&|config, path| config.token = Some(path.join("none")), &["none: No such file"]).await;
    check(&|config, path| config.token = Some(path.join("binary")), &["binary is not printable text"]).await;
    check(&|config, path| config.security = tls(path.join("none")), &["none: No such file"]).await;
    check(&|config, path| config.security = tls(path.join("token")), &["token has no certificate in it"]).await;
    check(&|config, path| config.token = Some(path.join("wrong")), &["unknown token", "maybe the token has expired"])
        .await;
    let plain = Istiod::plain().await;
    let port = plain.config().address.replace("http:", "https:");
    check(&|config, _| config.address.clone_from(&port), &["maybe that port speaks no TLS"]).await;
}

fn tls(root: PathBuf) -> Security {
    Security::Tls { root, server_name: None }
}

#[tokio::test]
async fn another_name_can_be_expected() {
    let mut istiod = Istiod::new().await;
    let mut config = istiod.config();
    config.security = Security::Tls { root: root(&config), server_name: Some("istiod.alt.test".to_owned()) };
    let mut client = start(config);
    begin(&mut istiod.call().await).await;
    client.until(Status::synced).await;
}

#[tokio::test]
async fn plaintext_when_it_is_asked_for() {
    let mut istiod = Istiod::plain().await;
    let mut config = istiod.config();
    config.token = None;
    let mut client = start(config);
    let mut call = istiod.call().await;
    assert_eq!(call.headers.get("authorization"), None);
    begin(&mut call).await;
    client.until(Status::synced).await;
}

#[tokio::test]
async fn on_demand_a_connection_waits_for_its_answer() {
    let mut istiod = Istiod::new().await;
    let config = Config { addresses: Mode::OnDemand, patience: Duration::from_secs(5), ..istiod.config() };
    let client = start(config);
    let mut call = istiod.call().await;
    let opening = call.request().await;
    assert_eq!(
        (&*opening.resource_names_subscribe, &*opening.resource_names_unsubscribe),
        (&["*".to_owned()][..], &["*".to_owned()][..])
    );
    call.request().await;

    let (demand, shelf) = (client.handle.demand.clone(), client.shelf.clone());
    let asking = async {
        let answer = demand.wanted("net/10.0.0.1").await;
        (answer, shelf.pages())
    };
    let serving = async {
        assert_eq!(call.request().await.resource_names_subscribe, ["net/10.0.0.1"]);
        let mut message = response(Kind::Address, "n", &[], &[]);
        message.resources.push(super::session::tests::encoded(Kind::Address, "uid", "1", "w", &["net/10.0.0.1"]));
        call.send(message).await;
        assert_eq!(call.request().await.response_nonce, "n");
    };
    let ((answer, pages), ()) = tokio::join!(asking, serving);
    assert_eq!((answer, pages), (Ok(()), vec!["uid=w".to_owned()]), "applied before anybody goes on");
    assert_eq!(demand.wanted("net/10.0.0.1").await, Ok(()), "at once");

    let serving = async {
        assert_eq!(call.request().await.resource_names_subscribe, ["net/10.0.0.2"]);
        call.send(response(Kind::Address, "m", &[], &["net/10.0.0.2"])).await;
    };
    let (answer, ()) = tokio::join!(demand.wanted("net/10.0.0.2"), serving);
    assert_eq!(answer, Ok(()), "that there is none is an answer");
    assert_eq!(call.request().await.response_nonce, "m");

    // An answer is believed for a moment; and longer when there is nobody to ask.
    sleep(Duration::from_millis(1100)).await;
    let serving = async {
        assert_eq!(call.request().await.resource_names_unsubscribe, ["net/10.0.0.2"]);
        assert_eq!(call.request().await.resource_names_subscribe, ["net/10.0.0.2"]);
        call.send(response(Kind::Address, "o", &["late=1=x"], &["net/10.0.0.2"])).await;
    };
    let (answer, ()) = tokio::join!(demand.wanted("net/10.0.0.2"), serving);
    assert_eq!((answer, shelf.pages().len()), (Ok(()), 2));
    call.fail(GrpcStatus::unavailable("gone")).await;
    drop(istiod);
    sleep(Duration::from_millis(1100)).await;
    let start = std::time::Instant::now();
    assert_eq!(demand.wanted("net/10.0.0.2").await, Ok(()));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn on_demand_nobody_waits_for_ever() {
    let mut istiod = Istiod::new().await;
    let patience = Duration::from_millis(300);
    let config = Config { addresses: Mode::OnDemand, patience, ..istiod.config() };
    let client = start(config);
    let demand = client.handle.demand.clone();
    let mut call = istiod.call().await;
    assert_eq!(demand.wanted("a").await, Err(NotAnswered::InTime(patience)));
    drop(call);
    call = istiod.call().await;
    call.request().await;
    call.request().await;
    assert_eq!(call.request().await.resource_names_subscribe, ["a"], "it is still wanted");
    assert_eq!(demand.wanted(&"long".repeat(1000)).await, Err(NotAnswered::TooMany));
    drop(client);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(demand.wanted("b").await, Err(NotAnswered::Ending));
}

#[tokio::test]
async fn on_demand_what_is_known_needs_no_istiod() {
    let mut istiod = Istiod::new().await;
    let patience = Duration::from_secs(5);
    let config = Config { addresses: Mode::OnDemand, patience, ..istiod.config() };
    let root = root(&config);
    let client = start(config);
    let demand = &client.handle.demand;
    let call = istiod.call().await;
    call.send(response(Kind::Address, "n", &["a=1=x"], &[])).await;
    client.has(&["a=x"]).await;
    let good = std::fs::read(&root).unwrap();
    std::fs::write(&root, "").unwrap();
    call.fail(GrpcStatus::internal("x")).await;
    let mut status = client.handle.status.clone();
    until(&mut status, |status| status.last_error.as_ref().is_some_and(|(_, text)| text.contains("no certificate")))
        .await;
    assert_eq!(timeout(patience / 5, demand.wanted("a")).await, Ok(Ok(())), "at once");
    let serving = async {
        std::fs::write(&root, good).unwrap();
        let mut call = istiod.call().await;
        call.request().await;
        call.request().await;
        assert_eq!(call.request().await.resource_names_subscribe, ["b"]);
        call.send(response(Kind::Address, "n", &["b=1=y"], &[])).await;
        call
    };
    let (answer, _call) = tokio::join!(demand.wanted("b"), serving);
    assert_eq!(answer, Ok(()));
}

#[tokio::test]
async fn where_everything_is_subscribed_there_is_nothing_to_wait_for() {
    let mut istiod = Istiod::new().await;
    let client = start(istiod.config());
    assert_eq!(client.handle.demand.wanted("net/10.0.0.1").await, Ok(()));
    let _call = istiod.call().await;
    assert_eq!(client.handle.demand.wanted("net/10.0.0.1").await, Ok(()));
}

#[tokio::test]
async fn ends_are_counted_by_their_reason() {
    let mut istiod = Istiod::new().await;
    let client = start(istiod.config());
    let ends = [
        (GrpcStatus::unknown("x"), Termination::Reconnect),
        (GrpcStatus::unavailable("transport is closing"), Termination::Reconnect),
        (GrpcStatus::unavailable("too busy"), Termination::Error),
        (GrpcStatus::internal("x"), Termination::Error),
    ];
    let mut expected = [0; 4];
    for (status, why) in ends {
        let text = status.message().to_owned();
        istiod.call().await.fail(status).await;
        expected[why as usize] += 1;
        let counters = Arc::clone(&client.handle.counters);
        let counted = || Termination::ALL.map(|why| counters.terminations(why));
        for _ in 0..500 {
            if counted() == expected {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(counted(), expected, "{text}");
        let error = client.handle.status.borrow().last_error.clone().unwrap().1;
        assert!(error.contains(&text), "{error}");
    }
}

#[tokio::test]
async fn answers_to_many_responses_come_in_order() {
    let mut istiod = Istiod::new().await;
    let client = start(istiod.config());
    let mut call = istiod.call().await;
    begin(&mut call).await;
    let send = async {
        for number in 0..200 {
            let resource = format!("a={}=x", number + 1);
            call.responses
                .send(Ok(response(Kind::Address, &number.to_string(), &[&resource], &[]).into()))
                .await
                .unwrap();
        }
    };
    let read = async {
        for number in 0..200 {
            assert_eq!(istiod::next(&mut call.requests).await.response_nonce, number.to_string());
        }
    };
    tokio::join!(send, read);
    drop(client);
}

#[tokio::test]
#[ignore = "takes as long as the limits it is about, 45 s"]
async fn an_istiod_that_falls_silent_is_given_up() {
    let mut istiod = Istiod::new().await;
    let wire = istiod.behind_a_wire().await;
    let mut client = start(istiod.config());
    let mut call = istiod.call().await;
    begin(&mut call).await;
    wire.hush();
    let start = std::time::Instant::now();
    let mut status = client.handle.status.clone();
    let ended = timeout(Duration::from_secs(60), status.wait_for(|status| status.last_error.is_some())).await;
    let error = ended.unwrap().unwrap().last_error.clone().unwrap().1;
    assert!((25..45).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(error.starts_with("the connection to istiod broke: "), "{error}");
    let handshake = client.until(|status| status.last_error.as_ref().is_some_and(|(_, text)| *text != error)).await;
    let error = handshake.last_error.unwrap().1;
    assert!(error.contains("cannot reach istiod") && error.contains("TLS handshake timeout"), "{error}");
}
