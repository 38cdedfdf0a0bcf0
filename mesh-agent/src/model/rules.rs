//! Rules that are found by something they require, so that a decision looks at those few that may match and not at all of
//! them.
//!
//! A rule needs all of its clauses, and a clause one of its matches: if every match of a clause names a principal, a block of
//! addresses or the like, the rule cannot match a connection for which none of these holds. Of what it might be found by, each
//! rule is under that which the fewest others name, and where they are many all the same, it has to show one thing more.
//! Whatever is left is then asked in full.
//!
//! Who writes policies may mean ill: compiling them takes a time that grows with their length and no faster, and no rule is
//! asked more than a few times, however it is written.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::Identity;
use super::addr::Peer;
use super::identity::SCHEME;
use super::policy::{Clause, Match, Policy, Rule, ServiceAccountMatch, StringMatch};

/// More rules than that in one place are told apart by a second thing that they require.
const CROWD: u32 = 4;
/// Ways by which they are told apart.
const WAYS: usize = 16;
/// What is on more ways than that leads to no rule: a connection may come on each of them, and ask the rule every time.
const FEW: usize = 8;

/// A connection that policies are asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) peer: &'a Peer,
    pub(super) target: SocketAddr,
}

/// The rules of several policies of one action, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    policies: Box<[Arc<Policy>]>,
    /// What rules are found by and told apart by.
    ways: Vec<Way>,
    /// By the hash of a way and what is found on it. Two that have one hash find each other's rules, and ask them in vain.
    named: HashMap<u64, Vec<Place>, RandomState>,
    /// Those that nothing leads to, such as one that only says who it is not about.
    others: Vec<Place>,
}

/// Where a rule is.
#[derive(Clone, Copy, Debug)]
struct Place {
    policy: u32,
    rule: u32,
    /// What it requires besides: on which of the ways, and what has to be found there.
    also: Option<u8>,
    hash: u64,
}

/// What a connection has on each of the first ways.
type Hashes = [Option<u64>; WAYS];

impl Place {
    fn may_match(&self, hashes: &Hashes) -> bool {
        self.also.and_then(|way| hashes.get(usize::from(way))).is_none_or(|found| *found == Some(self.hash))
    }
}

/// A part of a connection by which rules are found. Lengths are of texts in bytes, of blocks in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Way {
    Whole(Text),
    Start(Text, usize),
    End(Text, usize),
    Source(Family, u8),
    Destination(Family, u8),
    Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Text {
    Principal,
    Namespace,
    Account,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Family {
    V4,
    V6,
}

/// What is found on a way.
#[derive(Clone, Copy, Debug, Hash)]
enum Value<'a> {
    Text(&'a [u8]),
    Bits(u128),
}

/// Any of these leads to a rule: ways, and hashes of ways and values. Sorted, each of them once.
type Names = Vec<(Way, u64)>;

/// What is known of all rules while they are compiled.
#[derive(Default)]
struct Known {
    /// How many rules might be found by each hash.
    frequencies: HashMap<u64, u32, RandomState>,
    /// Where each way is among the ways.
    numbers: HashMap<Way, usize, RandomState>,
}

impl Rules {
    pub(super) fn new(policies: Vec<Arc<Policy>>) -> Self {
        let mut rules = Self { policies: policies.into(), ..Self::default() };
        let mut known = Known { frequencies: rules.frequencies(), ..Known::default() };
        let policies = std::mem::take(&mut rules.policies);
        let mut seen = HashSet::with_hasher(RandomState::default());
        for (number, policy) in (0..).zip(&policies) {
            for (index, rule) in (0..).zip(&policy.rules) {
                // Of two that say the same the first decides.
                if seen.insert(rule) {
                    rules.add(rule, Place { policy: number, rule: index, also: None, hash: 0 }, &mut known);
                }
            }
        }
        rules.policies = policies;
        rules
    }

    /// Whether there is no policy.
    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The first policy that matches.
    pub(super) fn first(&self, question: Question<'_>) -> Option<&Arc<Policy>> {
        let mut hashes: Hashes = [None; WAYS];
        let hash = |way: &Way| Some(self.hash(*way, question.value(*way)?));
        for (place, way) in hashes.iter_mut().zip(&self.ways) {
            *place = hash(way);
        }
        let others = self.ways.iter().skip(WAYS).map(hash);
        let named = hashes.iter().copied().chain(others).flatten().filter_map(|hash| self.named.get(&hash));
        let mut first = None;
        for list in named.chain([&self.others]) {
            let earlier = list.iter().take_while(|place| first.is_none_or(|first| place.policy < first));
            let found = { earlier }.find(|place| place.may_match(&hashes) && self.matches(**place, question));
            first = found.map(|place| place.policy).or(first);
        }
        self.policies.get(first? as usize)
    }

    fn matches(&self, place: Place, question: Question<'_>) -> bool {
        #[cfg(test)]
        tests::ASKED.set(tests::ASKED.get() + 1);
        let rule = self.policies.get(place.policy as usize).and_then(|policy| policy.rules.get(place.rule as usize));
        rule.is_some_and(|rule| rule.matches(question.peer, question.target))
    }

    fn hash(&self, way: Way, value: Value<'_>) -> u64 {
        self.named.hasher().hash_one((way, value))
    }

    fn add(&mut self, rule: &Rule, mut place: Place, known: &mut Known) {
        let clauses = rule.clauses.iter().filter_map(|clause| self.rarest(clause, known));
        let Some((frequency, names)) = clauses.min_by_key(|(frequency, _)| *frequency) else {
            return self.others.push(place);
        };
        if frequency > CROWD
            && let Some((way, hash)) = self.besides(rule, &names, known)
            && let Some(way) = u8::try_from(self.way(way, known)).ok().filter(|way| usize::from(*way) < WAYS)
        {
            (place.also, place.hash) = (Some(way), hash);
        }
        for (way, hash) in names {
            self.way(way, known);
            self.named.entry(hash).or_default().push(place);
        }
    }

    /// The number of a way.
    fn way(&mut self, way: Way, known: &mut Known) -> usize {
        *known.numbers.entry(way).or_insert_with(|| {
            self.ways.push(way);
            self.ways.len() - 1
        })
    }

    /// What a rule requires besides `names`: the rarest value that it cannot match without.
    fn besides(&self, rule: &Rule, names: &Names, known: &Known) -> Option<(Way, u64)> {
        let only = rule.clauses.iter().filter_map(|clause| match clause.matches.as_slice() {
            [only] => Some(only),
            _ => None,
        });
        let required = only.flat_map(|fields| self.names(fields)).filter_map(|all| match all.as_slice() {
            [only] => Some(*only),
            _ => None,
        });
        let others = required.filter(|one| names.binary_search(one).is_err());
        others.min_by_key(|(_, hash)| known.frequencies.get(hash).copied())
    }

    /// How many rules might be found by each hash.
    fn frequencies(&self) -> HashMap<u64, u32, RandomState> {
        let mut all = HashMap::default();
        for rule in self.policies.iter().flat_map(|policy| &policy.rules) {
            let matches = rule.clauses.iter().flat_map(|clause| &clause.matches);
            let mut names: Names = matches.flat_map(|fields| self.names(fields)).flatten().collect();
            once(&mut names);
            for (_, hash) in names {
                *all.entry(hash).or_default() += 1;
            }
        }
        all
    }

    /// What a clause is best found by, and how many others the most frequent of it leads to. None if it may match without, or
    /// on too many ways.
    fn rarest(&self, clause: &Clause, known: &Known) -> Option<(u32, Names)> {
        let frequency = |names: &Names| names.iter().filter_map(|(_, hash)| known.frequencies.get(hash)).max().copied();
        let mut most = 0;
        let mut all = Names::new();
        // One without any field never matches, and need not be found.
        for fields in clause.matches.iter().filter(|fields| **fields != Match::default()) {
            let (frequency, names) = self
                .names(fields)
                .filter(are_few)
                .map(|names| (frequency(&names).unwrap_or(0), names))
                .min_by_key(|(frequency, _)| *frequency)?;
            most = most.max(frequency);
            all.extend(names);
        }
        once(&mut all);
        (!clause.matches.is_empty() && are_few(&all)).then_some((most, all))
    }

    /// What a match may be found by: every field that is set, if all that it admits can be looked up.
    fn names<'a>(&'a self, fields: &'a Match) -> impl Iterator<Item = Names> + 'a {
        let texts = |text, all: &[StringMatch]| all.iter().map(|one| self.text(text, one)).collect::<Option<Names>>();
        let blocks = |way: fn(Family, u8) -> Way, all: &[IpNet]| {
            Some(all.iter().map(|block| self.block(way, block)).collect::<Names>())
        };
        let accounts = fields.service_accounts.iter().map(|account| self.account(account)).collect();
        let port = |port: &u16| (Way::Port, self.hash(Way::Port, Value::Bits((*port).into())));
        let all = [
            texts(Text::Principal, &fields.principals),
            Some(accounts),
            texts(Text::Namespace, &fields.namespaces),
            blocks(Way::Source, &fields.source_ips),
            Some(fields.destination_ports.iter().map(port).collect()),
            blocks(Way::Destination, &fields.destination_ips),
        ];
        all.into_iter().flatten().filter(|names| !names.is_empty()).map(|mut names| {
            once(&mut names);
            names
        })
    }

    fn text(&self, text: Text, pattern: &StringMatch) -> Option<(Way, u64)> {
        let (way, value) = match pattern {
            StringMatch::Exact(whole) => (Way::Whole(text), bare(text, whole)),
            // The beginning of every identity's URI.
            StringMatch::Prefix(start) if text == Text::Principal && SCHEME.starts_with(start.as_str()) => return None,
            StringMatch::Prefix(start) => {
                let start = bare(text, start);
                (Way::Start(text, start.len()), start)
            }
            StringMatch::Suffix(end) => (Way::End(text, end.len()), end.as_str()),
            StringMatch::Presence => return None,
        };
        Some((way, self.hash(way, Value::Text(value.as_bytes()))))
    }

    fn account(&self, account: &ServiceAccountMatch) -> (Way, u64) {
        let (way, path) = (Way::Whole(Text::Account), format!("{}/sa/{}", account.namespace, account.service_account));
        (way, self.hash(way, Value::Text(path.as_bytes())))
    }

    fn block(&self, way: fn(Family, u8) -> Way, block: &IpNet) -> (Way, u64) {
        let (family, bits) = bits(block.addr());
        let way = way(family, block.prefix_len());
        (way, self.hash(way, Value::Bits(start(family, bits, block.prefix_len()))))
    }
}

impl<'a> Question<'a> {
    /// What this connection has there; none if nothing that is found on this way matches it.
    fn value(&self, way: Way) -> Option<Value<'a>> {
        let block = |address: IpAddr, family: Family, length| {
            let (own, bits) = bits(address.to_canonical());
            (own == family).then(|| Value::Bits(start(family, bits, length)))
        };
        match way {
            Way::Whole(text) => Some(Value::Text(self.text(text)?.as_bytes())),
            Way::Start(text, length) => Some(Value::Text(self.text(text)?.as_bytes().get(..length)?)),
            Way::End(text, length) => {
                // A principal may be written with its scheme, or a part of that.
                let whole = match text {
                    Text::Principal => self.peer.identity.as_ref()?.uri(),
                    Text::Namespace | Text::Account => self.text(text)?,
                };
                Some(Value::Text(whole.as_bytes().get(whole.len().checked_sub(length)?..)?))
            }
            Way::Source(family, length) => block(self.peer.address.ip(), family, length),
            Way::Destination(family, length) => block(self.target.ip(), family, length),
            Way::Port => Some(Value::Bits(self.target.port().into())),
        }
    }

    fn text(&self, text: Text) -> Option<&'a str> {
        let identity = self.peer.identity.as_ref();
        match text {
            Text::Principal => identity.map(Identity::principal),
            Text::Account => identity.map(Identity::account_path),
            // A peer without an identity has a namespace to be matched all the same: the empty one.
            Text::Namespace => Some(identity.map_or("", Identity::namespace)),
        }
    }
}

fn once(names: &mut Names) {
    names.sort_unstable();
    names.dedup();
}

/// Whether they are on few ways.
fn are_few(names: &Names) -> bool {
    names.chunk_by(|(a, _), (b, _)| a == b).nth(FEW).is_none()
}

/// Principals may be written with the scheme; they are found without it.
fn bare(text: Text, pattern: &str) -> &str {
    match text {
        Text::Principal => pattern.strip_prefix(SCHEME).unwrap_or(pattern),
        Text::Namespace | Text::Account => pattern,
    }
}

fn bits(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(v4) => (Family::V4, v4.to_bits().into()),
        IpAddr::V6(v6) => (Family::V6, v6.to_bits()),
    }
}

/// The first bits of an address, as many as a block's length.
fn start(family: Family, bits: u128, length: u8) -> u128 {
    let rest = match family {
        Family::V4 => 32 - length,
        Family::V6 => 128 - length,
    };
    bits.checked_shr(rest.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
