//! `ctl check`: what a node lacks for an agent, and whether the agent that runs there works.
//!
//! What can be seen is read first, as plain facts ([`facts`]); what they mean is decided by pure functions, one for each
//! group of findings. Nothing is changed: programs are loaded and dropped, and a few connections are made from inside of
//! captured pods to addresses at which nobody is ([`capture`]). docs/check.md has every finding.

mod agent;
mod capture;
mod facts;
mod finding;
mod lists;
mod machine;
mod network;
mod ports;
mod settings;
mod spaces;

use std::io::Write;
use std::path::Path;

use super::client::{CtlError, Socket};
use super::{CheckArgs, Output, show};
use facts::Facts;
use finding::{Document, Finding, Group, Level, Report};
use settings::Settings;

/// Looks at the node and tells what was found; that something is wrong is an error.
pub(super) async fn run(socket: &Path, args: &CheckArgs, output: Output, out: &mut impl Write) -> Result<(), CtlError> {
    let settings = Settings::read(args)?;
    let socket = settings.socket(socket);
    let answer = Socket::new(&socket).get("/status").await;
    // Nothing is awaited from here on: namespaces are entered with this thread.
    let facts = Facts::gather(settings, socket, answer);
    let document = Document { findings: judge(&facts) };
    show(out, output, &document, finding::render)?;
    let wrong = document.findings.iter().filter(|finding| finding.level == Level::Wrong).count();
    if wrong == 0 { Ok(()) } else { Err(CtlError::Wrong { wrong, all: document.findings.len() }) }
}

/// What the facts mean.
fn judge(facts: &Facts) -> Vec<Finding> {
    let mut node = Report::about(Group::Node);
    facts.settings.judge(&facts.unreadable, &mut node);
    facts.machine.judge(&mut node);
    ports::judge(&facts.ports, &facts.agent, &mut node);
    let mut network = Report::about(Group::Network);
    network::judge(&facts.network, &facts.settings.pods(), &facts.agent, &mut network);
    facts.spaces.judge(&mut network);
    let mut agent = Report::about(Group::Agent);
    agent::judge(&facts.agent, &facts.pinned, &mut agent);
    capture::judge(&facts.probes, &mut agent);
    [node, network, agent].into_iter().flat_map(Report::finish).collect()
}
