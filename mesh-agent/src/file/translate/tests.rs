//! Each kind of mistake and the sentence it gets; and what policies come to.

use std::net::SocketAddr;
use std::path::Path;

use crate::file::Config;
use crate::file::problem::parse;
use crate::file::schema::NodeFile;
use crate::model::authorize::authorize;
use crate::model::{Captured, Identity, Inbound, Peer};

const NODE: &str = "node:
  name: n1
  addresses: [172.30.0.1]
  ca: {address: 'https://127.0.0.1:15012', root: /r, token: /t}
";

const WORKLOADS: &str = "workloads:
- {name: web, addresses: [10.0.0.2], node: n1, labels: {app: web}}
- {name: client, service_account: client, addresses: [10.0.0.1], node: n1}
";

/// A file with a node, workloads, and this.
fn with(rest: &str) -> String {
    format!("{NODE}{WORKLOADS}{rest}")
}

fn read(text: &str) -> Result<Config, String> {
    let path = Path::new("node.yaml");
    let file: Result<NodeFile, _> = parse(path, text);
    file.and_then(|file| super::translate(path, file)).map_err(|problems| problems.to_string())
}

#[test]
fn mistakes() {
    let cases = [
        ("empty", String::new(), "node.yaml: the file is empty"),
        ("tab", format!("{NODE}pods:\n\t- name: x\n"), "node.yaml:6: indented with a tab"),
        ("unknown field", format!("{NODE}podz: []\n"), "node.yaml:5: unknown field `podz`"),
        ("no node", "pods: []\n".to_owned(), "missing field `node`"),
        ("bad address", format!("{NODE}workloads:\n- name: a\n  addresses: [10.0.0.300]\n"), "node.yaml:7: "),
        ("bad enum", format!("{NODE}workloads:\n- name: a\n  protocol: UDP\n"), "node.yaml:7: unknown variant `UDP`"),
        ("bad port", with("services:\n- name: s\n  ports: [{port: 70000}]\n"), "node.yaml:10: "),
        (
            "bad duration",
            NODE.replace("  name: n1\n", "  name: n1\n  drain: 5 seconds\n"),
            "\"5 seconds\" is not a duration",
        ),
        (
            "two workloads",
            format!("{NODE}{WORKLOADS}- {{name: web}}\n"),
            "node.yaml:8: workload default/web is listed twice",
        ),
        (
            "one address",
            format!("{NODE}{WORKLOADS}- {{name: b, addresses: [10.0.0.2]}}\n"),
            "node.yaml:8: address 10.0.0.2 of workload b is web's already",
        ),
        (
            "pod without workload",
            with("pods:\n- {name: x, netns: /n}\n"),
            "node.yaml:9: pod default/x has no entry under workloads",
        ),
        (
            "two pods",
            with("pods:\n- {name: web, netns: /n}\n- {name: web, netns: /m}\n"),
            "node.yaml:10: pod default/web is listed twice",
        ),
        (
            "one namespace",
            with("pods:\n- {name: web, netns: /n}\n- {name: client, netns: /n}\n"),
            "node.yaml:10: pod default/client has the network namespace of another pod: /n",
        ),
        (
            "other node",
            format!("{NODE}workloads:\n- {{name: a, node: n2}}\npods:\n- {{name: a, netns: /n}}\n"),
            "pod default/a is of node n2, and this is node n1",
        ),
        (
            "plain pod",
            format!("{NODE}workloads:\n- {{name: a, protocol: TCP}}\npods:\n- {{name: a, netns: /n}}\n"),
            "its workload says protocol TCP; write HBONE",
        ),
        (
            "no endpoint",
            with("services:\n- {name: s, endpoints: [default/x]}\n"),
            "endpoint default/x is no listed workload",
        ),
        (
            "policy port",
            with("authorization_policies:\n- name: p\n  rules: [{to: [{operation: {ports: ['http']}}]}]\n"),
            "node.yaml:9: authorization policy default/p: \"http\" is not a port",
        ),
        (
            "policy block",
            with("authorization_policies:\n- name: p\n  rules: [{from: [{source: {ipBlocks: ['10.0.0.0/33']}}]}]\n"),
            "\"10.0.0.0/33\" is not an address or CIDR block",
        ),
        (
            "policy condition",
            with("authorization_policies:\n- name: p\n  rules: [{when: [{key: source.port, values: ['1']}]}]\n"),
            "unknown condition \"source.port\"",
        ),
        (
            "policy action",
            with("authorization_policies:\n- name: p\n  action: AUDIT\n"),
            "node.yaml:10: unknown variant `AUDIT`",
        ),
    ];
    for (case, text, expected) in cases {
        let error = read(&text).err().unwrap_or_else(|| panic!("{case}: accepted"));
        assert!(error.contains(expected), "{case}: {error}");
    }
}

#[test]
fn who_ends_its_own_tunnels_is_not_enrolled() {
    let text = format!("{NODE}workloads:\n- {{name: a, tunnel_end: workload}}\npods:\n- {{name: a, netns: /n}}\n");
    let Err(error) = read(&text) else { panic!("accepted") };
    let expected =
        "pod default/a ends its own tunnels (tunnel_end: workload): port 15008 is its, and it cannot be enrolled";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn names_pod_by_pod() {
    let names = |written: &str| {
        let text = with(&format!("pods:\n- {{name: web, netns: /n{written}}}\n"));
        let config = read(&text).unwrap();
        let Captured::ByPrograms(programs) = &config.pods[0].captured else { panic!("{:?}", config.pods) };
        programs.names
    };
    let written = ["", ", dns_capture: true", ", dns_capture: false"].map(names);
    assert_eq!(written, [None, Some(true), Some(false)]);
}

#[test]
fn connections_to_a_pod_are_captured_unless_it_says_otherwise() {
    let inbound = |written: &str| {
        let config = read(&with(&format!("pods:\n- {{name: web, netns: /n{written}}}\n"))).unwrap();
        let Captured::ByPrograms(programs) = &config.pods[0].captured else { panic!("{:?}", config.pods) };
        programs.inbound
    };
    let written = ["", ", bypass_inbound_capture: false", ", bypass_inbound_capture: true"].map(inbound);
    assert_eq!(written, [Inbound::Captured, Inbound::Captured, Inbound::Bypassed]);
}

#[test]
fn virtual_machines_of_a_pod() {
    let interfaces = |written: &str| {
        let config = read(&with(&format!("pods:\n- {{name: web, netns: /n{written}}}\n"))).unwrap();
        let Captured::ByPrograms(programs) = &config.pods[0].captured else { panic!("{:?}", config.pods) };
        programs.virtual_interfaces.clone()
    };
    assert_eq!(interfaces(""), Vec::<String>::new());
    assert_eq!(interfaces(", reroute_virtual_interfaces: [net1, br-vm]"), ["net1", "br-vm"]);
}

#[test]
fn names_need_the_whole_mesh() {
    let read = |dns: &str| {
        let xds = format!("  name: n1\n  xds: {{address: 'https://i:15012', mode: on_demand}}\n{dns}");
        read(&NODE.replace("  name: n1\n", &xds))
    };
    assert!(read("  dns: {capture: false}\n").is_ok());
    let error = read("").unwrap_err();
    assert!(error.contains("node.xds.mode on_demand needs node.dns.capture false"), "{error}");
}

#[test]
fn pods_of_kubernetes() {
    const XDS: &str = "  xds: {address: 'https://i:15012'}\n";
    let node = |written: &str| read(&NODE.replace("  name: n1\n", &format!("  name: n1\n{written}")));
    let mistake = |written: &str| node(written).err().unwrap_or_else(|| panic!("accepted: {written}"));
    let both = node(&format!("{XDS}  kubernetes: {{}}\n  cni: {{}}\n")).unwrap().node;
    let (api, cni) = (both.kubernetes.unwrap(), both.cni.unwrap());
    assert_eq!(api.address, "https://kubernetes.default.svc");
    assert_eq!(api.excluded_namespaces, ["kube-system"]);
    assert_eq!((cni.programs.to_str(), cni.networks.to_str()), (Some("/opt/cni/bin"), Some("/etc/cni/net.d")));
    assert!(mistake("  kubernetes: {}\n").contains("node.kubernetes needs node.xds"));
    assert!(mistake(&format!("{XDS}  cni: {{}}\n")).contains("node.cni needs node.kubernetes"));
    assert!(mistake(&format!("{XDS}  zds: {{}}\n  kubernetes: {{}}\n")).contains("both say where the pods come from"));
    let plain = mistake(&format!("{XDS}  kubernetes: {{address: 'http://api'}}\n"));
    assert!(plain.contains("the node's token must not be sent in clear"), "{plain}");
}

#[test]
fn certificates_for_no_time() {
    let text = NODE.replace("token: /t", "token: /t, certificate_ttl: 5s");
    let Err(error) = read(&text) else { panic!("accepted") };
    assert!(error.contains("certificates of 5s; the shortest lifetime is 10s"), "{error}");
}

#[test]
fn the_cni_agents_socket() {
    let zds = |written: &str| {
        let text = NODE.replace("  name: n1\n", &format!("  name: n1\n{written}"));
        read(&text).unwrap().node.zds.map(|zds| zds.socket.display().to_string())
    };
    assert_eq!(zds(""), None);
    assert_eq!(zds("  zds: {}\n").as_deref(), Some("/var/run/ztunnel/ztunnel.sock"));
    assert_eq!(zds("  zds: {socket: /x.sock}\n").as_deref(), Some("/x.sock"));
    let both = with("pods:\n- {name: web, netns: /n}\n").replace("  name: n1\n", "  name: n1\n  zds: {}\n");
    let error = read(&both).unwrap_err();
    assert!(
        error.contains("node.yaml:10: the pods come from the CNI agent (node.zds), so none may be listed"),
        "{error}"
    );
}

#[test]
fn certificates_live_as_long_as_is_said() {
    let ttl = |written: &str| read(&NODE.replace("token: /t", &format!("token: /t{written}")));
    let error = ttl(", certificate_ttl: 5s").unwrap_err();
    assert!(error.contains("certificates of 5s; the shortest lifetime is 10s"), "{error}");
    for written in ["", ", certificate_ttl: 90s"] {
        assert!(ttl(written).is_ok(), "{written}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = format!("{NODE}{WORKLOADS}pods:\n- {{name: x, netns: /n}}\n- {{name: y, netns: /m}}\n");
    let error = read(&text).unwrap_err();
    assert!(error.contains("pod default/x") && error.contains("pod default/y"), "{error}");
}

/// Whether the client, with and without an identity, may reach web's port 8080.
fn verdicts(policies: &str) -> (bool, bool) {
    let config = read(&format!("{NODE}{WORKLOADS}{policies}")).unwrap();
    let web = config.world.workload_by_uid("Kubernetes//Pod/default/web").unwrap();
    let target: SocketAddr = "10.0.0.2:8080".parse().unwrap();
    let ask = |identity| {
        let peer = Peer { address: "10.0.0.1:4000".parse().unwrap(), identity };
        authorize(&config.world, web, &peer, target).is_ok()
    };
    let client = Identity::new("cluster.local", "default", "client").unwrap();
    (ask(Some(client)), ask(None))
}

#[test]
fn authorization_policies() {
    let policy = |body: &str| format!("authorization_policies:\n- name: p\n{body}");
    let cases = [
        ("allow nothing", policy("  action: ALLOW\n"), (false, false)),
        ("deny nothing", policy("  action: DENY\n"), (true, true)),
        ("allow all", policy("  rules: [{}]\n"), (true, true)),
        ("deny all", policy("  action: DENY\n  rules: [{}]\n"), (false, false)),
        ("by account", policy("  rules: [{from: [{source: {serviceAccounts: [client]}}]}]\n"), (true, false)),
        ("any identity", policy("  rules: [{from: [{source: {principals: ['*']}}]}]\n"), (true, false)),
        ("suffix", policy("  rules: [{from: [{source: {principals: ['*/sa/client']}}]}]\n"), (true, false)),
        (
            "source and port",
            policy("  rules: [{from: [{source: {namespaces: [default]}}], to: [{operation: {ports: ['80']}}]}]\n"),
            (false, false),
        ),
        ("when", policy("  rules: [{when: [{key: destination.port, values: ['8080']}]}]\n"), (true, true)),
        ("not selected", policy("  selector: {app: other}\n  action: DENY\n  rules: [{}]\n"), (true, true)),
        ("selected", policy("  selector: {app: web}\n  action: DENY\n  rules: [{}]\n"), (false, false)),
        ("dry run", policy("  dry_run: true\n  action: DENY\n  rules: [{}]\n"), (true, true)),
        ("allow with L7 allows nothing", policy("  rules: [{to: [{operation: {methods: [GET]}}]}]\n"), (false, false)),
        (
            "deny with L7 alone denies nothing",
            policy("  action: DENY\n  rules: [{to: [{operation: {methods: [GET]}}]}]\n"),
            (true, true),
        ),
        (
            "deny with L4 beside L7 denies more",
            policy("  action: DENY\n  rules: [{to: [{operation: {methods: [GET], ports: ['8080']}}]}]\n"),
            (false, false),
        ),
        (
            "deny with a pure L7 clause is no rule at L4",
            policy(
                "  action: DENY\n  rules: [{from: [{source: {principals: ['*']}}], to: [{operation: {paths: [/a]}}]}]\n",
            ),
            (true, true),
        ),
        ("mesh-wide", policy("  namespace: istio-system\n  action: DENY\n  rules: [{}]\n"), (false, false)),
        ("other namespace", policy("  namespace: other\n  action: DENY\n  rules: [{}]\n"), (true, true)),
    ];
    for (case, text, expected) in cases {
        assert_eq!(verdicts(&text), expected, "{case}");
    }
}

#[test]
fn peer_authentications() {
    let own = |mode: &str, rest: &str| format!("- {{name: own, selector: {{app: web}}, mode: {mode}, {rest}}}\n");
    let mesh = |mode: &str| format!("- {{name: mesh, namespace: istio-system, mode: {mode}}}\n");
    let namespace = |mode: &str| format!("- {{name: ns, mode: {mode}}}\n");
    let cases = [
        ("none", String::new(), true),
        ("strict mesh", mesh("STRICT"), false),
        ("permissive namespace in a strict mesh", mesh("STRICT") + &namespace("PERMISSIVE"), true),
        ("unset inherits", mesh("STRICT") + &namespace("UNSET"), false),
        ("strict workload", namespace("PERMISSIVE") + &own("STRICT", ""), false),
        ("disabled workload", namespace("STRICT") + &own("DISABLE", ""), true),
        ("strict port", own("PERMISSIVE", "port_level: {8080: STRICT}"), false),
        ("other strict port", own("PERMISSIVE", "port_level: {80: STRICT}"), true),
        ("permissive port", own("STRICT", "port_level: {8080: PERMISSIVE}"), true),
        ("other permissive port", own("STRICT", "port_level: {80: DISABLE}"), false),
        ("port that says the same", own("STRICT", "port_level: {8080: STRICT}"), false),
        ("unset port", own("STRICT", "port_level: {8080: UNSET}"), false),
    ];
    for (case, text, plaintext_allowed) in cases {
        let text = if text.is_empty() { text } else { format!("peer_authentications:\n{text}") };
        assert_eq!(verdicts(&text), (true, plaintext_allowed), "{case}");
    }
}

#[test]
fn doubts_are_no_mistakes() {
    let config = read(&format!("{NODE}{WORKLOADS}services:\n- {{name: s, selector: {{app: none}}}}\n")).unwrap();
    assert_eq!(config.warnings, ["node.yaml:9: service default/s.default.svc.cluster.local has no endpoints"]);
}
