//! The environment by which Istio's node proxy is told what to do (protocol note, section 13), as the document that a file
//! would be: what is then made of it, its defaults and its mistakes are the same.
//!
//! A variable goes before `PROXY_CONFIG`, which goes before the mesh's `defaultConfig`. An empty variable is none.
//! Variables that mean something to Istio's proxy and nothing here are listed, so that they can be told.

mod connections;
mod mesh;
mod unused;
mod vars;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::problem::{Problems, parse};
use super::translate::translate;
use super::{Config, schema};
use mesh::Mesh;
use vars::Vars;

/// Where istiod is for whoever is not told, in a cluster and outside of one.
const IN_CLUSTER: &str = "https://istiod.istio-system.svc:15012";
const OUTSIDE: &str = "https://localhost:15012";
/// Where Istio's DaemonSet mounts them.
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";
const ROOT: &str = "./var/run/secrets/istio/root-cert.pem";
/// What the word `SYSTEM` stands for.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What [`Problems`] say the place is.
const PLACE: &str = "environment";

/// What the translation needs to know of the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cpus: usize,
    /// A directory that can be written to.
    pub run_dir: PathBuf,
    /// The text of Istio's mesh configuration, if it is mounted.
    pub mesh_config: Option<String>,
}

/// What the environment says.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// In the form of the node's file.
    pub document: Value,
    /// Texts that the document refers to as files, to be written where they are not there yet.
    pub files: Vec<(PathBuf, String)>,
    /// What to log.
    pub log: String,
    pub json: bool,
    /// Variables that are set and mean nothing here.
    pub unused: Vec<String>,
}

/// Translates variables.
pub fn read(variables: &BTreeMap<String, String>, machine: &Machine) -> Result<Written, Problems> {
    let vars = Vars::new(variables);
    let mesh = Mesh::read(&vars, machine.mesh_config.as_deref());
    let mut files = Vec::new();
    let node = node(&vars, &mesh, machine, &mut files);
    let log = vars.text("RUST_LOG").unwrap_or("info").to_owned();
    let json = vars.text("LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("json"));
    unused::impossible(&vars);
    let unused = unused::list(&vars, &mesh);
    vars.end(Path::new(PLACE))?;
    Ok(Written { document: json!({ "node": node }), files, log, json, unused })
}

/// The document as the configuration that it is.
pub fn config(written: &Written) -> Result<Config, Problems> {
    let place = Path::new(PLACE);
    let file: schema::NodeFile = parse(place, &written.document.to_string())?;
    translate(place, file)
}

fn node(vars: &Vars<'_>, mesh: &Mesh, machine: &Machine, files: &mut Vec<(PathBuf, String)>) -> Value {
    let mut texts = Texts { directory: machine.run_dir.join(PLACE), files };
    let v4_only = vars.flag("IPV6_ENABLED") == Some(false);
    let any = if v4_only { "0.0.0.0" } else { "[::]" };
    let cluster = vars.text("CLUSTER_ID").or_else(|| vars.text("ISTIO_META_CLUSTER_ID"));
    let mut dns = Map::new();
    put(&mut dns, "domain", vars.text("CLUSTER_DOMAIN"));
    put(&mut dns, "preferred_namespace", vars.text("PREFERED_SERVICE_NAMESPACE"));
    put(&mut dns, "ipv6", v4_only.then_some("off"));
    // On, unless it is said to be anything else than on.
    put(&mut dns, "capture", mesh.metadata("DNS_CAPTURE").map(|value| value.eq_ignore_ascii_case("true")));
    let mut node = Map::new();
    if let Some(name) = vars.required("NODE_NAME") {
        put(&mut node, "name", Some(name));
    }
    put(&mut node, "network", vars.text("NETWORK"));
    put(&mut node, "cluster", cluster);
    put(&mut node, "trust_domain", vars.text("TRUST_DOMAIN"));
    put(&mut node, "shards", Some(connections::shards(vars, mesh, machine.cpus)));
    put(&mut node, "run_dir", machine.run_dir.to_str());
    put(&mut node, "drain", connections::drain(vars));
    put(&mut node, "metrics", Some(format!("{any}:{}", mesh.stats_port().unwrap_or(15020))));
    put(&mut node, "readiness", Some(format!("{any}:15021")));
    put(&mut node, "admin", mesh.admin_port().map(|port| format!("127.0.0.1:{port}")));
    put(&mut node, "zds", Some(socket(vars)));
    put(&mut node, "dns", Some(dns));
    put(&mut node, "tunnels", Some(connections::tunnels(vars)));
    put(&mut node, "keepalive", Some(connections::keepalive(vars)));
    put(&mut node, "ca", Some(authority(vars, &mut texts)));
    put(&mut node, "xds", Some(istiod(vars, mesh, &mut texts)));
    Value::Object(node)
}

/// Puts a field that is written.
fn put(fields: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value.into());
    }
}

fn socket(vars: &Vars<'_>) -> Map<String, Value> {
    let mut zds = Map::new();
    put(&mut zds, "socket", vars.text("INPOD_UDS"));
    zds
}

fn authority(vars: &Vars<'_>, texts: &mut Texts<'_>) -> Map<String, Value> {
    let mut ca = Map::new();
    put(&mut ca, "address", Some(url(vars.text("CA_ADDRESS").unwrap_or(default_address(vars)))));
    put(&mut ca, "root", Some(texts.roots("ca-root.pem", vars.text("CA_ROOT_CA"))));
    put(&mut ca, "token", Some(texts.token(vars.text("AUTH_TOKEN"))));
    put(&mut ca, "server_name", vars.text("ALT_CA_HOSTNAME"));
    put(&mut ca, "crl", vars.text("CRL_PATH"));
    put(&mut ca, "certificate_ttl", vars.duration("SECRET_TTL"));
    put(&mut ca, "headers", Some(vars.with_prefix("CA_HEADER_")));
    ca
}

fn istiod(vars: &Vars<'_>, mesh: &Mesh, texts: &mut Texts<'_>) -> Map<String, Value> {
    let told = vars.text("XDS_ADDRESS").or(mesh.discovery_address());
    let address = url(told.unwrap_or(default_address(vars)));
    let mut xds = Map::new();
    put(&mut xds, "plaintext", address.starts_with("http://").then_some(true));
    put(&mut xds, "address", Some(address));
    put(&mut xds, "root", Some(texts.roots("xds-root.pem", vars.text("XDS_ROOT_CA"))));
    put(&mut xds, "server_name", vars.text("ALT_XDS_HOSTNAME"));
    put(&mut xds, "mode", vars.flag("XDS_ON_DEMAND").and_then(|on| on.then_some("on_demand")));
    put(&mut xds, "pod", vars.text("POD_NAME"));
    put(&mut xds, "namespace", vars.text("POD_NAMESPACE"));
    put(&mut xds, "ip", vars.text("INSTANCE_IP"));
    put(&mut xds, "metadata", Some(mesh.all_metadata()));
    put(&mut xds, "headers", Some(vars.with_prefix("XDS_HEADER_")));
    xds
}

fn default_address(vars: &Vars<'_>) -> &'static str {
    if vars.text("KUBERNETES_SERVICE_HOST").is_some() { IN_CLUSTER } else { OUTSIDE }
}

/// Addresses are written without a scheme as well.
fn url(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("https://{address}") }
}

/// Values that are paths, or the text itself.
struct Texts<'a> {
    directory: PathBuf,
    files: &'a mut Vec<(PathBuf, String)>,
}

impl Texts<'_> {
    fn roots(&mut self, name: &str, value: Option<&str>) -> String {
        match value {
            None => ROOT.to_owned(),
            Some("SYSTEM") => SYSTEM_ROOTS.to_owned(),
            Some(pem) if pem.contains("-----BEGIN ") => self.file(name, pem),
            Some(path) => path.to_owned(),
        }
    }

    /// A token has no slash in it (RFC 7515, section 3), a path has.
    fn token(&mut self, value: Option<&str>) -> String {
        match value {
            None => TOKEN.to_owned(),
            Some(path) if path.contains('/') => path.to_owned(),
            Some(token) => self.file("token", token),
        }
    }

    fn file(&mut self, name: &str, text: &str) -> String {
        let path = self.directory.join(name);
        self.files.push((path.clone(), text.to_owned()));
        path.display().to_string()
    }
}

#[cfg(test)]
mod tests;
