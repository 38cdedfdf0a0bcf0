//! Waiting for a condition of something that cannot be waited on: a file, a page, another process's state.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `attempt` until it succeeds, and gives its last error once `limit` has passed.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("still not so after {limit:?}")));
            }
            Err(_) => sleep(PAUSE),
        }
    }
}

/// Waits until `condition` holds; `what` says it in words.
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    eventually(limit, || if condition() { Ok(()) } else { bail!("{what}") })
}
