//! SPIFFE identities in Istio's form: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A workload identity. Cheap to clone: all clones share one allocation.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<Parts>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    /// The whole URI; the three parts are ranges of it.
    uri: String,
    namespace_at: usize,
    account_at: usize,
}

/// What every identity begins with, as a URI.
pub(super) const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE identity of the mesh's form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
pub struct BadIdentity {
    text: String,
}

impl Identity {
    /// Builds an identity from its parts; fails when a part is empty or contains a slash.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, BadIdentity> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// Whether there is another clone of it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub fn trust_domain(&self) -> &str {
        &self.0.uri[SCHEME.len()..self.0.namespace_at - "/ns/".len()]
    }

    pub fn namespace(&self) -> &str {
        &self.0.uri[self.0.namespace_at..self.0.account_at - "/sa/".len()]
    }

    pub fn service_account(&self) -> &str {
        &self.0.uri[self.0.account_at..]
    }

    /// Namespace and service account as one text: `NAMESPACE/sa/SERVICE-ACCOUNT`.
    pub(super) fn account_path(&self) -> &str {
        &self.0.uri[self.0.namespace_at..]
    }

    /// The whole identity as a URI.
    pub fn uri(&self) -> &str {
        &self.0.uri
    }

    /// The form that AuthorizationPolicy principals are written in: without the scheme.
    pub fn principal(&self) -> &str {
        &self.0.uri[SCHEME.len()..]
    }
}

impl FromStr for Identity {
    type Err = BadIdentity;

    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let bad = || BadIdentity { text: text.chars().take(256).collect() };
        let path = text.strip_prefix(SCHEME).ok_or_else(bad)?;
        let mut parts = path.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        if domain.is_empty() || namespace.is_empty() || account.is_empty() {
            return Err(bad());
        }
        let namespace_at = SCHEME.len() + domain.len() + "/ns/".len();
        let account_at = namespace_at + namespace.len() + "/sa/".len();
        Ok(Self(Arc::new(Parts { uri: text.to_owned(), namespace_at, account_at })))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri())
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn parts_of_a_uri() {
        let id: Identity = "spiffe://td.example/ns/shop/sa/cart".parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("td.example", "shop", "cart"));
        assert_eq!(id.principal(), "td.example/ns/shop/sa/cart");
        assert_eq!(Identity::new("td.example", "shop", "cart").unwrap(), id);
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/sa/b/ns/a",
            "https://td/ns/a/sa/b",
            "td/ns/a/sa/b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
