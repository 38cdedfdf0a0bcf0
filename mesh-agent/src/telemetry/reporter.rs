//! Which end of a connection tells of it.

/// The side of a connection that this agent is on: the value of the label `reporter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    /// We dial.
    Source,
    Destination,
}

impl Reporter {
    pub const ALL: [Self; 2] = [Self::Source, Self::Destination];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}
