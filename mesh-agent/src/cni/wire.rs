//! What the plugin and the agent say to each other: one line of JSON each way, with the version of the protocol in front.
//!
//! The two may be of different releases for a moment, while an agent replaces another one's plugin: fields that one of them
//! does not know are passed over, and another version is refused with a sentence.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the protocol.
const VERSION: u32 = 1;
/// The longest line, its end included, in bytes.
pub const LONGEST: usize = 64 * 1024;
/// The longest reason in an answer, in bytes: it becomes an event of the pod.
const LONGEST_REASON: usize = 4096;

/// What the runtime tells of a pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The runtime's id of the sandbox.
    pub container: String,
    /// The pod's Kubernetes uid; runtimes of old do not tell it.
    pub uid: Option<String>,
    pub name: String,
    pub namespace: String,
    /// Where the pod's network namespace is found.
    pub netns: PathBuf,
    /// The pod's interface in it.
    pub interface: String,
    /// The pod's addresses, canonical.
    pub addresses: Vec<IpAddr>,
}

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A sandbox has its interface, and its containers are about to start.
    Add(Sandbox),
    /// Is all well with it?
    Check(Sandbox),
    /// A sandbox is about to be removed. It may be told several times, or of one that was never added.
    Delete { container: String, uid: Option<String> },
    /// All sandboxes that there are.
    Gc { containers: Vec<String> },
    /// Could a sandbox be added now?
    Status,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The pod is in the mesh, and captured. To what is not about one pod: yes.
    Member,
    /// The pod is not in the mesh, for this reason.
    Outside(String),
    /// Not now, for this reason.
    Refused(String),
}

/// Why a line cannot be sent or is not understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the message has {0} bytes, and {LONGEST} are the limit")]
    TooLong(usize),
    #[error(
        "the other side speaks version {0} of the plugin's protocol, this one version {VERSION}; the plugin and the agent \
         are of different releases, and the agent is about to replace the plugin by its own"
    )]
    Version(u32),
    #[error("the message cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the message is cut off")]
    Cut,
    #[error("the message {0}")]
    Bad(&'static str),
}

/// What a line has beside its version.
pub trait Message: Serialize + DeserializeOwned {
    /// Whether the fields can be what they should be; else what is wrong.
    fn check(&self) -> Result<(), &'static str>;
}

#[derive(Serialize)]
struct Sent<'a, M> {
    v: u32,
    message: &'a M,
}

#[derive(Deserialize)]
struct Received<M> {
    message: M,
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

/// A message as its line.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, WireError> {
    message.check().map_err(WireError::Bad)?;
    let mut line = serde_json::to_vec(&Sent { v: VERSION, message })?;
    line.push(b'\n');
    if line.len() > LONGEST { Err(WireError::TooLong(line.len())) } else { Ok(line) }
}

/// The message of a line, which has its end.
pub fn decode<M: Message>(line: &[u8]) -> Result<M, WireError> {
    if line.len() > LONGEST {
        return Err(WireError::TooLong(line.len()));
    }
    let line = line.strip_suffix(b"\n").ok_or(WireError::Cut)?;
    // What another version has beside it may be anything.
    let Versioned { v } = serde_json::from_slice(line)?;
    if v != VERSION {
        return Err(WireError::Version(v));
    }
    let Received { message } = serde_json::from_slice::<Received<M>>(line)?;
    message.check().map_err(WireError::Bad)?;
    Ok(message)
}

impl Message for Request {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Add(sandbox) | Self::Check(sandbox) => sandbox.check(),
            Self::Delete { container, .. } if container.is_empty() => Err("has no container's id"),
            Self::Gc { containers } if containers.iter().any(String::is_empty) => Err("has no container's id"),
            Self::Delete { .. } | Self::Gc { .. } | Self::Status => Ok(()),
        }
    }
}

impl Message for Answer {
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Sandbox {
    fn check(&self) -> Result<(), &'static str> {
        if self.container.is_empty() {
            Err("has no container's id")
        } else if self.name.is_empty() || self.namespace.is_empty() {
            Err("does not name the pod")
        } else if !self.netns.is_absolute() {
            Err("has no absolute path of the pod's network namespace")
        } else if self.interface.is_empty() {
            Err("does not name the pod's interface")
        } else {
            Ok(())
        }
    }
}

impl Answer {
    /// The answer with a reason that is not too long.
    pub fn shortened(self) -> Self {
        let cut = |mut reason: String| {
            reason.truncate(reason.floor_char_boundary(LONGEST_REASON));
            reason
        };
        match self {
            Self::Member => Self::Member,
            Self::Outside(reason) => Self::Outside(cut(reason)),
            Self::Refused(reason) => Self::Refused(cut(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sandbox() -> Sandbox {
        Sandbox {
            container: "c1".into(),
            uid: Some("u1".into()),
            name: "web".into(),
            namespace: "shop".into(),
            netns: "/run/netns/a".into(),
            interface: "eth0".into(),
            addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        }
    }

    #[test]
    fn a_line_is_what_it_says() {
        let line = encode(&Request::Add(sandbox())).unwrap();
        let expected = r#"{"v":1,"message":{"add":{"container":"c1","uid":"u1","name":"web","namespace":"shop","netns":"/run/netns/a","interface":"eth0","addresses":["10.0.0.7","fd00::7"]}}}"#;
        assert_eq!(String::from_utf8(line).unwrap(), format!("{expected}\n"));
        let cases: [(Answer, &str); 2] =
            [(Answer::Member, r#""member""#), (Answer::Refused("no".into()), r#"{"refused":"no"}"#)];
        for (answer, text) in cases {
            let line = format!("{{\"v\":1,\"message\":{text}}}\n").into_bytes();
            assert_eq!(encode(&answer).unwrap(), line);
            assert_eq!(decode::<Answer>(&line).unwrap(), answer);
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let long = format!("{{\"v\":1,\"message\":\"status\"}}{}\n", " ".repeat(LONGEST));
        let cases = [
            (r#"{"v":1,"message":"status"}"#, "cut off"),
            ("{\"v\":2,\"news\":[]}\n", "speaks version 2"),
            ("{\"v\":1,\"message\":\"nothing\"}\n", "unknown variant `nothing`"),
            ("{\"message\":\"status\"}\n", "missing field `v`"),
            ("\n", "cannot be read"),
            ("[]\n", "cannot be read"),
            (&long, "65536 are the limit"),
            ("{\"v\":1,\"message\":{\"delete\":{\"container\":\"\",\"uid\":null}}}\n", "no container's id"),
        ];
        for (line, expected) in cases {
            let error = decode::<Request>(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{line:?}: {error}");
        }
        let later = "{\"v\":1,\"when\":3,\"message\":{\"delete\":{\"container\":\"c\",\"uid\":null,\"why\":\"x\"}}}\n";
        assert!(decode::<Request>(later.as_bytes()).is_ok(), "what a later release adds is passed over");
    }

    #[test]
    fn both_ends_check() {
        let wrong: [fn(&mut Sandbox); 5] = [
            |sandbox| sandbox.container.clear(),
            |sandbox| sandbox.name.clear(),
            |sandbox| sandbox.namespace.clear(),
            |sandbox| sandbox.netns = "run/netns".into(),
            |sandbox| sandbox.interface.clear(),
        ];
        for spoil in wrong {
            let mut sandbox = sandbox();
            spoil(&mut sandbox);
            assert!(matches!(encode(&Request::Check(sandbox.clone())), Err(WireError::Bad(_))));
            let line = serde_json::json!({"v": 1, "message": {"check": sandbox}}).to_string() + "\n";
            assert!(matches!(decode::<Request>(line.as_bytes()), Err(WireError::Bad(_))));
        }
        let containers = vec!["x".repeat(64); 2000];
        assert!(matches!(encode(&Request::Gc { containers }), Err(WireError::TooLong(_))));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let Answer::Refused(reason) = Answer::Refused("ä€".repeat(5000)).shortened() else {
            panic!("another answer")
        };
        assert!(reason.len() <= LONGEST_REASON && reason.len() > LONGEST_REASON - 3);
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _never_panics = (decode::<Request>(&bytes), decode::<Answer>(&bytes));
        }

        #[test]
        fn messages_come_through(
            texts in prop::collection::vec("[^\0]{1,20}", 5), uid in prop::option::of(".*"),
            addresses in prop::collection::vec(any::<IpAddr>(), 0..4),
        ) {
            let [container, name, namespace, path, interface] = texts.try_into().unwrap();
            let netns = PathBuf::from(format!("/{path}"));
            let request = Request::Add(Sandbox { container, uid, name, namespace, netns, interface, addresses });
            prop_assert_eq!(decode::<Request>(&encode(&request).unwrap()).unwrap(), request);
        }
    }
}
