//! Wrong files, edits, and an authority that does not answer.
//!
//! | file | what |
//! |---|---|
//! | [`mistakes`] | every kind of mistake, at start |
//! | [`edits`] | edits of a running agent's file |
//! | [`authority`] | nodes that cannot get certificates |

mod authority;
mod edits;
mod mistakes;

use crate::runner::{Case, Fixture};

static LAB: Fixture = Fixture { name: "config", topology: edits::topology };

pub(crate) const CASES: &[Case] = &[
    Case::alone("mistakes_are_told_at_start", mistakes::at_start),
    Case::alone("files_that_cannot_be_read", mistakes::unreadable),
    Case::shared("bad_edits_are_refused", &LAB, edits::bad_ones),
    Case::shared("half_written_files", &LAB, edits::in_pieces),
    Case::shared("every_way_of_writing_is_noticed", &LAB, edits::every_way),
    Case::shared("a_deleted_file", &LAB, edits::deleted),
    Case::shared("many_edits", &LAB, edits::many),
    Case::fresh("no_certificates", authority::topology, authority::missing),
];
