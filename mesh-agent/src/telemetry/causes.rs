//! What an error says in all: libraries tell what went wrong only in the sources of their errors.

use std::error::Error;

/// Adds to `text` those of the error's sources that are not in it already.
pub fn with_sources(mut text: String, error: &dyn Error) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        let own = cause.to_string();
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        source = cause.source();
    }
    text
}
