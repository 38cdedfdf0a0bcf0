//! The lab's certificate authority: the agent's own control role, on the fabric, with a root that outlives its restarts.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;

use crate::eventually::eventually;
use crate::log::Log;
use crate::namespace::Namespace;
use crate::process::Process;

/// Port of the CSR API.
const PORT: u16 = 15012;
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(10);

/// The authority. It can be stopped and started at any time.
#[derive(Debug)]
pub struct Authority {
    binary: PathBuf,
    directory: PathBuf,
    home: Namespace,
    listen: SocketAddr,
    trust_domain: String,
    certificate_ttl: String,
    process: Mutex<Option<Process>>,
}

/// Where an authority runs and what it issues.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) directory: PathBuf,
    pub(crate) home: Namespace,
    pub(crate) listen: std::net::IpAddr,
    pub(crate) trust_domain: &'a str,
    pub(crate) certificate_ttl: &'a str,
}

/// A certificate for someone who cannot ask by itself.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// The trust anchor, PEM.
    pub root: PathBuf,
}

impl Authority {
    /// Makes the root; nothing runs yet.
    pub(crate) fn new(place: Place<'_>) -> Result<Self> {
        fs::create_dir_all(&place.directory)?;
        write_root(&place.directory.join("root.pem"), &place.directory.join("root.key"))?;
        Ok(Self {
            binary: place.binary.to_owned(),
            directory: place.directory,
            home: place.home,
            listen: SocketAddr::new(place.listen, PORT),
            trust_domain: place.trust_domain.to_owned(),
            certificate_ttl: place.certificate_ttl.to_owned(),
            process: Mutex::new(None),
        })
    }

    /// What the agents' files say under `ca`.
    pub(crate) fn for_node(&self, node: &str) -> Result<serde_json::Value> {
        let token = self.token(node);
        if !token.exists() {
            // A secret is only needed in form: nobody else is in the lab's namespaces.
            fs::write(&token, format!("token-of-{node}\n"))?;
        }
        Ok(
            json!({"address": format!("https://{}", self.listen), "root": self.directory.join("anchors.pem"), "token": token}),
        )
    }

    /// Says who may ask for what.
    pub(crate) fn allow(&self, nodes: &[(String, Vec<String>)]) -> Result<()> {
        let entries = nodes
            .iter()
            .map(|(name, identities)| json!({"name": name, "token_file": self.token(name), "identities": identities}));
        let file = json!({
            "listen": self.listen,
            "trust_domain": self.trust_domain,
            "certificate_ttl": self.certificate_ttl,
            "root": {"cert": self.directory.join("root.pem"), "key": self.directory.join("root.key")},
            "publish_root": self.directory.join("anchors.pem"),
            "nodes": entries.collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&file)?;
        if fs::read_to_string(self.config_file()).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let news = self.log().from_now();
        replace(&self.config_file(), &text)?;
        if self.process().is_some() {
            news.wait(START, |line| line.message == "configuration loaded")?;
        }
        Ok(())
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory.join("control.yaml")
    }

    pub fn log(&self) -> Log {
        Log::at(&self.directory.join("control.log"))
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    /// Starts it and waits until it answers.
    pub fn start(&self) -> Result<()> {
        let mut slot = self.process();
        ensure!(slot.is_none(), "the authority runs already");
        let mut command = self.home.command(&self.binary);
        command.arg("control").arg("--config").arg(self.config_file()).args(["--log-format", "json"]);
        let mut process = Process::spawn("the authority", &mut command, self.log().path())?;
        eventually(START, || {
            process.check_running()?;
            self.home.connect(self.listen).map(drop)
        })?;
        *slot = Some(process);
        Ok(())
    }

    /// SIGTERM; waits for its end.
    pub fn stop(&self) -> Result<()> {
        let process = self.process().take();
        process.context("the authority is not started")?.stop(STOP).map(drop)
    }

    /// Issues a certificate for `identity`. `lifetime` is such as `24h`; a negative one gives a certificate that has
    /// expired. `name` is the stem of the files' names.
    pub fn issue(&self, name: &str, identity: &str, lifetime: &str) -> Result<Issued> {
        let file = |end: &str| self.directory.join(format!("{name}.{end}"));
        let issued = Issued { certificate: file("pem"), key: file("key"), root: self.directory.join("root.pem") };
        let mut command = Command::new(&self.binary);
        command.args(["control", "issue", "--config"]).arg(self.config_file()).args(["--identity", identity]);
        command.arg("--lifetime").arg(lifetime);
        command.arg("--out-cert").arg(&issued.certificate).arg("--out-key").arg(&issued.key);
        let output = command.output()?;
        ensure!(output.status.success(), "control issue: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(issued)
    }

    fn token(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.token"))
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a self-signed root certificate and its key, PEM. Also for authorities that the lab does not trust.
pub fn write_root(certificate: &Path, key: &Path) -> Result<()> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    fs::write(certificate, params.self_signed(&pair)?.pem())?;
    fs::write(key, pair.serialize_pem())?;
    Ok(())
}

/// Puts another text in the place of a file, in one step.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path).with_context(|| path.display().to_string())
}
