//! Requests to the API server: where they go, the token in them, and how long they may take.

use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, Limited, StreamBody};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use kube::client::middleware::BaseUriLayer;
use kube::core::Status;
use tokio::time::{Instant, sleep_until, timeout};
use tower::{BoxError, Layer, service_fn};

use super::connector::{self, Connector};
use super::error::BadFile;
use super::{ApiError, Settings};

/// For a whole answer, or for the head of one that goes on.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes. Watches are not limited as a whole.
const LONGEST: usize = 128 << 20;
/// How long a watch lasts at least, also one that the server ends at once: the next one is asked for when it ends.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// Pings while something is under way, and how long their answer may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);

/// Connections to the API server. Clones share them.
#[derive(Clone)]
pub(super) struct Http {
    client: legacy::Client<Connector, Body>,
    base: Uri,
    settings: Arc<Settings>,
}

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

impl Http {
    /// Fails where the first request would for want of something on this side.
    pub(super) fn new(settings: &Arc<Settings>) -> Result<Self, ApiError> {
        let base = base(&settings.address)?;
        connector::roots(&settings.root)?;
        bearer(&settings.token)?;
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PONG)
            .build(Connector::new(&settings.root));
        Ok(Self { client, base, settings: Arc::clone(settings) })
    }

    /// A client over these connections. It calls `answered` whenever the API server begins to answer as it should.
    pub(super) fn client(&self, answered: impl Fn() + Clone + Send + Sync + 'static) -> kube::Client {
        let http = self.clone();
        let service = service_fn(move |request| {
            let (http, answered) = (http.clone(), answered.clone());
            async move {
                let answer = http.exchange(request).await?;
                if answer.status().is_success() {
                    answered();
                }
                Ok::<_, BoxError>(answer)
            }
        });
        kube::Client::new(BaseUriLayer::new(self.base.clone()).layer(service), "default")
    }

    /// Fails with an [`ApiError`], or with the library's own error for what the API server refuses.
    async fn exchange(&self, mut request: Request<Body>) -> Result<Answer, BoxError> {
        let headers = request.headers_mut();
        let bearer = bearer(&self.settings.token).map_err(ApiError::from)?;
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("mesh-agent/", env!("CARGO_PKG_VERSION"))));
        let late = |_| ApiError::Silent { address: self.settings.address.clone() };
        if is_watch(request.uri()) {
            timeout(LIMIT, self.streamed(request)).await.map_err(late)?
        } else {
            Ok(timeout(LIMIT, self.whole(request)).await.map_err(late)??)
        }
    }

    async fn whole(&self, request: Request<Body>) -> Result<Answer, ApiError> {
        let answer = self.client.request(request).await.map_err(|error| self.failed(&error))?;
        let (head, body) = answer.into_parts();
        let body = Full::new(collected(body).await?).map_err(|never| match never {});
        Ok(Response::from_parts(head, body.boxed_unsync()))
    }

    async fn streamed(&self, request: Request<Body>) -> Result<Answer, BoxError> {
        let until = Instant::now() + SHORTEST_WATCH;
        let answer = self.client.request(request).await.map_err(|error| self.failed(&error))?;
        let code = answer.status();
        if !code.is_success() {
            // The library would take the text for events.
            let status = refusal(code.as_u16(), &collected(answer.into_body()).await?);
            return Err(kube::Error::Api(Box::new(status)).into());
        }
        let rest = stream::once(sleep_until(until)).filter_map(|()| ready(None));
        Ok(answer.map(|body| {
            let frames = BodyStream::new(body).map(|frame| frame.map_err(BoxError::from));
            StreamBody::new(frames.chain(rest)).boxed_unsync()
        }))
    }

    fn failed(&self, error: &legacy::Error) -> ApiError {
        ApiError::of_http(error, &self.settings)
    }
}

async fn collected<B>(body: B) -> Result<Bytes, ApiError>
where
    B: hyper::body::Body<Error: Into<BoxError>>,
{
    let collected = Limited::new(body, LONGEST).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| ApiError::broken(&*error))
}

/// What a refusal says. One that does not come from the API server itself is any text.
fn refusal(code: u16, body: &[u8]) -> Status {
    let text = || Status::failure(&String::from_utf8_lossy(body), "").with_code(code);
    serde_json::from_slice(body).unwrap_or_else(|_| text())
}

fn base(address: &str) -> Result<Uri, ApiError> {
    let uri = address.parse::<Uri>().ok();
    uri.filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty()))
        .ok_or_else(|| ApiError::Address(address.to_owned()))
}

/// Read anew for each request, of which there are few.
fn bearer(path: &Path) -> Result<HeaderValue, BadFile> {
    let token = std::fs::read_to_string(path).map_err(|cause| BadFile::unreadable(path, &cause))?;
    let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| BadFile::Token(path.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}

#[cfg(test)]
mod tests {
    use super::{base, is_watch};

    #[test]
    fn addresses() {
        for good in
            ["https://10.96.0.1:443", "https://kubernetes.default.svc", "https://[fd00::1]:6443", "https://a/k8s"]
        {
            assert!(base(good).is_ok(), "{good}");
        }
        for bad in ["", "http://10.96.0.1:8080", "10.96.0.1:443", "https://", "https:// a", "unix:/run/x"] {
            let text = base(bad).unwrap_err().to_string();
            assert_eq!(text, format!("{bad:?} is no address of an API server: expected https://host:port"));
        }
    }

    #[test]
    fn watches_are_told_apart() {
        let watch = |uri: &str| is_watch(&uri.parse().unwrap());
        assert!(watch("https://a/api/v1/pods?watch=true&timeoutSeconds=200"));
        assert!(watch("https://a/api/v1/pods?a=b&watch=true"));
        assert!(!watch("https://a/api/v1/pods?limit=500"));
        assert!(!watch("https://a/api/v1/namespaces/watch/pods/watch"));
        assert!(!watch("https://a/api/v1/pods?fieldSelector=a%3Dwatch=true"));
    }
}
