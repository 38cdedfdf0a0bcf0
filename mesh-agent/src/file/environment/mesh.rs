//! `PROXY_CONFIG`, the mesh's configuration, and what the agent tells istiod about its node.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::vars::Vars;

/// What of Istio's ProxyConfig is looked at. Of the rest there is much, and it is other proxies' business.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    discovery_address: Option<String>,
    proxy_admin_port: Option<u16>,
    stats_port: Option<u16>,
    concurrency: Option<u32>,
    proxy_metadata: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfig {
    default_config: ProxyConfig,
}

/// Both, the more particular one first, and the node's metadata.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    layers: [ProxyConfig; 2],
    metadata: Map<String, Value>,
}

const VARIABLE: &str = "ISTIO_META_";
const JSON_VARIABLE: &str = "ISTIO_METAJSON_";

impl Mesh {
    pub(super) fn read(vars: &Vars<'_>, mesh_config: Option<&str>) -> Self {
        let own = vars.text("PROXY_CONFIG").map(|text| yaml(vars, "PROXY_CONFIG", text));
        let mesh: Option<MeshConfig> = mesh_config.map(|text| yaml(vars, "the mesh configuration", text));
        let layers = [own.unwrap_or_default(), mesh.unwrap_or_default().default_config];
        let metadata = metadata(vars, &layers);
        Self { layers, metadata }
    }

    fn first<'a, T>(&'a self, of: impl Fn(&'a ProxyConfig) -> Option<T>) -> Option<T> {
        self.layers.iter().find_map(of)
    }

    pub(super) fn discovery_address(&self) -> Option<&str> {
        self.first(|layer| layer.discovery_address.as_deref()).filter(|address| !address.is_empty())
    }

    pub(super) fn admin_port(&self) -> Option<u16> {
        self.first(|layer| layer.proxy_admin_port)
    }

    pub(super) fn stats_port(&self) -> Option<u16> {
        self.first(|layer| layer.stats_port)
    }

    pub(super) fn concurrency(&self) -> Option<u32> {
        self.first(|layer| layer.concurrency)
    }

    /// An entry of the node's metadata.
    pub(super) fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.as_str()
    }

    pub(super) fn all_metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }
}

/// Variables go before what is written in `proxyMetadata`. Istio's DaemonSet makes variables of that, with its names as they are.
fn metadata(vars: &Vars<'_>, layers: &[ProxyConfig; 2]) -> Map<String, Value> {
    let mut metadata = Map::new();
    for layer in layers.iter().rev() {
        for (name, value) in &layer.proxy_metadata {
            let name = name.strip_prefix(VARIABLE).unwrap_or(name);
            metadata.insert(name.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned).into());
        }
    }
    for name in ["DNS_CAPTURE", "DNS_PROXY_ADDR"] {
        if let Some(value) = vars.text(name) {
            metadata.insert(name.to_owned(), value.into());
        }
    }
    metadata.extend(vars.with_prefix(VARIABLE));
    for (name, text) in vars.with_prefix(JSON_VARIABLE) {
        match text.as_str().map(serde_json::from_str::<Value>) {
            Some(Ok(value)) => drop(metadata.insert(name, value)),
            _ => vars.mistake(format!("{JSON_VARIABLE}{name} is not JSON")),
        }
    }
    metadata
}

fn yaml<T: Default + for<'de> Deserialize<'de>>(vars: &Vars<'_>, place: &str, text: &str) -> T {
    // An empty document is one that says nothing.
    if text.trim().is_empty() {
        return T::default();
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|error| {
        let error = error.to_string();
        vars.mistake(format!("{place}: {}", error.lines().next().unwrap_or_default()));
        T::default()
    })
}
