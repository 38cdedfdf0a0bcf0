//! The index against a scan of all policies, and what it costs at the worst.

use std::cell::Cell;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::*;
use crate::model::policy::{Action, Enforcement, PolicyName, Scope};

thread_local! {
    /// How often a rule was asked.
    pub(super) static ASKED: Cell<usize> = const { Cell::new(0) };
}

const PRINCIPALS: [&str; 10] = [
    "td/ns/a/sa/x",
    "spiffe://td/ns/a/sa/x",
    "spiffe:/ns/a/sa/x",
    "spiffe://spiffe:/ns/a/sa/x",
    "spiffe://spiffe://td/ns/a/sa/x",
    "spiffe://ü/ns/ö/sa/spiffe:",
    "s/ns/s/sa/s",
    "//td/ns/a/sa/x",
    "spiffe",
    "",
];
const NAMESPACES: [&str; 8] = ["a", "b", "ab", "", "ö", "spiffe:", "spiffe://a", "ns"];
const ACCOUNTS: [(&str, &str); 8] =
    [("a", "x"), ("b", "x"), ("", ""), ("a/sa/a", "x"), ("a", "a/sa/x"), ("", "x"), ("a", ""), ("ö", "spiffe:")];
const BLOCKS: [&str; 14] = [
    "10.0.0.1/32",
    "10.0.0.7/24",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "128.0.0.0/1",
    "255.255.255.255/32",
    "10.0.0.1/31",
    "fd00::/16",
    "::/0",
    "fd00::1/128",
    "::ffff:10.0.0.0/104",
    "::ffff:10.0.0.1/128",
    "::ffff:0:0/96",
    "8000::/1",
];
const PORTS: [u16; 4] = [0, 80, 8080, 65535];
const IDENTITIES: [&str; 7] = [
    "",
    "spiffe://td/ns/a/sa/x",
    "spiffe://spiffe:/ns/a/sa/x",
    "spiffe://ü/ns/ö/sa/spiffe:",
    "spiffe://s/ns/s/sa/s",
    "spiffe://td/ns/b/sa/x",
    "spiffe://spiffe/ns/spiffe:/sa/x",
];
const ADDRESSES: [&str; 9] = [
    "10.0.0.1",
    "10.0.0.9",
    "255.255.255.255",
    "0.0.0.0",
    "::ffff:10.0.0.1",
    "::ffff:255.255.255.255",
    "fd00::1",
    "::10.0.0.1",
    "ffff::",
];

/// What rules are made of: few values or many.
struct Kit {
    /// A field is set once in so many times.
    odds: u32,
    most: usize,
    principals: Vec<&'static str>,
    namespaces: Vec<&'static str>,
    accounts: Vec<(&'static str, &'static str)>,
    blocks: Vec<IpNet>,
    ports: Vec<u16>,
}

fn some_of<T: Clone>(random: &mut Rng, most: usize, all: &[T]) -> Vec<T> {
    let mut all = all.to_vec();
    random.shuffle(&mut all);
    all.truncate(most);
    all
}

impl Kit {
    fn new(random: &mut Rng) -> Self {
        let few = random.choice([1, 2, 4, usize::MAX, usize::MAX]).unwrap();
        Self {
            odds: random.choice([3, 4, 8, 12, 20]).unwrap(),
            most: random.usize(1..=3),
            principals: some_of(random, few, &PRINCIPALS),
            namespaces: some_of(random, few, &NAMESPACES),
            accounts: some_of(random, few, &ACCOUNTS),
            blocks: some_of(random, few, &BLOCKS.map(|block| block.parse().unwrap())),
            ports: some_of(random, few, &PORTS),
        }
    }

    fn values<T, R>(&self, random: &mut Rng, all: &[T], made: fn(&mut Rng, &T) -> R) -> Vec<R> {
        let count = if random.u32(0..self.odds) == 0 { random.usize(1..=self.most) } else { 0 };
        let one = |_| {
            let one = random.choice(all).unwrap();
            made(random, one)
        };
        (0..count).map(one).collect()
    }

    fn fields(&self, random: &mut Rng) -> Match {
        let account = |_: &mut Rng, (namespace, name): &(&str, &str)| account(namespace, name);
        Match {
            namespaces: self.values(random, &self.namespaces, pattern),
            not_namespaces: self.values(random, &self.namespaces, pattern),
            principals: self.values(random, &self.principals, pattern),
            not_principals: self.values(random, &self.principals, pattern),
            service_accounts: self.values(random, &self.accounts, account),
            not_service_accounts: self.values(random, &self.accounts, account),
            source_ips: self.values(random, &self.blocks, |_, block| *block),
            not_source_ips: self.values(random, &self.blocks, |_, block| *block),
            destination_ips: self.values(random, &self.blocks, |_, block| *block),
            not_destination_ips: self.values(random, &self.blocks, |_, block| *block),
            destination_ports: self.values(random, &self.ports, |_, port| *port),
            not_destination_ports: self.values(random, &self.ports, |_, port| *port),
        }
    }

    fn rule(&self, random: &mut Rng) -> Rule {
        let clause =
            |random: &mut Rng| Clause { matches: (0..random.usize(0..4)).map(|_| self.fields(random)).collect() };
        let mut rule = Rule { clauses: (0..random.usize(0..4)).map(|_| clause(random)).collect() };
        // One that demands nothing matches everything, and hides all that comes after it.
        if rule.clauses.iter().all(|clause| clause.matches.is_empty()) && random.u32(0..20) != 0 {
            rule.clauses.push(Clause { matches: vec![self.fields(random)] });
        }
        rule
    }

    fn policies(&self, random: &mut Rng) -> Vec<Arc<Policy>> {
        let count = random.choice([1, 3, 10, 40, 150]).unwrap();
        let mut made = Vec::<Rule>::new();
        let mut all = Vec::new();
        for number in 0..count {
            let mut rules = Vec::new();
            for _ in 0..random.usize(0..4) {
                let again = random.u32(0..6) == 0;
                let rule = random.choice(&made).filter(|_| again).cloned();
                rules.push(rule.unwrap_or_else(|| self.rule(random)));
            }
            made.extend_from_slice(&rules);
            all.push(policy(number, rules));
        }
        all
    }
}

fn pattern(random: &mut Rng, text: &&str) -> StringMatch {
    let ends: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let at = random.choice(ends).unwrap();
    match random.u32(0..16) {
        0..4 => StringMatch::Exact((*text).into()),
        4..8 => StringMatch::Exact(text[..at].into()),
        8..11 => StringMatch::Prefix(text[..at].into()),
        11..15 => StringMatch::Suffix(text[at..].into()),
        _ => StringMatch::Presence,
    }
}

fn account(namespace: &str, name: &str) -> ServiceAccountMatch {
    ServiceAccountMatch { namespace: namespace.into(), service_account: name.into() }
}

fn policy(number: usize, rules: Vec<Rule>) -> Arc<Policy> {
    let name = PolicyName { namespace: "default".into(), name: format!("p{number}").into() };
    let (scope, action, enforcement) = (Scope::Namespace, Action::Deny, Enforcement::Enforced);
    Arc::new(Policy { name, scope, action, enforcement, rules })
}

fn connection(random: &mut Rng) -> (Peer, SocketAddr) {
    let mut address = || random.choice(ADDRESSES).unwrap().parse::<IpAddr>().unwrap();
    let (source, target) = (address(), address());
    let identity = random.choice(IDENTITIES).unwrap().parse().ok();
    (Peer { address: (source, 9).into(), identity }, (target, random.choice(PORTS).unwrap()).into())
}

/// How many places that a connection leads to are passed over for want of a second thing.
fn passed_over(rules: &Rules, question: Question<'_>) -> usize {
    let hashes: Vec<_> =
        rules.ways.iter().map(|way| question.value(*way).map(|value| rules.hash(*way, value))).collect();
    let mut first: Hashes = [None; WAYS];
    first.iter_mut().zip(&hashes).for_each(|(first, hash)| *first = *hash);
    let places = hashes.iter().flatten().filter_map(|hash| rules.named.get(hash)).flatten();
    places.filter(|place| !place.may_match(&first)).count()
}

#[test]
fn what_is_found_is_what_a_scan_finds() {
    let mut random = Rng::with_seed(8);
    let [mut many_ways, mut with_also, mut passed, mut found, mut asked] = [0; 5];
    for _ in 0..200 {
        let kit = Kit::new(&mut random);
        let policies = kit.policies(&mut random);
        let rules = Rules::new(policies.clone());
        many_ways += usize::from(rules.ways.len() > WAYS);
        with_also += usize::from(rules.named.values().flatten().any(|place| place.also.is_some()));
        for _ in 0..30 {
            let (peer, target) = connection(&mut random);
            let question = Question { peer: &peer, target };
            let expected = policies.iter().find(|policy| policy.matches(&peer, target));
            let first = rules.first(question);
            assert_eq!(first.map(|p| &p.name), expected.map(|p| &p.name), "{question:?} {policies:#?}");
            passed += usize::from(passed_over(&rules, question) > 0);
            found += usize::from(expected.is_some());
            asked += 1;
        }
    }
    assert!(many_ways > 40, "{many_ways} of 200 had more than {WAYS} ways");
    assert!(with_also > 40, "{with_also} of 200 had rules told apart by a second thing");
    assert!(passed > 400, "{passed} questions had rules passed over");
    assert!(found * 5 > asked && (asked - found) * 5 > asked, "{found} of {asked} matched");
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn one(fields: Match) -> Clause {
    Clause { matches: vec![fields] }
}

fn not(namespaces: Vec<StringMatch>) -> Clause {
    one(Match { not_namespaces: namespaces, ..Match::default() })
}

/// How many rules are asked for one connection.
fn asked(rules: &Rules, identity: &str) -> usize {
    let peer = Peer { address: "10.0.0.1:9".parse().unwrap(), identity: identity.parse().ok() };
    ASKED.set(0);
    assert!(rules.first(Question { peer: &peer, target: "10.0.0.7:80".parse().unwrap() }).is_none());
    ASKED.get()
}

#[test]
fn a_value_given_many_times_leads_to_its_rule_once() {
    let times = 5000;
    let mut never = vec![exact("b"); times];
    never.push(exact("a"));
    let namespaces = one(Match { namespaces: vec![exact("a"); times], ..Match::default() });
    let rules = Rules::new(vec![policy(0, vec![Rule { clauses: vec![namespaces, not(never)] }])]);
    assert_eq!(rules.named.values().map(Vec::len).sum::<usize>(), 1);
    assert_eq!(asked(&rules, "spiffe://td/ns/a/sa/x"), 1);
}

/// Every beginning of a text.
fn starts(text: &str, count: usize) -> Vec<StringMatch> {
    (1..=count).map(|length| StringMatch::Prefix(text[..length].into())).collect()
}

#[test]
fn a_rule_is_asked_few_times_however_many_ways_lead_to_it() {
    let namespace = "n".repeat(60);
    let identity = format!("spiffe://td/ns/{namespace}/sa/x");
    let of = |namespaces| Match { namespaces, ..Match::default() };
    let block = |length| IpNet::new("10.0.0.1".parse().unwrap(), length).unwrap();
    let sources =
        |lengths: std::ops::RangeInclusive<u8>| Match { source_ips: lengths.map(block).collect(), ..Match::default() };
    let cases = [
        ("one", vec![of(starts(&namespace, 1))], 1),
        ("few", vec![of(starts(&namespace, FEW))], FEW),
        ("one more", vec![of(starts(&namespace, FEW + 1))], 1),
        ("all", vec![of(starts(&namespace, 60))], 1),
        ("few of each of two", vec![of(starts(&namespace, FEW)), sources(1..=8)], 1),
        ("blocks", vec![sources(1..=32)], 1),
        ("one by one", (1..=60).map(|count| of(starts(&namespace[count - 1..], 1))).collect(), 1),
    ];
    for (case, matches, expected) in cases {
        let rule = Rule { clauses: vec![Clause { matches }, not(vec![exact(&namespace)])] };
        assert_eq!(asked(&Rules::new(vec![policy(0, vec![rule])]), &identity), expected, "{case}");
    }
}

#[test]
fn a_clause_on_few_ways_is_preferred() {
    let namespace = "n".repeat(60);
    let both = Match { namespaces: starts(&namespace, 60), destination_ports: vec![81], ..Match::default() };
    let rules = Rules::new(vec![policy(0, vec![Rule { clauses: vec![one(both)] }])]);
    assert_eq!(asked(&rules, &format!("spiffe://td/ns/{namespace}/sa/x")), 0);
}

#[test]
fn compiling_takes_no_longer_than_its_policies_are_long() {
    let count = 12_000;
    let ports = one(Match { destination_ports: vec![80], ..Match::default() });
    let texts = ["c", "d", "e", "f", "g", "h", "i", "j"];
    let copies = |text: &&str| std::iter::repeat_n(exact(text), 1500);
    let repeated = texts.iter().flat_map(copies).collect::<Vec<_>>();
    let different = (0..count).map(|number| exact(&format!("n{number}"))).collect();
    for namespaces in [repeated, different] {
        let mut clauses = vec![one(Match { namespaces, ..Match::default() })];
        clauses.resize(count, ports.clone());
        // A crowd, so that each of them looks for something besides.
        let all = (0..10).map(|port| {
            let last = one(Match { not_destination_ports: vec![port], ..Match::default() });
            Rule { clauses: clauses.iter().cloned().chain([last]).collect() }
        });
        let policies = vec![policy(0, all.collect())];
        let start = Instant::now();
        let rules = Rules::new(policies);
        let took = start.elapsed();
        assert!(rules.named.values().flatten().all(|place| place.also.is_some()));
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}
