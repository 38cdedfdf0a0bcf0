//! What the documentation and `deploy/` show is taken by the code as it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mesh_agent::control::config;
use mesh_agent::file;
use mesh_agent::file::given::Given;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_files_of_deploy_are_good() {
    let node = file::read(&root().join("deploy/vm/node.yaml"), &Given::default()).unwrap();
    assert_eq!(node.warnings, Vec::<String>::new());
    let control = config::read(&root().join("deploy/vm/control.yaml")).unwrap();
    let own = control.nodes.iter().find(|entry| entry.name == node.node.name).expect("the node has an entry");
    let listed: BTreeSet<_> = own.identities.iter().map(ToString::to_string).collect();
    let needed: BTreeSet<_> = node.identities.iter().map(ToString::to_string).collect();
    assert_eq!(listed, needed);
}

/// A block that is no whole file is one section of a file like this.
const REST: &str = "node:
  name: n1
  ca: {address: https://192.0.2.2:15012, root: /r, token: /t}
workloads:
- {name: web, namespace: shop, service_account: web, labels: {app: web}, addresses: [192.0.2.3]}
- {name: db, namespace: shop, service_account: db, labels: {app: db}, addresses: [192.0.2.4]}
";

#[test]
fn yaml_in_the_documentation_is_good() {
    let scratch = tempfile::tempdir().unwrap();
    for page in ["README.md", "docs/configuration.md", "docs/policy.md"] {
        let page_text = text(page);
        for (number, block) in page_text.split("```yaml\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap_or_default();
            let whole = block.lines().any(|line| line.starts_with("node:"));
            let file = scratch.path().join("node.yaml");
            std::fs::write(&file, if whole { block.to_owned() } else { format!("{REST}{block}") }).unwrap();
            if let Err(problems) = file::read(&file, &Given::default()) {
                panic!("{page}, YAML block {}: {problems}", number + 1);
            }
        }
    }
}

/// The names under `expr` of a dashboard that look like metrics of ours.
fn metrics(dashboard: &str) -> BTreeSet<String> {
    let words = dashboard.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| {
        ["istio_", "mesh_", "process_", "workload_manager_"].iter().any(|prefix| word.starts_with(prefix))
    };
    words.filter(ours).map(str::to_owned).collect()
}

#[test]
fn the_dashboard_shows_metrics_that_are_documented() {
    let dashboard = text("deploy/grafana/tcp.json");
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    let (documented, shown) = (text("docs/telemetry.md"), metrics(&dashboard));
    assert!(shown.len() > 10, "{shown:?}");
    let unknown: Vec<_> = shown.iter().filter(|name| !documented.contains(&format!("`{name}`"))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
