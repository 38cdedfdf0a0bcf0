//! The socket from outside: who may ask, how much, how long; and what becomes of questions whose asker has gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::*;

const SOON: Duration = Duration::from_secs(10);
const STATUS: &[u8] = b"{\"v\":1,\"message\":\"status\"}\n";

/// An agent's end, and where it is.
struct Scene {
    path: PathBuf,
    questions: mpsc::Receiver<Asked>,
    tasks: Tasks,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/cni.sock");
        let tasks = Tasks::new();
        Self { questions: serve(&path, &tasks).unwrap(), path, tasks, directory }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    async fn next(&mut self) -> Asked {
        timeout(SOON, self.questions.recv()).await.expect("a question comes").unwrap()
    }
}

async fn sent(scene: &Scene, bytes: &[u8]) -> UnixStream {
    let mut stream = scene.connect().await;
    stream.write_all(bytes).await.unwrap();
    stream
}

/// All that comes until the end.
async fn answer(mut stream: UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    // A connection with unread bytes is reset rather than ended.
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it ends").ok();
    answer
}

fn refused(answer: &[u8]) -> String {
    match wire::decode(answer) {
        Ok(Answer::Refused(reason)) => reason,
        other => panic!("{other:?} in {}", String::from_utf8_lossy(answer)),
    }
}

#[tokio::test]
async fn questions_are_answered_in_any_order() {
    let mut scene = Scene::new();
    let first = sent(&scene, b"{\"v\":1,\"message\":{\"delete\":{\"container\":\"c\",\"uid\":\"u\"}}}\n").await;
    let asked = scene.next().await;
    assert_eq!(asked.request, Request::Delete { container: "c".into(), uid: Some("u".into()) });
    let second = sent(&scene, STATUS).await;
    scene.next().await.reply.send(Answer::Outside("not now".into())).unwrap();
    assert_eq!(answer(second).await, b"{\"v\":1,\"message\":{\"outside\":\"not now\"}}\n");
    asked.reply.send(Answer::Member).unwrap();
    assert_eq!(answer(first).await, b"{\"v\":1,\"message\":\"member\"}\n");
}

#[tokio::test]
async fn what_is_no_question_is_refused_with_a_reason() {
    let mut scene = Scene::new();
    let mut long = vec![b' '; LONGEST];
    long.push(b'\n');
    let cases: [(&[u8], &str); 4] = [
        (b"{\"v\":2}\n", "speaks version 2"),
        (b"\xff\n", "cannot be read"),
        (b"{\"v\":1,\"message\":{\"gc\":{\"containers\":[\"\"]}}}\n", "no container's id"),
        (&long, "65536 are the limit"),
    ];
    for (line, expected) in cases {
        let reason = refused(&answer(sent(&scene, line).await).await);
        assert!(reason.contains(expected), "{reason}");
    }
    assert!(scene.questions.try_recv().is_err(), "none of them is asked");
}

#[tokio::test]
async fn a_long_reason_comes_shortened() {
    let mut scene = Scene::new();
    let stream = sent(&scene, STATUS).await;
    scene.next().await.reply.send(Answer::Refused("long ".repeat(100_000))).unwrap();
    assert!(refused(&answer(stream).await).starts_with("long long"));
}

#[tokio::test]
async fn a_question_ends_with_its_asker() {
    let mut scene = Scene::new();
    let stream = sent(&scene, STATUS).await;
    let mut asked = scene.next().await;
    assert!(!asked.reply.is_closed());
    drop(stream);
    timeout(SOON, asked.reply.closed()).await.expect("the reply is closed");
}

#[tokio::test]
async fn an_agent_that_ends_says_so_or_hangs_up() {
    let mut scene = Scene::new();
    let stream = sent(&scene, STATUS).await;
    drop(scene.next().await.reply);
    assert_eq!(refused(&answer(stream).await), "the agent is stopping");
    let stream = sent(&scene, STATUS).await;
    let _asked = scene.next().await;
    scene.tasks.stop();
    assert_eq!(answer(stream).await, b"");
    assert!(timeout(SOON, scene.questions.recv()).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn who_sends_no_question_is_let_go() {
    let scene = Scene::new();
    for part in [&b""[..], b"{\"v\":1,"] {
        let (stream, start) = (sent(&scene, part).await, Instant::now());
        assert_eq!(answer(stream).await, b"");
        assert!(start.elapsed() >= TRANSFER);
    }
}

#[tokio::test]
async fn only_so_many_connections_at_a_time() {
    let mut scene = Scene::new();
    let mut idle = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        idle.push(scene.connect().await);
    }
    let late = sent(&scene, STATUS).await;
    sleep(Duration::from_millis(100)).await;
    assert!(scene.questions.try_recv().is_err(), "it waits");
    idle.pop();
    scene.next().await.reply.send(Answer::Member).unwrap();
    assert_eq!(wire::decode::<Answer>(&answer(late).await).unwrap(), Answer::Member);
}

#[tokio::test]
async fn only_one_agent_and_only_root() {
    let mut scene = Scene::new();
    assert_eq!(fs::metadata(&scene.path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = serve(&scene.path, &scene.tasks).unwrap_err().to_string();
    assert!(error.contains("another agent answers on"), "{error}");
    if !geteuid().is_root() {
        return;
    }
    // Even when the file would let others in.
    for (path, mode) in [(scene.directory.path(), 0o755), (scene.path.as_path(), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = scene.path.clone();
    let stranger = crate::sys::thread::spawn("stranger", move || {
        let nobody = rustix::fs::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        // It may have been shown the door already.
        std::io::Write::write_all(&mut &stream, STATUS).ok();
        stream
    });
    let stream = tokio::task::spawn_blocking(move || stranger.unwrap().join().unwrap()).await.unwrap();
    stream.set_nonblocking(true).unwrap();
    assert_eq!(answer(UnixStream::from_std(stream).unwrap()).await, b"");
    assert!(scene.questions.try_recv().is_err());
    let root = sent(&scene, STATUS).await;
    scene.next().await.reply.send(Answer::Member).unwrap();
    assert!(!answer(root).await.is_empty());
}
