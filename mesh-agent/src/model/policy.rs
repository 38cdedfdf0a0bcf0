//! AuthorizationPolicy at layer 4, in the form the data path evaluates (protocol note, sections 3 and 8.4).

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

/// `namespace/name` of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// Only workloads that list it.
    WorkloadSelector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    #[default]
    Enforced,
    /// Evaluated for the log only.
    DryRun,
    /// There is such a policy, and nobody here can tell what it says: it denies whatever it may apply to.
    Unreadable,
}

/// One policy. It matches if any rule does; without rules it never matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: PolicyName,
    pub scope: Scope,
    pub action: Action,
    pub enforcement: Enforcement,
    pub rules: Vec<Rule>,
}

impl Policy {
    /// What stands for a policy that could not be read.
    pub fn unreadable(name: PolicyName, scope: Scope) -> Self {
        Self { name, scope, action: Action::Deny, enforcement: Enforcement::Unreadable, rules: Vec::new() }
    }
}

/// Matches if all clauses do; without clauses it always matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    pub clauses: Vec<Clause>,
}

/// Matches if any match does; without matches it always matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Clause {
    pub matches: Vec<Match>,
}

/// Matches if all fields that are set do; with no field set it never matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
}

/// Case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Any non-empty text: an identity exists.
    Presence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    pub namespace: String,
    pub service_account: String,
}
