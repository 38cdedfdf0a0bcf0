//! Every kind of mistake in the file: the agent does not start, and says what is wrong and where.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mesh_e2e::{Process, binary};

/// The first nine lines of most files.
const GOOD: &str = "node:
  name: n1
  addresses: [172.30.0.1]
  run_dir: RUN/run
  bpf_fs: RUN/bpf
  ca: {address: 'https://127.0.0.1:15012', root: /r, token: /t}
workloads:
- {name: web, addresses: [10.0.0.2], node: n1, labels: {app: web}}
- {name: client, service_account: client, addresses: [10.0.0.1], node: n1}
";

/// An agent that has not refused its file by then has taken it.
const TAKEN: Duration = Duration::from_millis(1500);

/// Words of the parser and of Rust, which say nothing to whoever wrote the file.
const JARGON: [&str; 10] = [
    "from_str",
    "Options",
    "Policy in",
    "u16",
    "u32",
    "u64",
    "scalar",
    "sequence start",
    "mapping start",
    "end of input",
];

/// How a file comes to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text {
    /// All of it.
    Whole(&'static str),
    /// More lines after the good ones: the first of them is line 10.
    Then(&'static str),
    /// The good lines with something else in the place of something.
    Instead(&'static str, &'static str),
}

use Text::{Instead, Then, Whole};

/// What is wrong, the file, the line, and what the sentence must say.
type Row = (&'static str, Text, Option<u32>, &'static str);

const FORM: &[Row] = &[
    ("empty", Whole(""), None, "the file is empty"),
    ("only space", Whole("  \n\n"), None, "the file is empty"),
    ("only comments", Whole("# nothing\n"), None, "empty"),
    ("a list", Whole("- a\n- b\n"), Some(1), ""),
    ("one word", Whole("hello\n"), Some(1), ""),
    ("a tab", Then("pods:\n\t- name: x\n"), Some(11), "indented with a tab; YAML needs spaces"),
    ("a bracket that is not closed", Then("pods: [{name: web, netns: /n}\n"), Some(10), "unclosed bracket"),
    ("an alias of nothing", Then("pods: *x\n"), Some(10), "unknown anchor"),
    ("two documents", Then("---\npods: []\n"), Some(11), "document"),
    ("a field twice", Then("pods: []\npods: []\n"), Some(11), "pods"),
    ("a field of an entry twice", Then("pods:\n- {name: web, name: x, netns: /n}\n"), Some(11), "name"),
    ("unknown field", Then("podz: []\n"), Some(10), "unknown field `podz`, expected one of node, pods"),
    (
        "unknown field of a pod",
        Then("pods:\n- {name: web, netns: /n, probes: [1]}\n"),
        Some(11),
        "unknown field `probes`",
    ),
    ("unknown field of the node", Instead("  name: n1\n", "  name: n1\n  colour: red\n"), Some(3), "`colour`"),
    ("no node", Whole("pods: []\n"), Some(1), "missing field `node`"),
    ("no authority", Instead("  ca: {address: 'https://127.0.0.1:15012', root: /r, token: /t}\n", ""), None, "`ca`"),
    ("no token", Instead(", token: /t", ""), Some(6), "missing field `token`"),
    ("no namespace", Then("pods:\n- {name: web}\n"), Some(11), "missing field `netns`"),
    ("a list for a name", Then("pods:\n- {name: [web], netns: /n}\n"), Some(11), ""),
    ("a number for a list", Then("pods:\n- {name: web, netns: /n, probe_ports: 8080}\n"), Some(11), ""),
    ("a word for a list", Then("pods: web\n"), Some(10), ""),
    ("a word for yes or no", Then("authorization_policies:\n- {name: p, dry_run: maybe}\n"), Some(11), "boolean"),
];

const VALUES: &[Row] = &[
    ("bad address", Then("- {name: b, addresses: [10.0.0.300]}\n"), Some(10), "address"),
    ("a block for an address", Then("- {name: b, addresses: [10.0.0.0/24]}\n"), Some(10), "address"),
    ("bad address of the node", Instead("[172.30.0.1]", "[node1]"), Some(3), "address"),
    (
        "bad block",
        Then("authorization_policies:\n- name: p\n  rules: [{from: [{source: {ipBlocks: ['10.0.0.0/33']}}]}]\n"),
        Some(11),
        "policy default/p: \"10.0.0.0/33\" is not an address or CIDR block",
    ),
    ("slash in an account", Then("- {name: b, service_account: a/b}\n"), Some(10), "workload b: \"spiffe:"),
    ("empty account", Then("- {name: b, service_account: ''}\n"), Some(10), "is not of the form spiffe://"),
    ("slash in the trust domain", Instead("  name: n1\n", "  name: n1\n  trust_domain: a/b\n"), None, "spiffe://a/b/"),
    (
        "bad further identity",
        Then("services:\n- {name: s, subject_alt_names: [web]}\n"),
        Some(11),
        "\"web\" is not of the form",
    ),
    ("empty name", Then("- {name: ''}\n"), Some(10), "name"),
    ("empty name of the node", Instead("name: n1\n", "name: ''\n"), None, "name"),
    ("port 70000", Then("services:\n- {name: s, ports: [{port: 70000}]}\n"), Some(11), "70000"),
    ("port -1", Then("services:\n- {name: s, ports: [{port: -1}]}\n"), Some(11), "-1"),
    ("port 0", Then("services:\n- {name: s, ports: [{port: 0}]}\n"), Some(11), "port"),
    ("a word for a port", Then("services:\n- {name: s, ports: [{port: http}]}\n"), Some(11), "http"),
    ("probe port 0", Then("pods:\n- {name: web, netns: /n, probe_ports: [0]}\n"), Some(11), "port"),
    (
        "port of a policy",
        Then("authorization_policies:\n- name: p\n  rules: [{to: [{operation: {ports: ['http']}}]}]\n"),
        Some(11),
        "\"http\" is not a port; write a number from 1 to 65535",
    ),
    (
        "action",
        Then("authorization_policies:\n- name: p\n  action: AUDIT\n"),
        Some(12),
        "unknown variant `AUDIT`, expected one of ALLOW, DENY",
    ),
    ("mode", Then("peer_authentications:\n- {name: p, mode: strict}\n"), Some(11), "unknown variant `strict`"),
    (
        "condition",
        Then("authorization_policies:\n- name: p\n  rules: [{when: [{key: source.port, values: ['1']}]}]\n"),
        Some(11),
        "unknown condition \"source.port\"",
    ),
    (
        "account of a policy",
        Then("authorization_policies:\n- name: p\n  rules: [{from: [{source: {serviceAccounts: ['a/b/c']}}]}]\n"),
        Some(11),
        "\"a/b/c\" is not a service account",
    ),
    ("protocol", Then("- {name: b, protocol: UDP}\n"), Some(10), "unknown variant `UDP`"),
    (
        "duration",
        Instead("  name: n1\n", "  name: n1\n  drain: 5 seconds\n"),
        Some(3),
        "\"5 seconds\" is not a duration",
    ),
    (
        "on_shutdown",
        Instead("  name: n1\n", "  name: n1\n  on_shutdown: stay\n"),
        Some(3),
        "expected one of keep, withdraw",
    ),
    (
        "capture",
        Instead("  name: n1\n", "  name: n1\n  capture: iptables\n"),
        Some(3),
        "expected one of auto, tcx, clsact",
    ),
    ("no shards", Instead("  name: n1\n", "  name: n1\n  shards: 0\n"), None, "shards"),
    ("a port for an address", Instead("  name: n1\n", "  name: n1\n  metrics: 15020\n"), Some(3), "address"),
    ("no URL", Instead("https://127.0.0.1:15012", "127.0.0.1:15012"), Some(6), "https://"),
    ("an open URL", Instead("https://127", "http://127"), Some(6), "https://"),
];

const RELATIONS: &[Row] = &[
    ("two workloads", Then("- {name: web}\n"), Some(10), "workload default/web is listed twice"),
    (
        "two pods",
        Then("pods:\n- {name: web, netns: /n}\n- {name: web, netns: /m}\n"),
        Some(12),
        "pod default/web is listed twice",
    ),
    ("two services", Then("services:\n- {name: s}\n- {name: s}\n"), Some(12), "is listed twice"),
    (
        "two policies",
        Then("authorization_policies:\n- {name: p}\n- {name: p}\n"),
        Some(12),
        "default/p is listed twice",
    ),
    (
        "two peer authentications",
        Then("peer_authentications:\n- {name: p}\n- {name: p}\n"),
        Some(12),
        "default/p is listed twice",
    ),
    (
        "one port twice",
        Then("services:\n- {name: s, ports: [{port: 80}, {port: 80, target_port: 81}]}\n"),
        Some(11),
        "80",
    ),
    (
        "one address of two",
        Then("- {name: b, addresses: [10.0.0.2]}\n"),
        Some(10),
        "address 10.0.0.2 of workload b is web's already",
    ),
    (
        "one address in two forms",
        Then("- {name: b, addresses: ['::ffff:10.0.0.2']}\n"),
        Some(10),
        "address 10.0.0.2 of workload b is web's",
    ),
    (
        "one namespace of two",
        Then("pods:\n- {name: web, netns: /n}\n- {name: client, netns: /n}\n"),
        Some(12),
        "pod default/client has the network namespace of another pod: /n",
    ),
    (
        "pod without a workload",
        Then("pods:\n- {name: x, netns: /n}\n"),
        Some(11),
        "pod default/x has no entry under workloads",
    ),
    (
        "pod of another node",
        Then("- {name: b, node: n2}\npods:\n- {name: b, netns: /n}\n"),
        Some(12),
        "pod default/b is of node n2, and this is node n1",
    ),
    (
        "pod outside the mesh",
        Then("- {name: b, protocol: TCP}\npods:\n- {name: b, netns: /n}\n"),
        Some(12),
        "its workload says protocol TCP; write HBONE",
    ),
    (
        "pod of the host's network",
        Then("- {name: b, network_mode: host}\npods:\n- {name: b, netns: /n}\n"),
        Some(12),
        "is on the host's network and cannot be enrolled",
    ),
    (
        "unknown endpoint",
        Then("services:\n- {name: s, endpoints: [default/x]}\n"),
        Some(11),
        "endpoint default/x is no listed workload",
    ),
    (
        "two mistakes",
        Then("pods:\n- {name: x, netns: /n}\n- {name: y, netns: /m}\n"),
        Some(11),
        "node.yaml:12: pod default/y",
    ),
];

pub(super) fn at_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("node.yaml");
    let mut wrong = Vec::new();
    for (what, text, line, sentence) in [FORM, VALUES, RELATIONS].concat() {
        fs::write(&file, written(text, directory.path()))?;
        let said = refusal(&file, directory.path());
        wrong.extend(
            said.and_then(|said| checked(&said, &file, line, sentence)).err().map(|error| format!("{what}: {error}")),
        );
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{} of them:\n  {}", wrong.len(), wrong.join("\n  ")) }
}

fn written(text: Text, directory: &Path) -> String {
    let text = match text {
        Whole(text) => text.to_owned(),
        Then(more) => format!("{GOOD}{more}"),
        Instead(is, becomes) => GOOD.replacen(is, becomes, 1),
    };
    text.replace("RUN", &directory.display().to_string())
}

/// Files that cannot be read as text, and those made to hurt whoever reads them.
pub(super) fn unreadable() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("node.yaml");
    let said = refusal(&file, directory.path())?;
    checked(&said, &file, None, "cannot be read: No such file or directory")?;
    fs::create_dir(&file)?;
    let said = refusal(&file, directory.path())?;
    checked(&said, &file, None, "cannot be read: Is a directory")?;
    fs::remove_dir(&file)?;
    fs::write(&file, b"node: {name: \xff\xfe}\n")?;
    let said = refusal(&file, directory.path())?;
    checked(&said, &file, None, "UTF-8")?;
    // Nine to the ninth entries, by aliases of aliases; and brackets that never end.
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    for text in [bomb.clone(), format!("pods: *a8\n{bomb}"), format!("{bomb}pods: *a8\n"), "[".repeat(1 << 20)] {
        fs::write(&file, text)?;
        let said = refusal(&file, directory.path())?;
        ensure!(said.len() < 4000, "the sentence has {} bytes", said.len());
        ensure!(said.contains("node.yaml"), "the agent says {said:?}");
    }
    Ok(())
}

/// What the agent says when it refuses to start. It has a network and mounts of its own, should it start.
fn refusal(file: &Path, directory: &Path) -> Result<String> {
    let log = directory.join("said.log");
    fs::remove_file(&log).ok();
    fs::create_dir_all(directory.join("bpf"))?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]).arg(binary::find()?).arg("node").arg("--config").arg(file);
    let mut agent = Process::spawn("the agent", &mut command, &log)?;
    let Ok(status) = agent.wait(TAKEN) else { bail!("the agent takes it and starts") };
    let said = agent.log().text();
    ensure!(!status.success(), "the agent ends well, saying {said:?}");
    ensure!(status.code().is_some(), "the agent crashes ({status}), saying {said:?}");
    Ok(said)
}

fn checked(said: &str, file: &Path, line: Option<u32>, sentence: &str) -> Result<()> {
    let place = line.map(|line| format!(":{line}")).unwrap_or_default();
    let start = format!("mesh-agent: {}{place}: ", file.display());
    let placed = match line {
        Some(_) => said.starts_with(&start),
        None => said.starts_with(&format!("mesh-agent: {}", file.display())),
    };
    ensure!(placed && said.contains(sentence), "says {:?}, should {start:?} .. {sentence:?}", said.trim());
    ensure!(said.trim().lines().count() == 1, "says more than one line: {said:?}");
    let jargon = JARGON.iter().find(|word| said.contains(**word));
    ensure!(jargon.is_none(), "says {:?}, which is for programmers", said.trim());
    Ok(())
}
