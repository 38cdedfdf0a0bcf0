//! Enrolment and its end, restarts, crashes, idling.

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[];
