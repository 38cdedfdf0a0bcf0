//! What the API server proves itself with, and by what it knows its administrator.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::ground::Ground;

const ADMINISTRATOR: &str = "administrator";

/// Files, all PEM but for the tokens.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The anchor of the API server's certificate.
    pub(crate) root: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Signs the tokens of service accounts; and its public half.
    pub(super) accounts: PathBuf,
    pub(super) accounts_public: PathBuf,
    /// What the API server proves itself with towards kubelets.
    pub(super) client: PathBuf,
    pub(super) client_key: PathBuf,
    /// Who may come in by a token that never changes: the administrator; kubelets and kube-proxies, if there are any.
    pub(super) tokens: PathBuf,
    /// Tokens by user.
    secrets: BTreeMap<String, String>,
}

impl Keys {
    /// Makes and writes all of them; for kubelets of these nodes as well.
    pub(super) fn new(ground: &Ground, nodes: &[String]) -> Result<Self> {
        let file = |name: &str| ground.file(name);
        let mut users = vec![(ADMINISTRATOR.to_owned(), "system:masters")];
        users.extend(nodes.iter().map(|node| (format!("system:node:{node}"), "system:nodes")));
        users.extend((!nodes.is_empty()).then(|| ("system:kube-proxy".to_owned(), "system:authenticated")));
        let secrets =
            users.iter().map(|(user, _)| Ok((user.clone(), secret()?))).collect::<Result<BTreeMap<_, _>>>()?;
        let keys = Self {
            root: file("root.pem"),
            certificate: file("apiserver.pem"),
            key: file("apiserver.key"),
            accounts: file("accounts.key"),
            accounts_public: file("accounts.pub"),
            client: file("kubelet-client.pem"),
            client_key: file("kubelet-client.key"),
            tokens: file("tokens.csv"),
            secrets,
        };
        let issuer = keys.issuer()?;
        for (params, certificate, key) in
            [(server()?, &keys.certificate, &keys.key), (client()?, &keys.client, &keys.client_key)]
        {
            let pair = KeyPair::generate()?;
            write(certificate, &params.signed_by(&pair, &issuer)?.pem())?;
            write(key, &pair.serialize_pem())?;
        }
        let accounts = KeyPair::generate()?;
        write(&keys.accounts, &accounts.serialize_pem())?;
        write(&keys.accounts_public, &accounts.public_key_pem())?;
        let line = |(user, group): &(String, &str)| format!("{},{user},{user},\"{group}\"\n", keys.secrets[user]);
        write(&keys.tokens, &users.iter().map(line).collect::<String>())?;
        Ok(keys)
    }

    /// Writes a kubeconfig for the administrator of an API server that is reached at `server`.
    pub(crate) fn kubeconfig(&self, path: &Path, server: &str) -> Result<()> {
        write(path, &self.kubeconfig_of(ADMINISTRATOR, server, &self.root)?)
    }

    /// A kubeconfig for one of the users that have a token, in a place where the trust anchor is at `root`.
    pub(crate) fn kubeconfig_of(&self, user: &str, server: &str, root: &Path) -> Result<String> {
        let token = self.secrets.get(user).with_context(|| format!("{user} has no token"))?;
        let file = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": root}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        });
        // JSON is YAML.
        Ok(serde_json::to_string_pretty(&file)?)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "lab kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        write(&self.root, &params.self_signed(&pair)?.pem())?;
        Ok(Issuer::new(params, pair))
    }
}

/// By every name and address by which the API server is reached.
fn server() -> Result<CertificateParams> {
    let address = Ground::address().to_string();
    // Pods call it by the first of the services' addresses.
    let names = ["localhost", "127.0.0.1", &address, "kubernetes.default.svc", "kubernetes", "10.48.0.1", "fd00:50::1"];
    let mut params = CertificateParams::new(names.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    Ok(params)
}

/// As whom the API server calls kubelets.
fn client() -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver-kubelet-client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// Of a key that is used for nothing else.
fn secret() -> Result<String> {
    Ok(KeyPair::generate()?.serialize_der().iter().rev().take(32).map(|byte| format!("{byte:02x}")).collect())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
