//! The control role for labs and single machines: a certificate authority over Istio's CSR API (protocol note, section 4).
//!
//! It speaks what a real authority speaks, so that the node's identity code is the real one. [`config`] is its YAML file,
//! [`issuer`] signs, [`serve`] answers requests: who asks is proven by a bearer token, and a node may only ask for
//! the identities that its entry lists.

pub mod config;
pub mod issuer;
mod serve;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use crate::file::watch::{Edits, changes};
use crate::identity::csr;
use crate::model::Identity;
use crate::task::Tasks;
use config::ControlFile;
use issuer::Issuer;

/// Arguments of `control issue`.
#[derive(Debug, clap::Args)]
pub struct IssueArgs {
    /// The authority's YAML file, which must mount a root
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The SPIFFE identity to certify
    #[arg(long, value_name = "URI")]
    pub identity: String,
    /// How long the certificate is valid, such as 24h; a negative time gives one that has expired
    #[arg(long, value_name = "DURATION", default_value = "24h", allow_hyphen_values = true)]
    pub lifetime: String,
    /// Where the certificate chain goes (PEM, leaf first)
    #[arg(long, value_name = "FILE")]
    pub out_cert: PathBuf,
    /// Where the private key goes (PEM, mode 0600)
    #[arg(long, value_name = "FILE")]
    pub out_key: PathBuf,
}

/// Serves the authority until SIGTERM or SIGINT.
pub fn run(path: &Path) -> anyhow::Result<()> {
    // Watched before it is read, so that no edit falls between.
    let edits = changes(path);
    let file = config::read(path)?;
    let issuer = Arc::new(Issuer::new(&file)?);
    issuer.publish(&file.publish_root).with_context(|| file.publish_root.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async move {
        let tasks = Tasks::new();
        let (writer, reader) = watch::channel(Arc::new(file));
        match edits {
            Ok(edits) => tasks.spawn(follow(path.to_owned(), edits, writer)),
            Err(error) => tracing::error!(%error, "the file is not watched; edits need a restart"),
        }
        let result = serve::serve(issuer, reader).await;
        tasks.drain(Duration::from_secs(1)).await;
        result
    })
}

/// Takes over edits of the file: new nodes and identities. A bad one is reported and left out.
async fn follow(path: PathBuf, mut edits: Edits, writer: watch::Sender<Arc<ControlFile>>) {
    while edits.next().await.is_some() {
        match config::read(&path) {
            Ok(file) => {
                tracing::info!(nodes = file.nodes.len(), "configuration loaded");
                writer.send_replace(Arc::new(file));
            }
            Err(error) => tracing::error!(%error, "configuration rejected, the old one stays in force"),
        }
    }
}

/// Issues one certificate from the mounted root.
pub fn issue(args: &IssueArgs) -> anyhow::Result<()> {
    let file = config::read(&args.config)?;
    anyhow::ensure!(file.root.is_some(), "{} mounts no root (root: cert, key)", args.config.display());
    let identity: Identity = args.identity.parse()?;
    let (length, past) = match args.lifetime.strip_prefix('-') {
        Some(length) => (length, true),
        None => (args.lifetime.as_str(), false),
    };
    let length = crate::file::duration::parse(length)?;
    let issuer = Issuer::new(&file)?;
    let request = csr::request(&identity)?;
    let lifetime = if past { issuer::Lifetime::EndedAgo(length) } else { issuer::Lifetime::EndsIn(length) };
    let chain = issuer.sign(&identity, &request.csr, lifetime)?;
    std::fs::write(&args.out_cert, chain.concat()).with_context(|| args.out_cert.display().to_string())?;
    issuer::write_private(&args.out_key, &request.key_pem()).with_context(|| args.out_key.display().to_string())
}
