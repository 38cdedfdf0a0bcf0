//! Enrolling pods that have connections: nobody notices.

use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{Ending, ending};
use mesh_e2e::{Lab, Pod, Topology};

use super::talk::{PATIENCE, enrol, open, says};

/// Pods that are to be enrolled while they talk.
pub(super) fn not_yet() -> Topology {
    Topology::new().pod(Pod::new("client", "n1").plain()).pod(Pod::new("server", "n2").plain())
}

/// Connections that are older than the enrolment go on beside the mesh, in both directions; new ones are in it.
pub(super) fn survived(lab: &mut Lab) -> Result<()> {
    let (client, server, outside) = (lab.pod("client"), lab.pod("server"), lab.outside());
    let (_echo, _far) = (server.echo(80)?, outside.echo(80)?);
    let old = [
        open(client, server.at4(80))?,
        open(client, server.at6(80))?,
        open(client, SocketAddr::new(lab.outside_addresses()[0], 80))?,
        open(outside, server.at4(80))?,
        open(outside, server.at6(80))?,
    ];
    let check = |when: &str| -> Result<()> {
        let wire = lab.wire("n2")?;
        old.iter().try_for_each(|stream| says(stream, "words of old")).context(when.to_owned())?;
        let new = open(client, server.at4(80))?;
        says(&new, "words of new")?;
        let flows = lab.agent("n1").flows()?;
        let own = new.local_addr()?.to_string();
        ensure!(flows.iter().any(|flow| flow.source.address == own), "{when}: the new one is not captured: {flows:?}");
        for stream in &old {
            let own = stream.local_addr()?.to_string();
            ensure!(flows.iter().all(|flow| flow.source.address != own), "{when}: {own} is older, and captured");
        }
        let seen = wire.finish()?;
        ensure!(seen.showing("words of old").count() > 0, "{when}: the older ones do not go by the wire as before");
        ensure!(seen.showing("words of new").count() == 0, "{when}: the new one can be read on the wire");
        Ok(())
    };
    lab.publish(enrol(&["client", "server"]))?;
    check("after the enrolment")?;
    lab.agent("n1").restart()?;
    lab.agent("n2").restart()?;
    lab.settle()?;
    check("after the agents' restart")?;
    for node in ["n1", "n2"] {
        let counted = lab.agent(node).status()?.counter("preexisting");
        ensure!(counted > 0, "{node} counts no packet of older flows");
    }
    for stream in &old {
        stream.shutdown(Shutdown::Write)?;
        ensure!(ending(stream, PATIENCE)? == Ending::Fin, "an older connection cannot end in order");
    }
    Ok(())
}

/// Clients that connect all the time notice nothing of a pod's enrolment, be it the server's or their own.
pub(super) fn unnoticed(lab: &mut Lab) -> Result<()> {
    let (client, to) = (lab.pod("client"), lab.pod("server").at4(80));
    let _echo = lab.pod("server").echo(80)?;
    let steps: [&'static [&'static str]; 2] = [&["server"], &["client"]];
    for names in steps {
        let stop = AtomicBool::new(false);
        let made = thread::scope(|scope| -> Result<u32> {
            let load = scope.spawn(|| -> Result<u32> {
                let mut made = 0;
                while !stop.load(Ordering::Relaxed) {
                    open(client, to).with_context(|| format!("connection {made}, while {names:?} is enrolled"))?;
                    made += 1;
                }
                Ok(made)
            });
            thread::sleep(Duration::from_millis(100));
            let published = lab.publish(enrol(names));
            thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            let made = load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            published.and(made)
        })?;
        ensure!(made > 20, "only {made} connections were made: this is no load");
    }
    Ok(())
}
