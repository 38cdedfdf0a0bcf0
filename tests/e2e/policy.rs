//! Who is allowed, who is not, and when that changes.

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[];
