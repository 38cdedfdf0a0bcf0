//! `istio.security.Authorization`.

use ipnet::IpNet;

use super::address::net;
use super::{Texts, Unusable, port};
use crate::model::policy::{
    Action, Clause, Enforcement, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use crate::proto::security as wire;

pub(super) fn convert(policy: wire::Authorization, texts: &mut Texts) -> Result<Policy, Unusable> {
    if policy.name.is_empty() {
        return Err(Unusable::Missing { field: "name" });
    }
    let unknown = |field, value| move |_| Unusable::UnknownValue { field, value };
    let action = wire::Action::try_from(policy.action).map_err(unknown("action", policy.action))?;
    Ok(Policy {
        name: PolicyName { namespace: texts.shared(&policy.namespace), name: texts.shared(&policy.name) },
        scope: scope(policy.scope)?,
        action: match action {
            wire::Action::Allow => Action::Allow,
            wire::Action::Deny => Action::Deny,
        },
        enforcement: if policy.dry_run { Enforcement::DryRun } else { Enforcement::Enforced },
        rules: policy.rules.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

pub(super) fn scope(value: i32) -> Result<Scope, Unusable> {
    let unknown = |_| Unusable::UnknownValue { field: "scope", value };
    Ok(match wire::Scope::try_from(value).map_err(unknown)? {
        wire::Scope::Global => Scope::Global,
        wire::Scope::Namespace => Scope::Namespace,
        wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
    })
}

fn rule(rule: &wire::Rule) -> Result<Rule, Unusable> {
    let clause = |clause: &wire::Clause| {
        let matches = clause.matches.iter().map(fields).collect::<Result<_, _>>()?;
        Ok::<_, Unusable>(Clause { matches })
    };
    Ok(Rule { clauses: rule.clauses.iter().map(clause).collect::<Result<_, _>>()? })
}

/// A match whose fields we all know. (One that we do not know would be lost in decoding, and an empty match matches never.)
fn fields(fields: &wire::Match) -> Result<Match, Unusable> {
    Ok(Match {
        namespaces: texts("namespaces", &fields.namespaces)?,
        not_namespaces: texts("not_namespaces", &fields.not_namespaces)?,
        principals: texts("principals", &fields.principals)?,
        not_principals: texts("not_principals", &fields.not_principals)?,
        service_accounts: accounts(&fields.service_accounts),
        not_service_accounts: accounts(&fields.not_service_accounts),
        source_ips: nets("source_ips", &fields.source_ips)?,
        not_source_ips: nets("not_source_ips", &fields.not_source_ips)?,
        destination_ips: nets("destination_ips", &fields.destination_ips)?,
        not_destination_ips: nets("not_destination_ips", &fields.not_destination_ips)?,
        destination_ports: fields.destination_ports.iter().map(|number| port(*number)).collect(),
        not_destination_ports: fields.not_destination_ports.iter().map(|number| port(*number)).collect(),
    })
}

fn texts(field: &'static str, matches: &[wire::StringMatch]) -> Result<Vec<StringMatch>, Unusable> {
    use wire::string_match::MatchType;
    let convert = |one: &wire::StringMatch| match one.match_type.as_ref() {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.clone())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.clone())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.clone())),
        Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
        None => Err(Unusable::Missing { field }),
    };
    matches.iter().map(convert).collect()
}

fn accounts(matches: &[wire::ServiceAccountMatch]) -> Vec<ServiceAccountMatch> {
    let convert = |one: &wire::ServiceAccountMatch| ServiceAccountMatch {
        namespace: one.namespace.clone(),
        service_account: one.service_account.clone(),
    };
    matches.iter().map(convert).collect()
}

fn nets(field: &'static str, addresses: &[wire::Address]) -> Result<Vec<IpNet>, Unusable> {
    addresses.iter().map(|one| net(field, &one.address, one.length)).collect()
}
