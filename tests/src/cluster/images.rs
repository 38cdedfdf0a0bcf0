//! The images that every cluster has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::image::Image;
use crate::kube::Ground;

/// What holds a pod's namespaces.
pub(super) const PAUSE: &str = "localhost/lab/pause:1";
/// A shell and small programs: busybox, and some with their libraries.
pub const TOOLS: &str = "localhost/lab/tools:1";
const PROGRAMS: [&str; 3] = ["/usr/bin/curl", "/usr/bin/dig", "/usr/bin/iperf3"];
/// Istio's echo server and client, and the small programs.
pub const ECHO: &str = "localhost/lab/echo:1";
/// The cluster's name server.
pub(super) const NAMES: &str = "localhost/lab/names:1";
const BUSYBOX: &str = "/bin/busybox";

/// Writes their archives to `directory`.
pub(super) fn all(ground: &Ground, directory: &Path) -> Result<Vec<PathBuf>> {
    // Waits for SIGTERM, and for whatever process loses its parent.
    let pause = base(PAUSE)?.entrypoint(["/bin/sh", "-c", "trap 'exit 0' TERM INT; sleep infinity & wait"]);
    // Waits as well, unless it is told to do something else.
    let tools = base(TOOLS)?.layer().entrypoint(["/bin/sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]);
    let tools = PROGRAMS.iter().try_fold(tools, |image, program| image.program(program))?;
    let echo = base(ECHO)?
        .layer()
        .file("/bin/echo-server", &ground.program("echo-server"))
        .file("/bin/echo-client", &ground.program("echo-client"))
        .entrypoint(["/bin/echo-server"]);
    let names = Image::new(NAMES).file("/coredns", &ground.program("coredns")).entrypoint(["/coredns"]);
    [pause, tools, echo, names].iter().map(|image| image.write(directory)).collect()
}

/// One layer with busybox and its names.
fn base(name: &str) -> Result<Image> {
    let output = Command::new(BUSYBOX).arg("--list").output().context("busybox (Debian package busybox-static)")?;
    ensure!(output.status.success(), "{BUSYBOX} does not work");
    let names = String::from_utf8(output.stdout)?;
    let own = Image::new(name).file("/bin/busybox", Path::new(BUSYBOX)).empty("/tmp").empty("/etc");
    Ok(names
        .lines()
        .filter(|name| *name != "busybox")
        .fold(own, |image, name| image.link(&format!("/bin/{name}"), "busybox")))
}
