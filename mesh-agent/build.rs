//! Builds the eBPF objects and embeds them. `MESH_EBPF=skip` embeds none, for editors and lints.
#![expect(clippy::disallowed_methods, reason = "cargo tells a build script everything by its environment")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const OBJECTS: [&str; 3] = ["capture", "connect", "sockops"];
const FIX: &str =
    "run `cargo xtask setup` once (it installs bpf-linker and LLVM), or set MESH_EBPF=skip to build without eBPF";

fn main() {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    let out = PathBuf::from(var("OUT_DIR"));
    println!("cargo::rerun-if-env-changed=MESH_EBPF");
    println!("cargo::rerun-if-env-changed=MESH_EBPF_RUSTC");
    for watched in ["mesh-ebpf/src", "mesh-ebpf/Cargo.toml", "mesh-common/src", "mesh-common/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    if env::var("MESH_EBPF").is_ok_and(|value| value == "skip") {
        for object in OBJECTS {
            fs::write(out.join(object), []).expect("OUT_DIR is writable");
        }
        return;
    }
    // Shared by all profiles, and apart from the outer build's directory, whose lock is held now.
    let target = root.join("target/bpf");
    if !places(&root).iter().any(|place| place.join("bpf-linker").exists()) {
        println!("cargo::error=bpf-linker is missing: {FIX}");
        return;
    }
    let status = cargo(&root, &target).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("cargo::error=the eBPF programs could not be built: {FIX}");
        return;
    }
    for object in OBJECTS {
        let built = target.join("bpfel-unknown-none/release").join(object);
        fs::copy(built, out.join(object)).expect("the build left its objects");
    }
}

fn cargo(root: &Path, target: &Path) -> Command {
    let mut command = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    // What the outer cargo sets for its own build must not steer the inner one.
    for (name, _) in env::vars() {
        let steers = name.starts_with("CARGO_") && name != "CARGO_HOME";
        if steers
            || matches!(name.as_str(), "RUSTFLAGS" | "RUSTC" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "TARGET")
        {
            command.env_remove(name);
        }
    }
    command
        .current_dir(root.join("mesh-ebpf"))
        .env("PATH", env::join_paths(places(root)).expect("no colon in a tool's path"))
        // core is built from source for the BPF target, which needs the unstable flag of a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .args([
            "build",
            "--release",
            "--quiet",
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
            "--target-dir",
        ])
        .arg(target);
    if let Some(rustc) = other_compiler(root) {
        // It may be a little older than the workspace asks for.
        command.env("RUSTC", rustc).arg("--ignore-rust-version");
    }
    command
}

/// Another compiler for the eBPF programs: the environment's, or the one that `cargo xtask setup` found where rustup has
/// no sources of `core`.
fn other_compiler(root: &Path) -> Option<PathBuf> {
    let found = root.join("target/tools/ebpf-rustc");
    env::var_os("MESH_EBPF_RUSTC").map(PathBuf::from).or_else(|| found.exists().then_some(found))
}

/// Where tools are looked for.
fn places(root: &Path) -> Vec<PathBuf> {
    let home = env::var("CARGO_HOME").unwrap_or_else(|_| format!("{}/.cargo", var("HOME")));
    let mut places = vec![root.join("target/tools/bin"), PathBuf::from(home).join("bin")];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places
}

fn var(name: &str) -> String {
    env::var(name).expect("cargo sets it")
}
