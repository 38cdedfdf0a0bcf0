//! What the API server proves itself with, and by what it knows its administrator.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use super::ground::Ground;

/// Files, all PEM but for the tokens.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// The anchor of the API server's certificate.
    pub(super) root: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Signs the tokens of service accounts; and its public half.
    pub(super) accounts: PathBuf,
    pub(super) accounts_public: PathBuf,
    /// Who may come in by a token that never changes: the administrator.
    pub(super) tokens: PathBuf,
    secret: String,
}

impl Keys {
    /// Makes and writes all of them.
    pub(super) fn new(ground: &Ground) -> Result<Self> {
        let file = |name: &str| ground.file(name);
        let own = KeyPair::generate()?;
        let keys = Self {
            root: file("root.pem"),
            certificate: file("apiserver.pem"),
            key: file("apiserver.key"),
            accounts: file("accounts.key"),
            accounts_public: file("accounts.pub"),
            tokens: file("tokens.csv"),
            // Of a key that is used for nothing else.
            secret: own.serialize_der().iter().rev().take(32).map(|byte| format!("{byte:02x}")).collect(),
        };
        let issuer = keys.issuer()?;
        let pair = KeyPair::generate()?;
        let certificate = server()?.signed_by(&pair, &issuer)?;
        write(&keys.certificate, &certificate.pem())?;
        write(&keys.key, &pair.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        write(&keys.accounts, &accounts.serialize_pem())?;
        write(&keys.accounts_public, &accounts.public_key_pem())?;
        write(&keys.tokens, &format!("{},administrator,1,\"system:masters\"\n", keys.secret))?;
        Ok(keys)
    }

    /// Writes a kubeconfig for the administrator of an API server that is reached at `server`.
    pub(super) fn kubeconfig(&self, path: &Path, server: &str) -> Result<()> {
        let file = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": self.root}}],
            "users": [{"name": "administrator", "user": {"token": self.secret}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "administrator"}}],
            "current-context": "lab",
        });
        // JSON is YAML.
        write(path, &serde_json::to_string_pretty(&file)?)
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
    let names = ["localhost", "127.0.0.1", address.as_str(), "kubernetes.default.svc"];
    let mut params = CertificateParams::new(names.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    Ok(params)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
