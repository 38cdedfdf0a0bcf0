//! `cargo xtask setup`: finds or installs what building the eBPF programs and running the lab need, and says what it does.

mod envoy;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::step::{self, say};

/// The bpf-linker that the compiler of `rust-toolchain.toml` goes with, and the LLVM that both must share.
const LINKER: &str = "0.13.0";
const LLVM: &str = "22";
/// What compiling bpf-linker takes.
const LINKER_PACKAGES: [&str; 4] = ["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"];
/// Debian's compiler and its source, for the eBPF programs alone, where rustup cannot give the source of `core`.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The programs that a build and the lab run, each with the Debian package that has it.
const PROGRAMS: [(&str, &str); 16] = [
    ("cc", "build-essential"),
    ("c++", "build-essential"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("tcpdump", "tcpdump"),
    ("dig", "bind9-dnsutils"),
    ("musl-gcc", "musl-tools"),
    ("iperf3", "iperf3"),
    ("iptables", "iptables"),
    ("openssl", "openssl"),
    ("bpftool", "bpftool"),
    ("sockperf", "sockperf"),
    ("wrk", "wrk"),
    ("valgrind", "valgrind"),
];
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// What is said: everything, or only what is being installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    Everything,
    Work,
}

pub(crate) fn run(root: &Path, _args: &Args) -> Result<()> {
    prepare(root, Report::Everything)
}

/// Silent and quick when all is there.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    prepare(root, Report::Work)
}

/// Installs the Debian packages of those programs that are not on the path.
pub(crate) fn provide(root: &Path, programs: &[(&str, &str)]) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| on_path(program).is_none());
    install(root, &missing.map(|(_, package)| *package).collect::<Vec<_>>())
}

/// Installs the Debian package of a module of Debian's Python that is not there.
pub(crate) fn provide_module(root: &Path, module: &str, package: &str) -> Result<()> {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", &format!("import {module}")]).stdout(Stdio::null()).stderr(Stdio::null());
    if python.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    install(root, &[package])
}

fn prepare(root: &Path, report: Report) -> Result<()> {
    let found = |what: String| {
        if report == Report::Everything {
            say(what);
        }
    };
    let linker = fitting_linker(root);
    let missing = PROGRAMS.iter().filter(|(program, _)| on_path(program).is_none());
    let mut packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    if linker.is_none() {
        packages.extend(LINKER_PACKAGES);
    }
    install(root, &packages)?;
    found(format!("programs: {}", PROGRAMS.map(|(program, _)| program).join(" ")));
    found(format!("core's source: {}", source(root)?.display()));
    let linker = linker.map_or_else(|| compile_linker(root), Ok)?;
    found(format!("bpf-linker {LINKER} with LLVM {LLVM}: {}", linker.display()));
    found(format!("Envoy: {}", envoy::ensure(root)?));
    Ok(())
}

/// Where the source of `core` is; rustup's first, then Debian's, which build.rs finds by a link to its compiler.
fn source(root: &Path) -> Result<PathBuf> {
    let link = root.join("target/tools/ebpf-rustc");
    let source = sysroot("rustc".as_ref(), root)?.join("lib/rustlib/src/rust/library");
    if source.is_dir() {
        fs::remove_file(&link).ok();
        return Ok(source);
    }
    if link.exists() {
        return Ok(sysroot(&link, root)?.join("lib/rustlib/src/rust/library"));
    }
    let log = root.join("target/setup/rustup.log");
    let mut rustup = Command::new("rustup");
    rustup.current_dir(root).args(["component", "add", "rust-src"]);
    if step::logged("rustup component add rust-src", &log, &mut rustup).is_ok() && source.is_dir() {
        return Ok(source);
    }
    say("rustup has no rust-src for this toolchain: taking Debian's compiler for the eBPF programs");
    install(root, &COMPILER_PACKAGES)?;
    fs::create_dir_all(root.join("target/tools"))?;
    std::os::unix::fs::symlink("/usr/bin/rustc", &link)?;
    Ok(sysroot(&link, root)?.join("lib/rustlib/src/rust/library"))
}

fn sysroot(rustc: &Path, root: &Path) -> Result<PathBuf> {
    let output = Command::new(rustc).current_dir(root).args(["--print", "sysroot"]).output();
    let output = output.context("rustc is not on the path: install Rust with rustup")?;
    if !output.status.success() {
        bail!("rustc does not run: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Ours, or one on the path that is as good.
fn fitting_linker(root: &Path) -> Option<PathBuf> {
    let candidates = [Some(root.join("target/tools/bin/bpf-linker")), on_path("bpf-linker")];
    candidates.into_iter().flatten().find(|linker| fits(linker))
}

fn compile_linker(root: &Path) -> Result<PathBuf> {
    let tools = root.join("target/tools");
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([prefix.join("bin"), tools.join("bin")].into_iter().chain(env::split_paths(&path)))?;
    // Outside the workspace, so that none of its configuration steers this build.
    let mut cargo = step::cargo(Path::new("/"));
    cargo.env("LLVM_PREFIX", prefix).env("PATH", path);
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTUP_TOOLCHAIN_SOURCE");
    cargo.args(["install", "bpf-linker", "--version", LINKER, "--locked", "--no-default-features", "--force"]);
    cargo.args(["--features", &format!("llvm-{LLVM}"), "--root"]).arg(&tools);
    step::run("compiling bpf-linker (once; a minute or two)", &mut cargo)?;
    let linker = tools.join("bin/bpf-linker");
    if !fits(&linker) {
        bail!("{} does not run with LLVM {LLVM}", linker.display());
    }
    Ok(linker)
}

/// The pinned version, and linked with the LLVM that the compiler has: another one cannot read its bitcode.
fn fits(linker: &Path) -> bool {
    let says = |program: &Path, argument: &std::ffi::OsStr| {
        let output = Command::new(program).arg(argument).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    says(linker, "--version".as_ref()).is_some_and(|version| version.contains(LINKER))
        && says("ldd".as_ref(), linker.as_os_str()).is_some_and(|list| list.contains(&format!("libLLVM.so.{LLVM}")))
}

/// Installs those of Debian's packages that are missing, without a question, and without starting the services they
/// bring.
pub(crate) fn install(root: &Path, packages: &[&str]) -> Result<()> {
    let packages: Vec<_> = packages.iter().copied().filter(|package| !installed(package)).collect();
    let wanted = packages.join(" ");
    if packages.is_empty() {
        return Ok(());
    }
    if on_path("apt-get").is_none() {
        bail!("this is not Debian: install what its packages {wanted} have, then run again");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("run as root, or install them yourself: apt-get install {wanted}");
    }
    let log = root.join("target/setup/apt.log");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        command
    };
    let _idle = Idle::services();
    // A source of no interest may be out of reach: what counts is whether the installation then succeeds.
    step::logged("apt-get update", &log, &mut apt(&["update"])).ok();
    let arguments = [&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat();
    step::logged(&format!("apt-get install {wanted}"), &log, &mut apt(&arguments)).with_context(|| {
        format!("Debian's packages {wanted} could not be installed (LLVM {LLVM} is in bookworm-security)")
    })
}

fn installed(package: &str) -> bool {
    let output = Command::new("dpkg-query").args(["--show", "--showformat", "${db:Status-Status}", package]).output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

/// While it lives, packages do not start their services (nginx would take port 80).
struct Idle {
    ours: bool,
}

impl Idle {
    fn services() -> Self {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Self { ours: false };
        }
        let written = fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)));
        Self { ours: written.is_ok() }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        if self.ours {
            fs::remove_file(POLICY).ok();
        }
    }
}

/// The program on the path; system folders count even where a user's path lacks them.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
