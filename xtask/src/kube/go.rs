//! The Go compiler, for the one module that pins what the rig is made of.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::step::{self, say};

/// Where Go's own installer puts it.
const USUAL: &str = "/usr/local/go/bin/go";
/// How often a long build says that it lives.
const NEWS: Duration = Duration::from_secs(20);
/// Lines of a failed build that are shown.
const TAIL: usize = 20;

/// The compiler and the module's folder.
#[derive(Debug)]
pub(super) struct Go {
    program: PathBuf,
    module: PathBuf,
}

impl Go {
    pub(super) fn find(module: &Path) -> Result<Self> {
        let usual = || Some(PathBuf::from(USUAL)).filter(|path| path.is_file());
        let program = setup::on_path("go").or_else(usual);
        let program = program.with_context(|| {
            let needed = fs::read_to_string(module.join("go.mod")).unwrap_or_default();
            let version = needed.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1.26").to_owned();
            format!("Kubernetes and Istio are built with Go: install Go {version} or newer and put it on the path")
        })?;
        Ok(Self { program, module: module.to_owned() })
    }

    /// All that decides what is built.
    pub(super) fn fingerprint(&self) -> Result<String> {
        let read = |name: &str| fs::read_to_string(self.module.join(name)).with_context(|| name.to_owned());
        Ok(format!("{}\n{}\n{}", self.output(&["version"])?, read("go.mod")?, read("go.sum")?))
    }

    /// What `template` says of a module that the module needs.
    pub(super) fn module(&self, path: &str, template: &str) -> Result<String> {
        // A module of which no package was needed yet has no folder.
        self.output(&["mod", "download", path])?;
        self.output(&["list", "-m", "-f", template, path])
    }

    /// Builds a static program: its title and package, the linker's flags, its file and the log.
    pub(super) fn build(&self, what: (&str, String), flags: &str, files: (&Path, &Path)) -> Result<()> {
        let ((title, package), (program, log)) = (what, files);
        let mut command = self.command();
        command.args(["build", "-v", "-trimpath", "-ldflags", flags, "-o"]).arg(program).arg(&package);
        step::timed(title, || counted(&mut command, log))
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command().args(arguments).output().context("go")?;
        if !output.status.success() {
            bail!("go {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.module).env("CGO_ENABLED", "0").stdin(Stdio::null());
        command
    }
}

/// Runs a build that names each package that it compiles, and says from time to time how many there have been.
fn counted(command: &mut Command, log: &Path) -> Result<()> {
    let mut file = File::create(log).with_context(|| log.display().to_string())?;
    let mut child = command.stderr(Stdio::piped()).spawn().context("go")?;
    let lines = BufReader::new(child.stderr.take().context("its output")?).lines();
    let (mut count, mut said, mut last) = (0_u32, Instant::now(), Vec::new());
    for line in lines {
        let line = line?;
        writeln!(file, "{line}")?;
        // A package's name is one word; all else is a download or a complaint.
        let name = !line.contains(' ');
        count += u32::from(name);
        if said.elapsed() >= NEWS {
            say(format_args!("    {count} packages compiled"));
            said = Instant::now();
        }
        last.extend((!name).then_some(line));
        last.drain(..last.len().saturating_sub(TAIL));
    }
    let status = child.wait()?;
    if !status.success() {
        last.iter().for_each(say);
        bail!("go build failed ({status}); all it said is in {}", log.display());
    }
    Ok(())
}
