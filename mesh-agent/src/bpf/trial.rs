//! Whether this kernel takes the programs: all are loaded as for a pod, attached to nothing, pinned nowhere and dropped.

use aya::EbpfLoader;
use aya::programs::{Program, ProgramError};

use super::attach::Mechanism;
use super::{BpfError, object};

/// Has the verifier look at every program, and says how those of a pod would be attached.
pub fn load() -> Result<Mechanism, BpfError> {
    let connect = object::load_connect(EbpfLoader::new())?;
    for mut object in [object::load_unpinned()?, object::load_sockops()?, connect] {
        for (name, program) in object.programs_mut() {
            load_one(program).map_err(|cause| BpfError::Program { name: name.to_owned(), cause })?;
        }
    }
    Ok(Mechanism::detect())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kinds that the objects have, of all that there are")]
fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
