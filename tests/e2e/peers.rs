//! Wrong peers and garbage: each is told by a sentence of its own, answered rightly, and harms nobody.
//!
//! | file | what |
//! |---|---|
//! | [`wrong`] | clients with wrong certificates and wrong protocols |
//! | [`connect`] | requests of good peers |
//! | [`credentials`], [`client`] | certificates and a client that are not the agent's |

mod client;
mod connect;
mod credentials;
mod wrong;

use mesh_e2e::{Pod, Service, Topology};

use crate::runner::{Case, Fixture};

fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("alice", "n1"))
        .pod(Pod::new("server", "n2").label("app", "server"))
        .service(Service::new("web").port(8080, 80).selects("app", "server"))
}

static LAB: Fixture = Fixture { name: "peers", topology };

pub(crate) const CASES: &[Case] = &[
    Case::shared("wrong_certificates", &LAB, wrong::certificates),
    Case::shared("control_issue", &LAB, wrong::control_issue),
    Case::shared("wrong_protocols", &LAB, wrong::protocols),
    Case::shared("answers_to_connect", &LAB, connect::answers),
    Case::shared("other_methods", &LAB, connect::other_methods),
    Case::shared("success_tells_of_the_destination", &LAB, connect::success),
    Case::shared("denied_by_policy", &LAB, connect::denied),
];
