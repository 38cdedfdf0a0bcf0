//! `foreign.py`: an HBONE client that shares no code with the agent.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use mesh_e2e::Lab;
use mesh_e2e::authority::Issued;

/// With Debian's package python3-h2.
const PYTHON: &str = "/usr/bin/python3";

/// One connection of `foreign.py`, from a pod that nothing captures.
#[derive(Debug)]
pub(super) struct Foreign {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Foreign {
    /// Connects as who `issued` says, and takes whom its roots vouch for.
    pub(super) fn start(lab: &Lab, to: SocketAddr, issued: &Issued) -> Result<Self> {
        let mut command = lab.pod("plain").command(PYTHON);
        command.args(["-c", include_str!("foreign.py"), &to.ip().to_string(), &to.port().to_string()]);
        command.arg(&issued.certificate).arg(&issued.key).arg(&issued.root);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context(PYTHON)?;
        let (input, output) =
            (process.stdin.take().context("its input")?, process.stdout.take().context("its output")?);
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// What is answered to a request.
    pub(super) fn ask(&mut self, method: &str, authority: &str) -> Result<String> {
        writeln!(self.input, "{method} {authority}")?;
        let mut line = String::new();
        let length = self.output.read_line(&mut line)?;
        ensure!(length > 0, "foreign.py has ended (Debian package python3-h2?)");
        Ok(line.trim().to_owned())
    }

    /// The same, which must be an error status without a body.
    pub(super) fn refused(&mut self, method: &str, authority: &str, status: u16) -> Result<()> {
        let answer = self.ask(method, authority)?;
        ensure!(answer == format!("{status} end -"), "{method} {authority}: {answer}, not {status}");
        Ok(())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
