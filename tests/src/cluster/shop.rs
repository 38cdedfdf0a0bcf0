//! A shop to try the mesh with: three services, each under an account of its own.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Cluster, images};

pub const NAMESPACE: &str = "shop";
/// Who calls, and what it calls. `frontend` has curl.
pub const SERVICES: [(&str, &str); 3] = [("frontend", "n1"), ("cart", "n1"), ("payments", "n2")];
/// The services' port, and that of their containers.
pub const PORT: u16 = 80;
const TARGET: u16 = 8080;
const START: Duration = Duration::from_secs(60);

/// The shop's objects.
pub fn objects() -> Value {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let services = SERVICES.iter().flat_map(|(name, node)| service(name, node));
    let items: Vec<Value> = [namespace].into_iter().chain(services).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn service(name: &str, node: &str) -> [Value; 3] {
    let meta = json!({"name": name, "namespace": NAMESPACE, "labels": {"app": name}});
    let probe = json!({"httpGet": {"path": "/", "port": TARGET}, "periodSeconds": 1});
    let container = json!({
        "name": name, "image": images::ECHO, "args": [format!("--port={TARGET}")], "readinessProbe": probe,
    });
    let tools = json!({"name": "tools", "image": images::TOOLS});
    let pod = json!({
        "serviceAccountName": name,
        "nodeName": node,
        "terminationGracePeriodSeconds": 1,
        "containers": [container, tools],
    });
    let labels = json!({"app": name});
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta,
               "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": TARGET}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
               "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}}),
    ]
}

impl Cluster {
    /// Opens the shop and waits until it serves.
    pub fn open_shop(&self) -> Result<()> {
        self.kubectl().apply(&objects().to_string())?;
        let limit = format!("--timeout={}s", START.as_secs());
        for (name, _) in SERVICES {
            let deployment = format!("deployment/{name}");
            self.kubectl().run(["rollout", "status", &deployment, "--namespace", NAMESPACE, &limit])?;
        }
        Ok(())
    }

    /// Runs a program beside the container of one of the shop's services.
    pub fn in_shop(&self, service: &str, command: &[&str]) -> Result<String> {
        let deployment = format!("deployment/{service}");
        let start = ["exec", "--namespace", NAMESPACE, &deployment, "--container=tools", "--"];
        self.kubectl().run(start.iter().chain(command))
    }
}
