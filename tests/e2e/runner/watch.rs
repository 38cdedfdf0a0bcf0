//! Running something that may panic or never return.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// Runs `body` on a thread and gives its value. A `body` that is not done within `limit` is left to itself, with all
/// that it has.
pub(super) fn limited<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, result) = sync_channel(1);
    let thread = Builder::new().name("case".to_owned()).spawn(move || {
        // Nobody waits any more when the limit has passed.
        done.send(body()).ok();
    });
    let thread = thread.context("starting a thread")?;
    match result.recv_timeout(limit) {
        Ok(value) => {
            thread.join().ok();
            Ok(value)
        }
        Err(RecvTimeoutError::Timeout) => bail!("not done after {} s", limit.as_secs()),
        Err(RecvTimeoutError::Disconnected) => bail!("the runner itself panicked"),
    }
}

/// Runs `body`; its panic is an error.
pub(super) fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // After a panic nothing that the body had is used again, except to be dropped.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(anyhow!("panicked: {}", words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("with something that is no text")
}
