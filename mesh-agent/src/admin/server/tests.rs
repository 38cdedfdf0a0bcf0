//! What a client of the admin server can see and do.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{BindError, Listener, bind, bind_socket, serve};
use crate::admin::router::{Reply, Router};
use crate::task::Tasks;

fn pages() -> Arc<Router> {
    let pages = Router::new()
        .json("/list", || async { ["a", "b"] })
        .route(Method::POST, "/echo", |ask| async move { Reply::text(ask.parameter("say").unwrap_or_default()) })
        .route(Method::GET, "/broken", |_| async { Reply::text("x").with_status(StatusCode::IM_A_TEAPOT) });
    Arc::new(pages)
}

async fn exchange(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, head: &str) -> String {
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pages_over_tcp() {
    let listener = bind("127.0.0.1:0".parse().unwrap(), "tests").unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.port().unwrap()));
    let tasks = Tasks::new();
    tasks.spawn(serve(listener, pages(), tasks.clone()));
    let long = "x".repeat(20_000);
    let cases = [
        ("GET /list", "200 OK", "content-type: application/json", "[\"a\",\"b\"]"),
        ("POST /echo?say=a%20b", "200 OK", "content-type: text/plain", "a b"),
        ("GET /echo", "405 Method Not Allowed", "allow: POST", "use POST"),
        ("GET /broken", "418 I'm a teapot", "content-length: 1", "x"),
        ("GET /other", "404 Not Found", "content-type: text/plain", "no such page"),
        (&format!("GET /{long}"), "431 Request Header Fields Too Large", "content-length: 0", ""),
    ];
    for (line, status, header, body) in cases {
        let stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = exchange(stream, &head).await;
        let (head, got) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line:.20}: {answer:?}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line:.20}: {head}");
        assert!(head.contains(header), "{line:.20}: {head}");
        assert_eq!(got, body, "{line:.20}");
    }
    let taken = bind(address, "metrics").unwrap_err().to_string();
    let expected = format!(
        "cannot listen on {address} for metrics: Address already in use (os error 98); \
         another agent or another program holds the port"
    );
    assert_eq!(taken, expected);
    tasks.drain(Duration::from_secs(5)).await;
    assert!(TcpStream::connect(address).await.is_err(), "stopped, and still listening");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_socket_is_private_and_replaces_a_stale_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deeper/admin.sock");
    drop(bind_socket(&path).unwrap());
    assert!(path.exists(), "a dead agent's socket stays behind");
    let listener = bind_socket(&path).unwrap();
    assert!(matches!(listener, Listener::Unix(_)) && listener.port().is_none());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let tasks = Tasks::new();
    tasks.spawn(serve(listener, pages(), tasks.clone()));
    let stream = UnixStream::connect(&path).await.unwrap();
    let answer = exchange(stream, "GET /list HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\n[\"a\",\"b\"]"), "{answer}");
    assert!(matches!(bind_socket(&path), Err(BindError::Taken(_))));
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind_socket(&file), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    tasks.drain(Duration::from_secs(5)).await;
}
