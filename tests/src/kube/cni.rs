//! Istio's own CNI agent (`install-cni`) on a node of the lab, in ambient mode: it watches the API server, puts its rules
//! into the node's pods, and hands them over to whoever connects to the node's [`crate::Node::zds_socket`].
//!
//! It runs as it would in its DaemonSet's pod on the host's network: in the node's network namespace, in a file system
//! with the machine's programs and those folders of the node that its chart mounts, with a token of its own service
//! account. A pod's namespace it finds by itself, through `/proc` and the control group of the pod's
//! [`super::Container`], as the node's first process sees them, or it is told by its CNI plugin.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::api::Api;
use super::daemon::Daemon;
use super::ground::Ground;
use super::init::Init;
use super::istiod::NAMESPACE;
use super::tokens;
use crate::eventually::eventually;
use crate::http;
use crate::log::Log;
use crate::namespace::Namespace;
use crate::place::Node;
use crate::topology::Pod;

/// Its service account.
const ACCOUNT: &str = "istio-cni";
/// Of the API server, which is whom its token is for.
const AUDIENCE: &str = "https://kubernetes.default.svc";
/// Its page of readiness.
const PAGES: u16 = 8000;
const START: Duration = Duration::from_secs(30);
/// The configuration into which it chains its plugin.
const CONFIGURATION: &str = "10-lab.conflist";
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Which pods it takes: those of Istio's chart.
const SELECTOR: &str = "[{podSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}}, \
                        {namespaceSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}, podSelector: \
                        {matchExpressions: [{key: istio.io/dataplane-mode, operator: NotIn, values: [none]}]}}]";
/// Makes the file system, in a mount namespace of its own, and becomes the agent in it. Arguments: the folder that becomes
/// the root; the folder of the node's files; the one of the socket for the node proxy; the one of the programs; the node's
/// PID namespace; those of the agent itself.
const ENTER: &str = r#"set -eu
root=$1 place=$2 zds=$3 programs=$4 node=$5
shift 5
mount -t tmpfs none "$root"
show() { mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; }
for folder in /usr /etc /dev /proc /sys; do show $folder $folder; done
for folder in /bin /sbin /lib /lib64; do
    if [ -L $folder ]; then ln -s "$(readlink $folder)" "$root$folder"; elif [ -d $folder ]; then show $folder $folder; fi
done
mkdir -p "$root/run" "$root/tmp" "$root/opt/cni/bin"
touch "$root/install-cni" "$root/opt/cni/bin/istio-cni"
mount --bind "$programs/install-cni" "$root/install-cni"
mount --bind "$programs/istio-cni" "$root/opt/cni/bin/istio-cni"
show "$place/bin" /host/opt/cni/bin
show "$place/net.d" /host/etc/cni/net.d
show "$place/account" /var/run/secrets/kubernetes.io/serviceaccount
show "$place/run" /var/run/istio-cni
mkdir -p "$root/host/proc"
nsenter --pid="$node" mount -t proc proc "$root/host/proc"
show /run/netns /host/var/run/netns
show "$zds" /var/run/ztunnel
exec chroot "$root" /install-cni "$@"
"#;

/// What it keeps its rules with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Iptables,
    Nftables,
}

/// The agent of one node. It can be stopped and started at any time through a shared reference.
#[derive(Debug)]
pub struct IstioCni {
    daemon: Daemon,
    node: Namespace,
    place: PathBuf,
}

impl IstioCni {
    /// Starts it, without waiting.
    pub(super) fn start(ground: &Ground, api: &Api, (node, init): (&Node, &Init), rules: Rules) -> Result<Self> {
        api.kubectl().apply(&account().to_string()).context("its service account")?;
        let place = ground.directory.join(format!("cni-{}", node.name));
        for folder in ["root", "bin", "net.d", "account", "run"] {
            fs::create_dir_all(place.join(folder))?;
        }
        fs::write(place.join("net.d").join(CONFIGURATION), configuration().to_string())?;
        let account = place.join("account");
        fs::write(account.join("token"), tokens::create(api.kubectl(), ACCOUNT, None, AUDIENCE)?.trim())?;
        fs::copy(&api.keys().root, account.join("ca.crt"))?;
        fs::write(account.join("namespace"), NAMESPACE)?;
        let zds = node.zds_socket();
        let program = ground.tools.program("install-cni");
        let programs = program.parent().context("a folder")?;
        let daemon = Daemon::at("install-cni", node, place.clone(), "unshare".into())
            .args(["--mount", "--propagation=slave", "sh", "-c", ENTER, "enter"])
            .args([&place.join("root"), &place, zds.parent().context("a folder")?, programs, &init.path()])
            .args(["--log_output_level=default:info,cni-agent:debug"])
            .envs(variables(&node.name, &zds, rules)?);
        daemon.launch()?;
        Ok(Self { daemon, node: (**node).clone(), place })
    }

    /// Waits until it, started already, is ready: it has installed its plugin, and listens.
    pub fn wait_ready(&self) -> Result<()> {
        eventually(START, || {
            let stream = self.node.connect((Ipv4Addr::LOCALHOST, PAGES).into());
            let page = stream.and_then(|stream| http::get(stream, "/readyz"));
            match page {
                Ok((200, _)) => Ok(()),
                other => {
                    self.daemon.check_running()?;
                    other.and_then(|(status, body)| bail!("{status} {body}"))
                }
            }
        })
        .with_context(|| format!("Istio's CNI agent, which said\n{}", self.log().tail(15)))
    }

    pub fn log(&self) -> Log {
        self.daemon.log()
    }

    /// Starts it again, without waiting.
    pub fn launch(&self) -> Result<()> {
        self.daemon.launch()
    }

    /// SIGTERM; waits for its end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.daemon.stop()
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        self.daemon.kill()
    }

    /// Runs its CNI plugin for a new pod, as a container runtime does: with the configuration that the agent has written,
    /// and the result of the plugin before it. Gives what the plugin printed.
    pub fn add(&self, pod: &Pod, uid: &str, netns: &Path) -> Result<Value> {
        let text = fs::read_to_string(self.place.join("net.d").join(CONFIGURATION))?;
        let list: Value = serde_json::from_str(&text).context("the CNI configuration")?;
        let ours = |plugins: &Vec<Value>| plugins.iter().find(|plugin| plugin["type"] == "istio-cni").cloned();
        let mut plugin = list["plugins"].as_array().and_then(ours).context("the plugin is not chained")?;
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        plugin["prevResult"] = result(&list["cniVersion"], pod, netns);
        let pid = self.daemon.pid().context("Istio's CNI agent is not started")?.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "--net", "--root", "--wd", "/host/opt/cni/bin/istio-cni"]);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("CNI_COMMAND", "ADD")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/host/opt/cni/bin");
        command.env("CNI_CONTAINERID", uid.replace('-', "").repeat(2));
        // Where it is for the agent, below /host.
        command.env("CNI_NETNS", Path::new("/var").join(netns.strip_prefix("/").unwrap_or(netns)));
        let (namespace, name) = (&pod.namespace, &pod.name);
        let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
        command.env("CNI_ARGS", format!("IgnoreUnknown=1;{arguments}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("nsenter")?;
        child.stdin.take().context("its input")?.write_all(plugin.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "the CNI plugin: {out}{err}");
        serde_json::from_str(&out).with_context(|| format!("what the CNI plugin printed: {out}"))
    }
}

/// As its chart sets them, for ambient mode on the host's network.
fn variables(node: &str, zds: &Path, rules: Rules) -> Result<Vec<(String, String)>> {
    let (host, port) = (Api::address().ip().to_string(), Api::address().port().to_string());
    let socket = Path::new("/var/run/ztunnel").join(zds.file_name().context("a socket's name")?);
    let pod = format!("istio-cni-node-{node}");
    let nftables = (rules == Rules::Nftables).to_string();
    let all = [
        ("KUBERNETES_SERVICE_HOST", host.as_str()),
        ("KUBERNETES_SERVICE_PORT", &port),
        ("KUBERNETES_NODE_NAME", node),
        ("NODE_NAME", node),
        ("POD_NAME", &pod),
        ("POD_NAMESPACE", NAMESPACE),
        ("AMBIENT_ENABLED", "true"),
        ("AMBIENT_ENABLEMENT_SELECTOR", SELECTOR),
        ("AMBIENT_DNS_CAPTURE", "true"),
        ("AMBIENT_IPV6", "true"),
        ("CHAINED_CNI_PLUGIN", "true"),
        ("REPAIR_ENABLED", "false"),
        ("NATIVE_NFTABLES", &nftables),
        ("ZTUNNEL_UDS_ADDRESS", socket.to_str().context("a path that is text")?),
        ("PATH", PATH),
    ];
    Ok(all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
}

/// Its service account, with what it must be allowed.
fn account() -> Value {
    let meta = |name: &str| json!({"name": name});
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "nodes", "namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch", "update"]},
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get"]},
    ]);
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": meta(ACCOUNT), "rules": rules},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": meta(ACCOUNT),
         "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": ACCOUNT},
         "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]},
    ]})
}

/// The node's CNI configuration before the agent comes. Nothing calls it: the lab makes its pods' links itself.
fn configuration() -> Value {
    json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "loopback"}]})
}

/// What the plugin that made a pod's link would have said.
fn result(version: &Value, pod: &Pod, netns: &Path) -> Value {
    let ips = pod.addresses.iter().map(|address| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        json!({"address": format!("{address}/{bits}"), "interface": 0})
    });
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "sandbox": netns}],
        "ips": ips.collect::<Vec<_>>(),
    })
}
