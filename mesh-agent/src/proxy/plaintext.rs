//! Inbound plaintext: authorised without an identity, then carried to the application (protocol note, section 8.7).

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use mesh_common::abi::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use tokio::net::TcpStream;

use super::copy::{self, Socket};
use super::dial::{Ports, Seen};
use super::error::{Error, outcome};
use super::inbound;
use super::pod::Pod;
use super::record::{Ends, Record, Reporter, Security, refuse};
use super::revoke::Question;
use super::source;
use crate::model::{Peer, Workload};

/// Serves one captured connection from outside the mesh.
pub(super) async fn serve(pod: Rc<Pod>, tcp: TcpStream, client: SocketAddr) {
    let target = pod.original_destination(&tcp);
    let tcp = Socket::new(tcp);
    let known = target.as_ref().ok().copied();
    let (workload, question) = match understand(&pod, target, client).await {
        Ok(understood) => understood,
        Err(error) => return refuse(Reporter::Destination, client, known, &error.to_string()),
    };
    let record = Record::open(&pod.books, ends(&pod, &workload, &question));
    let result = pod.unless_cut(pin!(carry(&pod, tcp, &question, &record))).await;
    record.finish(outcome(&result));
}

async fn understand(
    pod: &Pod,
    target: Result<SocketAddr, Error>,
    client: SocketAddr,
) -> Result<(Arc<Workload>, Question), Error> {
    let target = target?;
    if matches!(target.port(), HBONE_PORT | PLAINTEXT_PORT | OUTBOUND_PORT) {
        return Err(Error::SelfCall(target));
    }
    let workload = pod.workload().await?;
    if let Some(asker) = &pod.asker {
        asker.labels(&pod.network, client.ip(), &workload).await;
    }
    let peer = Peer { address: client, identity: None };
    let question = Question { workload: Arc::clone(&workload.uid), peer, target };
    Ok((workload, question))
}

fn ends(pod: &Pod, workload: &Arc<Workload>, question: &Question) -> Ends {
    let world = pod.world();
    let client = question.peer.address;
    Ends {
        reporter: Reporter::Destination,
        src_addr: client,
        dst_addr: question.target,
        hbone_addr: None,
        original: question.target,
        source: world.workload_at(&pod.network, client.ip()).cloned(),
        source_identity: None,
        destination: Some(Arc::clone(workload)),
        destination_identity: None,
        service: source::service_label(&world, workload, None, question.target.port()),
        security: Security::Plain,
        policy: None,
        netns_cookie: pod.netns_cookie,
        app_socket: None,
    }
}

async fn carry(pod: &Pod, tcp: Socket, question: &Question, record: &Record) -> Result<(), Error> {
    let mut worlds = pod.verdicts.clone();
    let app = inbound::reach(pod, question, (Seen::Client(question.peer.address.ip()), Ports::Any), record).await?;
    let watched = pod.placement.watch(record, None);
    tokio::select! {
        result = copy::relay(tcp, app, &watched, pod.placement.lane()) => Ok(result?),
        denied = question.until_denied(&mut worlds) => Err(Error::Revoked(denied)),
    }
}
