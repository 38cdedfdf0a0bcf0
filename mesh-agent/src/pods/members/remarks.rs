//! What there is to say of the node's pods besides how their capture is doing.

use std::fmt;

use super::member::{Known, Member};
use crate::kubernetes::{Outside, Standing};

/// One pod, and one thing about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    pub namespace: String,
    pub name: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is not in the mesh.
    Outside(Outside),
    /// It should be captured, and its namespace is not known; the last reason why it was not found.
    Sought(String),
    /// The annotation that tells istiod of the capture is not as it should be.
    Unmarked(String),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside(reason) => reason.fmt(f),
            Self::Sought(reason) => write!(f, "its network namespace is looked for: {reason}"),
            Self::Unmarked(error) => write!(f, "its annotation could not be written: {error}"),
        }
    }
}

pub(super) fn of(member: &Member) -> Vec<Remark> {
    let mut all = Vec::new();
    if member.known == Known::Pictured
        && let Standing::Outside(reason) = member.pod.standing
    {
        all.push(What::Outside(reason));
    }
    if member.is_member() && member.site.is_none() {
        let none = if member.pod.addresses.is_empty() { "it has no address yet" } else { "it was not looked for yet" };
        all.push(What::Sought(member.lost.clone().unwrap_or_else(|| none.to_owned())));
    }
    all.extend(member.marking.error.clone().map(What::Unmarked));
    let (namespace, name) = (&member.pod.namespace, &member.pod.name);
    all.into_iter().map(|what| Remark { namespace: namespace.clone(), name: name.clone(), what }).collect()
}
