//! Wrong files: each mistake gets its own sentence, and the old configuration stays in force.

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[];
