//! Asking istiod for a certificate as a node proxy does (protocol note, section 4), by hand.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use mesh_e2e::{Lab, authority};
use rcgen::{CertificateParams, KeyPair};
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::grpc::{Door, runtime, signed};

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const DAY: i64 = 24 * 3600;

#[derive(Clone, PartialEq, prost::Message)]
struct Ask {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    metadata: Option<prost_types::Struct>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// A certificate and its key, PEM.
#[derive(Debug)]
pub(super) struct Issued {
    /// The leaf first, the roots last.
    pub(super) chain: Vec<String>,
    pub(super) key: String,
}

/// Asks from `node`, with `token`, for a certificate for `identity`. What istiod refuses is in the inner result.
pub(super) fn ask(lab: &Lab, node: &str, token: &str, identity: &str) -> Result<Result<Issued, Status>> {
    let value = prost_types::Value::from(identity.to_owned());
    let metadata = prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() };
    request(lab, node, token, Some(metadata))
}

/// Files with a certificate for a pod of `node` that serves itself, as a gateway does: the node's agent's token is good for it.
pub(super) fn for_pod(lab: &Lab, name: &str) -> Result<authority::Issued> {
    let pod = lab.pod(name);
    let token = fs::read_to_string(lab.kube().token(&pod.node))?;
    let issued = ask(lab, &pod.node, &token, &pod.identity)?.with_context(|| pod.identity.clone())?;
    written(lab, name, &issued)
}

/// The same for a machine that is no pod of Kubernetes: it has a token of its own account, and asks for itself.
pub(super) fn for_machine(lab: &Lab, name: &str, (namespace, account): (&str, &str)) -> Result<authority::Issued> {
    let token =
        lab.kube().kubectl().run(["create", "token", account, "--namespace", namespace, "--audience=istio-ca"])?;
    let issued = request(lab, &lab.pod(name).node, &token, None)?.with_context(|| format!("{name}, for itself"))?;
    written(lab, name, &issued)
}

fn request(
    lab: &Lab,
    node: &str,
    token: &str,
    metadata: Option<prost_types::Struct>,
) -> Result<Result<Issued, Status>> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
    let request = signed(Ask { csr, validity_duration: DAY, metadata }, token)?;
    let door = Door::of(lab)?;
    lab.node(node).run(|| {
        runtime()?.block_on(async {
            let mut client = tonic::client::Grpc::new(door.connect().await?);
            client.ready().await.context("istiod's channel")?;
            let codec = ProstCodec::<Ask, Answer>::default();
            let answer = client.unary(request, PathAndQuery::from_static(METHOD), codec).await;
            Ok(answer.map(|answer| Issued { chain: answer.into_inner().cert_chain, key: key.serialize_pem() }))
        })
    })
}

fn written(lab: &Lab, name: &str, issued: &Issued) -> Result<authority::Issued> {
    let [chain @ .., roots] = issued.chain.as_slice() else { anyhow::bail!("an empty chain") };
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = |end: &str| lab.directory().join(format!("{name}-{count}.{end}"));
    let files = authority::Issued { certificate: file("pem"), key: file("key"), root: file("root") };
    fs::write(&files.certificate, chain.concat())?;
    fs::write(&files.key, &issued.key)?;
    fs::write(&files.root, roots)?;
    Ok(files)
}
