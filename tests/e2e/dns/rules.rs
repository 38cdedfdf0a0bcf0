//! Pods whose queries somebody else's rules redirect to the agent's port on loopback.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use hickory_proto::rr::RecordType::{A, AAAA, TXT};
use mesh_e2e::zds::rules::redirect_names;
use mesh_e2e::{Lab, Service, Topology};
use serde_json::json;

use super::client::{Over, ask};
use super::upstream::Upstream;
use super::{NOWHERE, forwarded, outside};
use crate::zds::hands::{Hands, pair};

/// Who is asked cannot be known for datagrams: rules leave no trace of it in them. So it is the node's servers.
pub(super) fn topology() -> Topology {
    pair()
        .service(Service::new("web").port(80, 8080).endpoint("default/server"))
        .node_setting("dns", json!({"resolv_conf": forwarded::resolv_conf()}))
}

/// The mesh's names are answered and others asked of the node's servers, whoever the application asks. What the agent asks
/// itself is marked, and goes past the rules.
pub(super) fn redirected(lab: &mut Lab) -> Result<()> {
    let (client, file) = (lab.pod("client"), forwarded::resolv_conf());
    let [v4, v6] = outside(lab);
    let _hands = Hands::start(lab, &["client", "server"])?;
    redirect_names(client).context("the rules")?;
    let upstream = Upstream::start(lab.outside())?;
    let result = (|| -> Result<()> {
        std::fs::write(&file, format!("nameserver {}\nnameserver {}\n", v4.ip(), v6.ip()))?;
        let servers: [SocketAddr; 4] = [NOWHERE[0].parse()?, NOWHERE[1].parse()?, v4, v6];
        for server in servers {
            for over in [Over::Udp, Over::Tcp] {
                let says =
                    |name: &str, kind| Ok::<_, anyhow::Error>(ask(client, server, name, kind, over)?.to_string());
                let web = [(A, lab.vip4("web", 80)), (AAAA, lab.vip6("web", 80))];
                for (kind, vip) in web {
                    let (found, expected) = (says("web", kind)?, format!("NoError aa {}", vip.ip()));
                    ensure!(found == expected, "web {kind} at {server} by {over:?} is {found}");
                }
                ensure!(upstream.asked().is_empty(), "a name server was asked for a name of the mesh");
                let found = says("www.example.org", TXT)?;
                ensure!(found == "NoError some text", "at {server} by {over:?}: {found}");
                let asked = upstream.asked();
                ensure!(asked.len() == 1 && asked[0].client.ip() == client.v4, "{asked:?}");
            }
        }
        Ok(())
    })();
    std::fs::remove_file(&file).ok();
    result
}
