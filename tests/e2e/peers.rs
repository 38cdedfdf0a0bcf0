//! Wrong peers and garbage: each is told by a sentence of its own, answered rightly, and harms nobody.
//!
//! | file | what |
//! |---|---|
//! | [`wrong`] | clients with wrong certificates and wrong protocols |
//! | [`connect`] | requests of good peers |
//! | [`impostor`] | servers that are not what the configuration says |
//! | [`abuse`], [`frames`] | floods of HTTP/2 frames |
//! | [`slow`] | peers that take their time |
//! | [`credentials`], [`client`] | certificates and a client that are not the agent's |

mod abuse;
pub(crate) mod client;
mod connect;
pub(crate) mod credentials;
mod frames;
mod impostor;
mod slow;
mod wrong;

use mesh_e2e::{Pod, Service, Topology};

use crate::runner::{Case, Fixture};

fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("alice", "n1"))
        .pod(Pod::new("server", "n2").label("app", "server"))
        .pod(Pod::new("impostor", "n2").unknown())
        .service(Service::new("web").port(8080, 80).selects("app", "server"))
}

static LAB: Fixture = Fixture { name: "peers", topology };

pub(crate) const CASES: &[Case] = &[
    Case::shared("wrong_certificates", &LAB, wrong::certificates),
    Case::shared("control_issue", &LAB, wrong::control_issue),
    Case::shared("wrong_protocols", &LAB, wrong::protocols),
    Case::shared("trap_02_answers_to_connect", &LAB, connect::answers),
    Case::shared("other_methods", &LAB, connect::other_methods),
    Case::shared("success_tells_of_the_destination", &LAB, connect::success),
    Case::shared("streams_that_are_reset", &LAB, connect::resets),
    Case::shared("denied_by_policy", &LAB, connect::denied),
    Case::shared("wrong_servers", &LAB, impostor::wrong_servers),
    Case::shared("nobody_on_the_hbone_port", &LAB, impostor::nobody),
    Case::shared("floods", &LAB, abuse::floods),
    Case::shared("slow_peers", &LAB, slow::together),
    Case::fresh("a_stopped_agent", topology, impostor::stopped),
];
