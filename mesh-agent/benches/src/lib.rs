//! What the hot path asks, as cases: `benches/micro.rs` times them, `main.rs` is run to count their instructions.

use anyhow::{Context, Result};

mod addresses;
mod capture;
mod draw;
mod heads;
mod policies;
mod records;
mod routes;
mod world;

pub use draw::Draws;

/// Asks a case's question once. The number is uniformly random, and chooses what is asked for.
pub type Ask = Box<dyn FnMut(u64)>;

/// Whether the instructions of a case are the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portable {
    Yes,
    /// Cryptography takes other ways on other processors.
    No,
}

/// One question.
pub struct Case {
    /// What is asked, and of how much: `GROUP/CASE`. A group has one goal.
    pub group: &'static str,
    pub name: String,
    pub portable: Portable,
    prepare: Box<dyn Fn() -> Result<Ask>>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("group", &self.group).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    fn new(group: &'static str, name: &str, prepare: impl Fn() -> Result<Ask> + 'static) -> Self {
        Self { group, name: name.to_owned(), portable: Portable::Yes, prepare: Box::new(prepare) }
    }

    /// Builds what is asked, having made sure that the answer is the one that is meant.
    ///
    /// # Errors
    /// It is another one.
    pub fn prepare(&self) -> Result<Ask> {
        (self.prepare)().with_context(|| format!("{}/{}", self.group, self.name))
    }
}

/// All of them, by group.
pub fn cases() -> Vec<Case> {
    [addresses::cases(), routes::cases(), policies::cases(), capture::cases(), heads::cases(), records::cases()]
        .into_iter()
        .flatten()
        .collect()
}
