//! A plugged-in authority: the secret `cacerts` of an operator who has roots of his own, and its files as the kubelet mounts
//! them for istiod.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use super::istiod::NAMESPACE;
use super::kubectl::Kubectl;

const SECRET: &str = "cacerts";
/// Where istiod looks for it, from its folder.
pub(super) const MOUNT: &str = "etc/cacerts";
/// What the kubelet calls the link that it replaces, and so all files in one step.
const DATA: &str = "..data";

/// A root of trust. It signs nothing but intermediate authorities, of which each istiod gets one.
#[derive(Debug)]
pub struct Root {
    name: String,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Root {
    pub fn new(name: &str) -> Result<Self> {
        let (pair, params) = (KeyPair::generate()?, authority(name));
        let pem = params.self_signed(&pair)?.pem();
        Ok(Self { name: name.to_owned(), issuer: Issuer::new(params, pair), pem })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// An intermediate authority: its certificate and its key.
    fn intermediate(&self) -> Result<(String, String)> {
        let pair = KeyPair::generate()?;
        let params = authority(&format!("istiod under {}", self.name));
        Ok((params.signed_by(&pair, &self.issuer)?.pem(), pair.serialize_pem()))
    }
}

/// What a bundle of roots is as a file.
pub fn bundle(roots: &[&Root]) -> String {
    roots.iter().map(|root| root.pem.as_str()).collect()
}

/// Makes the secret, or changes it: a new authority under `signing`, and these roots to be trusted. Gives the authority's
/// certificate.
pub(super) fn apply(kubectl: &Kubectl, signing: &Root, trusted: &[&Root]) -> Result<String> {
    let (certificate, key) = signing.intermediate()?;
    let data = json!({
        "ca-cert.pem": certificate,
        "ca-key.pem": key,
        "cert-chain.pem": certificate,
        "root-cert.pem": bundle(trusted),
    });
    let metadata = json!({"name": SECRET, "namespace": NAMESPACE});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data});
    kubectl.apply(&secret.to_string())?;
    Ok(certificate)
}

/// Mounts the secret into istiod's folder, or brings its files up to date: what the kubelet does within a minute.
pub(super) fn mount(kubectl: &Kubectl, istiod: &Path) -> Result<()> {
    let place = istiod.join(MOUNT);
    let secret = kubectl.json(&["get", "secret", SECRET, "--namespace", NAMESPACE])?;
    let version = secret.pointer("/metadata/resourceVersion").and_then(|it| it.as_str()).context("no version")?;
    let folder = place.join(format!("..{version}"));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for name in secret["data"].as_object().context("no data")?.keys() {
        let template = format!("go-template={{{{index .data \"{name}\" | base64decode}}}}");
        let text = kubectl.run(["get", "secret", SECRET, "--namespace", NAMESPACE, "--output", &template])?;
        ensure!(text.starts_with("-----BEGIN "), "{name} is not PEM");
        fs::write(folder.join(name), text)?;
        let link = place.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    let fresh = place.join("..data_tmp");
    symlink(format!("..{version}"), &fresh)?;
    fs::rename(&fresh, place.join(DATA)).context("the new files")
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "lab");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
