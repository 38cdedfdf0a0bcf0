//! The kernel's half, seen from user space: objects, attachments, maps. The only module that knows aya.
//!
//! A pod has its own instance of the capture programs and maps, pinned in a directory of its own; the programs
//! need not tell pods apart, and withdrawing a pod is removing its directory. [`facts`] is one program for the node.

pub mod attach;
pub mod counters;
pub mod direct;
pub mod facts;
pub mod fs;
pub mod object;
pub mod others;
pub mod translation;
pub mod trial;

use std::io;
use std::path::PathBuf;

/// Why the kernel's half could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("this binary was built without eBPF (MESH_EBPF=skip); build it again without that setting")]
    BuiltWithout,
    #[error("cannot load the {name} programs, maybe a capability (CAP_BPF, CAP_NET_ADMIN) is missing: {cause}")]
    Load { name: &'static str, cause: aya::EbpfError },
    #[error("program {name}: {}", brief(cause))]
    Program { name: String, cause: aya::programs::ProgramError },
    #[error("map {name}: {cause}")]
    Map { name: &'static str, cause: aya::maps::MapError },
    #[error("the object has no {0}")]
    Missing(&'static str),
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("pinning {}: {cause}", path.display())]
    Pin { path: PathBuf, cause: aya::pin::PinError },
    #[error("tc on {interface}: {cause}")]
    Tc { interface: String, cause: aya::programs::tc::TcError },
    #[error("link: {0}")]
    Link(#[from] aya::programs::links::LinkError),
}

/// Longest verifier output that a log line shows: its end, where the reason is.
const MOST_OUTPUT: usize = 400;

/// The error without most of the verifier's output.
fn brief(error: &aya::programs::ProgramError) -> String {
    let text = error.to_string();
    match text.find("Verifier output:") {
        Some(start) if text.len() - start > MOST_OUTPUT => {
            let end = text.char_indices().rev().nth(MOST_OUTPUT - 1).map_or(0, |(at, _)| at);
            format!("{}verifier: [...] {}", &text[..start], &text[end..])
        }
        _ => text,
    }
}
