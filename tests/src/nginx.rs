//! A real nginx in a pod: what an application that knows nothing of the mesh looks like.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::eventually::eventually;
use crate::namespace::Namespace;
use crate::process::Process;

/// A running nginx. `/` answers with a fixed body, `/whoami` with the address that nginx sees as its client's.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    pub port: u16,
}

impl Nginx {
    /// Starts it in `pod` on `port`, for both families, and waits until it answers. Its files go to `directory`.
    pub fn start(pod: &Namespace, port: u16, body: &str, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("index.html"), body)?;
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration(port, directory))?;
        let mut command = pod.command("nginx");
        command.arg("-c").arg(&file).arg("-e").arg(directory.join("error.log"));
        let mut process = Process::spawn("nginx (Debian package nginx-light)", &mut command, &directory.join("log"))?;
        let itself = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        eventually(Duration::from_secs(10), || {
            process.check_running()?;
            pod.connect(itself).map(drop).context("nginx does not answer")
        })?;
        Ok(Self { _process: process, port })
    }
}

/// One process without a master, so that it ends when it is killed.
fn configuration(port: u16, directory: &Path) -> String {
    let at = directory.display();
    format!(
        "daemon off; master_process off; pid {at}/pid; user root;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; default_type text/plain;
  client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c;
  uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;
  server {{
    listen 0.0.0.0:{port} backlog=4096; listen [::]:{port} ipv6only=on backlog=4096;
    root {at};
    location = /whoami {{ return 200 \"$remote_addr\\n\"; }}
  }}
}}
"
    )
}
