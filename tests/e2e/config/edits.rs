//! Edits of a running agent's file: bad ones leave the old one in force, and every way of writing is noticed.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::socket::exchange;
use mesh_e2e::{Lab, Line, Node, Pod, Topology, eventually};

const SOON: Duration = Duration::from_secs(2);

pub(super) fn topology() -> Topology {
    Topology::new().pod(Pod::new("client", "n1")).pod(Pod::new("server", "n2"))
}

/// A policy that shows which file is in force: it denies everything or nothing.
const CLOSED: &str = "- {name: closed, action: DENY, rules: [{}]}";

fn works(lab: &Lab) -> Result<bool> {
    let asked = lab.pod("client").try_connect(lab.pod("server").at4(80)).and_then(|stream| {
        stream.set_read_timeout(Some(SOON))?;
        exchange(&stream, "hello")
    });
    match asked {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(false),
        Err(error) => Err(error).context("neither an answer nor a reset"),
    }
}

/// The next word on the file in the agent's log.
fn verdict(news: &mesh_e2e::Log) -> Result<Line> {
    news.wait(SOON, |line| line.message.starts_with("configuration "))
}

/// What is wrong, what is done to the lab's file, and what is said of it.
const BAD: [(&str, &str, &str, &str); 12] = [
    ("syntax", "pods:\n", "pods: [\n", ""),
    ("a tab", "pods:\n", "pods:\n\t\n\t# tab\n", "indented with a tab"),
    ("unknown field", "pods:\n", "podz: []\npods:\n", "unknown field `podz`"),
    ("wrong type", "\"probe_ports\":[]", "\"probe_ports\":80", ""),
    ("two pods", "workloads:\n", "- {name: server, netns: /n}\nworkloads:\n", "pod default/server is listed twice"),
    (
        "two addresses",
        "services:",
        "- {name: x, addresses: [10.40.2.10]}\nservices:",
        "address 10.40.2.10 of workload x",
    ),
    ("bad address", "services:", "- {name: x, addresses: [10.40.2.256]}\nservices:", "address"),
    ("bad identity", "services:", "- {name: x, service_account: a/b}\nservices:", "is not of the form spiffe://"),
    ("pod without a workload", "workloads:\n", "- {name: x, netns: /n}\nworkloads:\n", "pod default/x has no entry"),
    (
        "unknown endpoint",
        "services: []\n",
        "services:\n- {name: s, endpoints: [x]}\n",
        "endpoint x is no listed workload",
    ),
    (
        "unknown action",
        "authorization_policies:\n",
        "authorization_policies:\n- {name: p, action: NO}\n",
        "unknown variant `NO`",
    ),
    ("no node", "node: ", "nodes: ", "nodes"),
];

pub(super) fn bad_ones(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").echo(80)?;
    lab.publish(|world| world.authorize(CLOSED))?;
    let (node, agent) = (lab.node("n2"), lab.agent("n2"));
    let good = node.text();
    let file = agent.config_file().display().to_string();
    let mut wrong = Vec::new();
    for (what, is, becomes, reason) in BAD {
        // Were it taken, everything would be allowed.
        let bad = good.replacen(is, becomes, 1).replace("action: DENY", "action: ALLOW");
        let line = 1 + bad.lines().zip(good.lines()).take_while(|(bad, good)| bad == good).count();
        let news = agent.log().from_now();
        node.rewrite(&bad)?;
        let said = verdict(&news).context(what)?;
        let place = format!("{file}:");
        if said.message != "configuration rejected, the old one stays in force"
            || said.level != "error"
            || !said.field("problems").starts_with(&place)
            || !said.field("problems").contains(reason)
        {
            wrong.push(format!("{what} (line {line} or later): the log says {}", said.text));
        }
        let status = agent.status()?;
        match status.config.rejected {
            Some(rejected) if rejected.line.is_some() && rejected.reason == said.field("problems") => {}
            other => wrong.push(format!("{what}: status says {other:?}")),
        }
        ensure!(status.pods.iter().all(|pod| pod.state == "captured"), "{what}: {:?}", status.pods);
        ensure!(agent.metric("mesh_config_rejected", &[])? > 0.5, "{what}: no metric tells of it");
        ensure!(!works(lab)?, "{what}: the old policy is no longer in force");
    }
    let screen = String::from_utf8(agent.ctl().arg("status").output()?.stdout)?;
    ensure!(screen.contains("EDIT REJECTED"), "ctl status does not show a rejected edit:\n{screen}");
    lab.publish(mesh_e2e::World::clear_policies)?;
    ensure!(agent.status()?.config.rejected.is_none(), "a good edit does not end the rejection");
    ensure!(agent.metric("mesh_config_rejected", &[])? < 0.5, "the metric does not go back");
    ensure!(works(lab)?, "a good edit does not work");
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

/// An editor that empties the file and writes it in two pieces: in between the old one stays in force.
pub(super) fn in_pieces(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").echo(80)?;
    let (node, agent) = (lab.node("n2"), lab.agent("n2"));
    let stream = lab.pod("client").connect(lab.pod("server").at4(80))?;
    let text = format!("{}# the same, with a remark\n", node.text());
    // In the middle of the pods.
    let half = text.find("\"netns\"").context("a pod")?;
    let news = agent.log().from_now();
    let mut file = fs::File::create(agent.config_file())?;
    thread::sleep(Duration::from_millis(150));
    file.write_all(&text.as_bytes()[..half])?;
    thread::sleep(Duration::from_millis(150));
    let rejected = verdict(&news)?;
    ensure!(rejected.message.contains("rejected"), "half a file is taken: {}", rejected.text);
    ensure!(agent.status()?.pods.iter().all(|pod| pod.state == "captured"), "half a file is acted upon");
    file.write_all(&text.as_bytes()[half..])?;
    drop(file);
    news.wait(SOON, |line| line.message == "configuration loaded")?;
    ensure!(agent.status()?.config.rejected.is_none(), "the whole file does not end the rejection");
    stream.set_read_timeout(Some(SOON))?;
    ensure!(exchange(&stream, "still there?")? == "still there?", "a connection was lost");
    let withdrawn = news.lines().into_iter().find(|line| line.message.contains("withdrawn"));
    ensure!(withdrawn.is_none(), "a pod was withdrawn: {withdrawn:?}");
    Ok(())
}

/// What the written file does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    Shut,
}

impl Door {
    /// The lab's file with its one policy as wanted.
    fn text(self, lab: &Lab) -> String {
        let rules = if self == Self::Open { "rules: []" } else { "rules: [{}]" };
        lab.node("n2").text().replace("rules: [{}]", rules).replace("rules: []", rules)
    }
}

/// Writes the file with everything allowed or denied, and waits until that is in force.
fn switch(lab: &Lab, door: Door, write: impl FnOnce(&Node, &str) -> Result<()>) -> Result<()> {
    let at = Instant::now();
    write(lab.node("n2"), &door.text(lab))?;
    eventually(SOON, || {
        ensure!(works(lab)? == (door == Door::Open), "the edit is not in force");
        Ok(())
    })?;
    ensure!(at.elapsed() < Duration::from_secs(1), "the edit is in force after {:?}", at.elapsed());
    Ok(())
}

/// Whatever way the file is replaced, the agent follows.
pub(super) fn every_way(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").echo(80)?;
    lab.publish(|world| world.authorize(CLOSED))?;
    let file = lab.agent("n2").config_file();
    let directory = file.parent().context("a directory")?.to_owned();
    switch(lab, Door::Open, |node, text| node.rewrite(text)).context("a rename")?;
    switch(lab, Door::Shut, |_, text| Ok(fs::write(&file, text)?)).context("writing in place")?;
    switch(lab, Door::Open, |_, text| {
        fs::remove_file(&file)?;
        Ok(fs::write(&file, text)?)
    })
    .context("deleting and writing at once")?;
    // As a ConfigMap's volume does it: the file is a link through a directory that is swapped.
    let version = |number: u32| directory.join(format!("..v{number}"));
    let shut = Door::Shut.text(lab);
    switch(lab, Door::Shut, |_, _| {
        fs::create_dir(version(1))?;
        fs::write(version(1).join("node.yaml"), &shut)?;
        symlink(version(1), directory.join("..data"))?;
        symlink("..data/node.yaml", directory.join("link"))?;
        Ok(fs::rename(directory.join("link"), &file)?)
    })
    .context("a link in its place")?;
    switch(lab, Door::Open, |_, text| {
        fs::create_dir(version(2))?;
        fs::write(version(2).join("node.yaml"), text)?;
        symlink(version(2), directory.join("..tmp"))?;
        Ok(fs::rename(directory.join("..tmp"), directory.join("..data"))?)
    })
    .context("a swapped directory")?;
    let text = lab.node("n2").text();
    fs::remove_file(&file)?;
    Ok(fs::write(&file, text)?)
}

/// The file is deleted: what is in force stays, and status tells. It comes back: all is well again.
pub(super) fn deleted(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").echo(80)?;
    let (node, agent) = (lab.node("n2"), lab.agent("n2"));
    let text = node.text();
    let news = agent.log().from_now();
    fs::remove_file(agent.config_file())?;
    let said = verdict(&news)?;
    ensure!(said.text.contains("cannot be read: No such file"), "the log says {}", said.text);
    let rejected = agent.status()?.config.rejected.context("status shows nothing")?;
    ensure!(rejected.reason.contains("cannot be read"), "status says {rejected:?}");
    ensure!(works(lab)?, "the configuration is no longer in force");
    fs::write(agent.config_file(), text)?;
    news.wait(SOON, |line| line.message == "configuration loaded")?;
    ensure!(agent.status()?.config.rejected.is_none(), "the file is back, and status does not say so");
    ensure!(works(lab)?, "the file is back, and nothing works");
    Ok(())
}

/// Edits that change nothing are none; of many quick ones the last counts.
pub(super) fn many(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").echo(80)?;
    lab.publish(|world| world.authorize(CLOSED))?;
    let (node, agent) = (lab.node("n2"), lab.agent("n2"));
    let news = agent.log().from_now();
    for _ in 0..5 {
        node.rewrite(&node.text())?;
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_millis(200));
    let told = news.lines().into_iter().find(|line| line.message.starts_with("configuration "));
    ensure!(told.is_none(), "an edit that changes nothing is told: {told:?}");
    for number in 0..100 {
        let door = if number % 2 == 0 { Door::Shut } else { Door::Open };
        node.rewrite(&door.text(lab))?;
        thread::sleep(Duration::from_millis(3));
    }
    eventually(SOON, || {
        ensure!(works(lab)?, "the last of a hundred edits is not in force");
        Ok(())
    })
}
