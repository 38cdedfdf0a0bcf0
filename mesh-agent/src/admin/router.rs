//! From method and path to an answer: a short list that the composition root fills with closures.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

/// What a route is asked.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    query: String,
    accept: Option<String>,
}

/// What it answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
    /// Whether the page exists under another method, and which.
    pub allow: Option<Method>,
}

type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;

struct Route {
    method: Method,
    path: &'static str,
    answer: Box<dyn Fn(Ask) -> Answer + Send + Sync>,
}

/// A set of pages.
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
}

impl Router {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a page; paths match exactly.
    #[must_use]
    pub fn route<F, A>(mut self, method: Method, path: &'static str, answer: F) -> Self
    where
        F: Fn(Ask) -> A + Send + Sync + 'static,
        A: Future<Output = Reply> + Send + 'static,
    {
        self.routes.push(Route { method, path, answer: Box::new(move |ask| Box::pin(answer(ask))) });
        self
    }

    /// Adds a page of JSON that `document` makes anew for each request.
    #[must_use]
    pub fn json<F, A, D>(self, path: &'static str, document: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = D> + Send + 'static,
        D: Serialize,
    {
        self.route(Method::GET, path, move |_| {
            let document = document();
            async move { Reply::json(&document.await) }
        })
    }

    pub(super) async fn answer(&self, method: &Method, path: &str, query: Option<&str>, accept: Option<&str>) -> Reply {
        let ask = Ask { query: query.unwrap_or_default().to_owned(), accept: accept.map(str::to_owned) };
        match self.find(method, path) {
            Ok(route) => (route.answer)(ask).await,
            Err(reply) => reply,
        }
    }

    fn find(&self, method: &Method, path: &str) -> Result<&Route, Reply> {
        let mut allow = None;
        for route in self.routes.iter().filter(|route| route.path == path) {
            if route.method == *method {
                return Ok(route);
            }
            allow = Some(route.method.clone());
        }
        Err(match allow {
            Some(allow) => Reply {
                allow: Some(allow.clone()),
                ..Reply::text(format!("use {allow}")).with_status(StatusCode::METHOD_NOT_ALLOWED)
            },
            None => Reply::text("no such page").with_status(StatusCode::NOT_FOUND),
        })
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| (&route.method, route.path))).finish()
    }
}

impl Ask {
    /// The `Accept` header.
    pub fn accept(&self) -> Option<&str> {
        self.accept.as_deref()
    }

    /// The value of a query parameter, decoded; empty for one that has no value.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decode(value))
    }
}

/// Decodes `%XX` and `+`; anything malformed stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high * 16 + low);
                    rest = after;
                }
                (None, _) | (_, None) => bytes.push(b'%'),
            },
            (other, _) => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

impl Reply {
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; charset=utf-8", body: body.into(), allow: None }
    }

    /// A page whose type the caller knows.
    pub fn page(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { content_type, ..Self::text(body) }
    }

    /// A document, as JSON.
    pub fn json(document: &impl Serialize) -> Self {
        match serde_json::to_vec(document) {
            Ok(body) => Self::page("application/json", body),
            Err(error) => Self::text(error.to_string()).with_status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ask, decode};

    #[test]
    fn queries() {
        let cases = [
            ("level=info", "level", Some("info")),
            ("reset", "reset", Some("")),
            ("a=1&level=info%2Caccess%3Ddebug", "level", Some("info,access=debug")),
            ("level=a=b", "level", Some("a=b")),
            ("a=1", "level", None),
            ("", "level", None),
        ];
        for (query, name, value) in cases {
            let ask = Ask { query: query.to_owned(), accept: None };
            assert_eq!(ask.parameter(name).as_deref(), value, "{query}");
        }
        for (text, decoded) in [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("a+b%41", "a bA"), ("%ff", "\u{fffd}")] {
            assert_eq!(decode(text), decoded, "{text}");
        }
    }
}
