//! `cargo xtask bench profile`: where the agents' CPU time goes under each load, by kind of work and by function.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::builder::RangedU64ValueParser;

use super::awake::Awake;
use super::contender::Contender;
use super::load::Load;
use super::rounds::in_words;
use super::row::{Measurement, Target};
use crate::lab::agent;
use crate::step::say;

/// Where the recordings are, for whoever wants to look closer.
const FOLDER: &str = "target/bench/profile";
/// Samples a second and core; not a divisor of what timers go by.
const FREQUENCY: &str = "997";
/// Functions that are listed.
const LISTED: usize = 24;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these loads
    #[arg(long, value_enum, value_name = "ROW", num_args = 1..)]
    only: Vec<Measurement>,
    /// Where the servers are, seen from the client
    #[arg(long, value_enum, default_value = "far")]
    target: Target,
    /// How pods of one node talk (`node.same_node.mode`)
    #[arg(long, value_name = "MODE")]
    same_node: Option<String>,
    /// Seconds of each load
    #[arg(long, value_name = "S", default_value_t = 6, value_parser = RangedU64ValueParser::<u32>::new().range(2..))]
    secs: u32,
}

pub(super) fn run(root: &Path, args: &Args) -> Result<()> {
    let found = Command::new("perf").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(found.is_ok_and(|status| status.success()), "perf is missing: install the package linux-perf");
    let agent = agent::build(root)?;
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let mut contender = Contender::ours(&agent, &[args.target], args.same_node.as_deref())?;
    contender.start()?;
    let _awake = Awake::start()?;
    let wanted = |one: &Measurement| args.only.is_empty() || args.only.contains(one);
    for measurement in Measurement::ALL.into_iter().filter(wanted) {
        let data = folder.join(format!("{}.data", measurement.title().replace([' ', ','], "-")));
        let recording = record(&contender.pids(), &data)?;
        let outcome = Load::new(&contender, args.target, args.secs).run(measurement);
        finish(recording)?;
        let values: Vec<_> = outcome?.values.iter().map(|(row, value)| in_words(*row, *value)).collect();
        say(format_args!("\n{}, {}: {}", args.target.pod(), measurement.title(), values.join("   ")));
        say(told(&functions(&data)?));
    }
    contender.stop()
}

fn record(pids: &[u32], data: &Path) -> Result<Child> {
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let mut command = Command::new("perf");
    command.args(["record", "--quiet", "--freq", FREQUENCY, "--call-graph", "fp", "--pid", &pids.join(",")]);
    command.arg("--output").arg(data).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("perf record")
}

/// perf writes its file when it is interrupted.
fn finish(mut recording: Child) -> Result<()> {
    let pid = rustix::process::Pid::from_child(&recording);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    recording.wait().map(drop).context("perf record")
}

/// Functions and their shares of all CPU time, the largest first.
fn functions(data: &PathBuf) -> Result<Vec<(f64, String)>> {
    let mut command = Command::new("perf");
    command.args(["report", "--stdio", "--no-children", "--call-graph", "none", "--sort", "symbol"]);
    let output = command.arg("--input").arg(data).output().context("perf report")?;
    ensure!(output.status.success(), "perf report: {}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().filter_map(line).collect();
    if found.is_empty() {
        bail!("the agents were not seen at work: {}", data.display());
    }
    Ok(found)
}

/// `  12.34%  [k] name  -  -`
fn line(text: &str) -> Option<(f64, String)> {
    let (share, rest) = text.trim().split_once('%')?;
    let name = rest.trim().trim_end_matches(['-', ' ']).trim();
    Some((share.parse().ok()?, name.to_owned()))
}

fn told(functions: &[(f64, String)]) -> String {
    let mut kinds: BTreeMap<&str, f64> = BTreeMap::new();
    for (share, name) in functions {
        *kinds.entry(kind(name)).or_default() += share;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut text = String::new();
    for (kind, share) in kinds {
        text += &format!("  {share:5.1} %  {kind}\n");
    }
    text += "  of which\n";
    for (share, name) in functions.iter().take(LISTED) {
        text += &format!("  {share:5.1} %  {:<20}  {name}\n", kind(name));
    }
    text
}

/// What a function is about, by its name. The first that fits counts.
const KINDS: [(&str, &[&str]); 9] = [
    (
        "encryption",
        &[
            "aes", "gcm", "ghash", "aws_lc", "AEAD", "EVP_", "sha256", "sha512", "x25519", "mlkem", "p256", "ecp_",
            "bn_",
        ],
    ),
    (
        "copies",
        &[
            "memcpy",
            "memmove",
            "copy_user",
            "copy_from_iter",
            "copy_to_iter",
            "_copy_",
            "rep_movs",
            "memset",
            "clear_page",
            "skb_copy",
        ],
    ),
    (
        "memory",
        &["malloc", "free", "realloc", "calloc", "kmem", "alloc_pages", "page_frag", "mmap", "page_fault", "get_page"],
    ),
    ("TLS", &["rustls"]),
    ("HTTP/2", &["h2::", "hyper"]),
    ("runtime", &["tokio", "mio::", "futex", "epoll", "ep_"]),
    ("the proxy", &["mesh_agent"]),
    ("programs", &["bpf"]),
    (
        "TCP/IP",
        &["tcp", "ip_", "ip6_", "inet", "skb", "sock", "veth", "netif", "dev_", "net_", "br_", "nf_", "fib_", "qdisc"],
    ),
];

fn kind(name: &str) -> &'static str {
    let fits = |patterns: &[&str]| patterns.iter().any(|pattern| name.contains(pattern));
    let known = KINDS.iter().find(|(_, patterns)| fits(patterns)).map(|(kind, _)| *kind);
    known.unwrap_or(if name.starts_with("[k]") { "the kernel otherwise" } else { "otherwise" })
}

#[cfg(test)]
mod tests {
    use super::{kind, line};

    #[test]
    fn lines_of_perf() {
        let cases = [
            ("    12.34%  [k] tcp_sendmsg_locked   -      -   ", Some((12.34, "[k] tcp_sendmsg_locked"))),
            ("     0.50%  [.] h2::proto::streams::send", Some((0.5, "[.] h2::proto::streams::send"))),
            ("# Samples: 3K of event", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(line(text), expected.map(|(share, name)| (share, name.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn what_functions_are_about() {
        let cases = [
            ("[.] aes_gcm_enc_update_vaes_avx2", "encryption"),
            ("[k] rep_movs_alternative", "copies"),
            ("[.] <rustls::conn::ConnectionCore>::process", "TLS"),
            ("[.] mesh_agent::proxy::copy::relay", "the proxy"),
            ("[k] tcp_v4_rcv", "TCP/IP"),
            ("[k] schedule", "the kernel otherwise"),
            ("[.] main", "otherwise"),
        ];
        for (name, expected) in cases {
            assert_eq!(kind(name), expected, "{name}");
        }
    }
}
