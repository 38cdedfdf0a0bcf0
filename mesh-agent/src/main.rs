//! The mesh-agent binary: arguments in, one role run, an exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_agent::cli::run()
}
