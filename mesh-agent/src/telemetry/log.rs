//! Log lines: where they go, how they look, and which are written.
//!
//! [`start`] installs the process's only subscriber. Lines go to standard output through a bounded queue and a thread of
//! its own, so that a slow reader of the log never stops a shard: when the queue is full lines are dropped and counted.
//! Which lines are written is a filter such as `info,access=off`, and [`Filter`] changes it while the agent runs.

use std::fmt;
use std::io::Write;

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, reload};

use super::format::{Json, SpanFields, Text};

/// Lines that may wait to be written. At 1 KiB each this bounds the queue to 8 MiB.
const QUEUE: usize = 8192;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tab-separated columns.
    Text,
    /// One JSON object per line.
    Json,
}

/// The running log. Dropping it writes what is queued.
pub struct Log {
    filter: Filter,
    _writer: WorkerGuard,
}

/// Handle on which lines are written. Clones share it.
#[derive(Clone)]
pub struct Filter {
    active: reload::Handle<Targets, Registry>,
    /// What [`Filter::reset`] goes back to.
    initial: String,
    dropped: ErrorCounter,
}

/// Why a filter or the log itself does not work.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log filter {filter:?}: {cause}; expected LEVEL or TARGET=LEVEL, separated by commas")]
    Filter { filter: String, cause: ParseError },
    #[error("the log is already started")]
    AlreadyStarted,
    #[error("the log has ended")]
    Ended,
}

/// Installs the subscriber; `filter` selects the lines.
pub fn start(filter: &str, format: Format) -> Result<Log, LogError> {
    let (log, subscriber) = build(filter, format, std::io::stdout())?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyStarted)?;
    Ok(log)
}

type Boxed = Box<dyn Subscriber + Send + Sync>;

fn build(filter: &str, format: Format, out: impl Write + Send + 'static) -> Result<(Log, Boxed), LogError> {
    let (active, handle) = reload::Layer::new(parse(filter)?);
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log").finish(out);
    let filter = Filter { active: handle, initial: filter.to_owned(), dropped: writer.error_counter() };
    let lines = lines(format, writer);
    let subscriber = Registry::default().with(lines.with_filter(active));
    Ok((Log { filter, _writer: guard }, Box::new(subscriber)))
}

fn lines(format: Format, writer: NonBlocking) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).fmt_fields(SpanFields);
    match format {
        Format::Text => layer.event_format(Text::new(SystemTime)).boxed(),
        Format::Json => layer.event_format(Json::new(SystemTime)).boxed(),
    }
}

fn parse(filter: &str) -> Result<Targets, LogError> {
    let failed = |cause| LogError::Filter { filter: filter.to_owned(), cause };
    filter.parse().map_err(failed)
}

impl Log {
    /// A handle that changes which lines are written.
    pub fn filter(&self) -> Filter {
        self.filter.clone()
    }
}

impl Filter {
    /// The filter in force.
    pub fn current(&self) -> Result<String, LogError> {
        self.active.with_current(ToString::to_string).map_err(|_| LogError::Ended)
    }

    /// Puts another filter in force; a bad one changes nothing.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        self.active.reload(parse(filter)?).map_err(|_| LogError::Ended)
    }

    /// Goes back to the filter that the agent started with.
    pub fn reset(&self) -> Result<(), LogError> {
        self.set(&self.initial)
    }

    /// Lines dropped because the reader of the log was too slow.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").field("current", &self.current().ok()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::{Format, LogError, build};

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_filter_can_be_changed_and_reset() {
        let out = Out::default();
        let (log, subscriber) = build("info,access=off", Format::Text, out.clone()).unwrap();
        let filter = log.filter();
        tracing::subscriber::with_default(subscriber, || {
            let line = |text: &str| tracing::info!(target: "access", text);
            line("one");
            filter.set("warn,access=info").unwrap();
            line("two");
            assert!(matches!(filter.set("info,access=loud"), Err(LogError::Filter { .. })));
            line("three");
            filter.reset().unwrap();
            line("four");
            assert_eq!(filter.current().unwrap(), "access=off,info");
        });
        assert!(matches!(filter.current(), Err(LogError::Ended)));
        assert_eq!(filter.dropped_lines(), 0);
        drop(log);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let messages: Vec<&str> = text.lines().filter_map(|line| line.split('"').nth(1)).collect();
        assert_eq!(messages, ["two", "three"]);
    }
}
