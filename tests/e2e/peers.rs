//! Wrong peers and garbage: each is told apart, and the agent goes on.

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[];
