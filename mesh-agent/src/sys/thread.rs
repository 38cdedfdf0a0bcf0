//! Named threads, the only place that starts them.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread that shows up as `name` in process listings (at most 15 bytes are shown).
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(body)
}
