//! What the agent says about itself: log lines and metrics.
//!
//! [`log`] is set up once by main, before anything else; [`metrics::Metrics`] is one registry that every part adds its
//! collectors to; [`traffic`] is the part of it that shards write to. Everything here is read by a scrape or a person.
//! Deliberately absent: what is worth saying (that is decided where it happens) and serving pages (`admin` does).

pub mod announced;
pub mod causes;
pub mod dns;
pub mod format;
pub mod log;
pub mod lookups;
pub mod metrics;
pub mod process;
pub mod reporter;
pub mod traffic;
