//! How a log line looks (protocol note, section 12.2): tab-separated text, or one JSON object.
//!
//! Text is `time TAB level TAB scope TAB message TAB k=v k=v`, strings quoted. Whatever a peer can get into a field
//! stays inside it: control characters are escaped, so that nobody can write a line of his own.

use std::fmt::{self, Write};

use serde::ser::{SerializeMap, Serializer};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The crate's own targets are shown without it.
const CRATE: &str = "mesh_agent::";

/// Text lines.
#[derive(Debug)]
pub struct Text<T>(T);

/// JSON lines: level, time, scope, message, then the fields.
#[derive(Debug)]
pub struct Json<T>(T);

/// The fields of a span, `k=v` separated by spaces, in both formats.
#[derive(Debug)]
pub struct SpanFields;

impl<T> Text<T> {
    pub fn new(clock: T) -> Self {
        Self(clock)
    }
}

impl<T> Json<T> {
    pub fn new(clock: T) -> Self {
        Self(clock)
    }
}

impl<T: FormatTime, S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, SpanFields> for Text<T> {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, SpanFields>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        self.0.format_time(&mut line)?;
        write!(line, "\t{}\t", level(event))?;
        write_scope(context, &mut line, event)?;
        line.write_char('\t')?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        line.write_str(&fields.message)?;
        if !fields.rest.is_empty() {
            write!(line, "\t{}", fields.rest)?;
        }
        line.write_char('\n')
    }
}

impl<T: FormatTime, S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, SpanFields> for Json<T> {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, SpanFields>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        self.0.format_time(&mut Writer::new(&mut time))?;
        let mut scope = String::new();
        write_scope(context, &mut Writer::new(&mut scope), event)?;
        let mut object = Vec::with_capacity(1024);
        let mut write = || -> serde_json::Result<()> {
            let mut serializer = serde_json::Serializer::new(&mut object);
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("level", level(event))?;
            map.serialize_entry("time", &time)?;
            map.serialize_entry("scope", &scope)?;
            let mut message = Message::default();
            event.record(&mut message);
            map.serialize_entry("message", &message.0)?;
            let mut fields = JsonFields { map, result: Ok(()) };
            event.record(&mut fields);
            fields.result?;
            fields.map.end()
        };
        write().map_err(|_| fmt::Error)?;
        line.write_str(std::str::from_utf8(&object).map_err(|_| fmt::Error)?)?;
        line.write_char('\n')
    }
}

impl<'w> FormatFields<'w> for SpanFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Fields::default();
        fields.record(&mut visitor);
        writer.write_str(&visitor.rest)
    }
}

fn level(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The target, then every span around the event, outermost first: `scope:span{k=v}`.
fn write_scope<S: Subscriber + for<'a> LookupSpan<'a>>(
    context: &FmtContext<'_, S, SpanFields>,
    line: &mut Writer<'_>,
    event: &Event<'_>,
) -> fmt::Result {
    let target = event.metadata().target();
    line.write_str(target.strip_prefix(CRATE).unwrap_or(target))?;
    for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
        write!(line, ":{}", span.name())?;
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<SpanFields>>().filter(|fields| !fields.is_empty()) {
            write!(line, "{{{fields}}}")?;
        }
    }
    Ok(())
}

/// Fields as text.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    /// Reused for values that must be looked at before they are written.
    value: String,
}

impl Fields {
    fn put(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let separator = if self.rest.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        write!(self.rest, "{separator}{name}={value}").unwrap_or_default();
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), format_args!("{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            escape(&mut self.message, value);
        } else {
            self.put(field.name(), format_args!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.value);
        text.clear();
        write!(text, "{value:?}").unwrap_or_default();
        if field.name() == "message" {
            escape(&mut self.message, &text);
        } else if text.starts_with('"') || !text.contains([' ', '"', '=']) && !text.contains(char::is_control) {
            self.put(field.name(), format_args!("{text}"));
        } else {
            self.put(field.name(), format_args!("{text:?}"));
        }
        self.value = text;
    }
}

fn escape(to: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            to.extend(c.escape_default());
        } else {
            to.push(c);
        }
    }
}

/// Only the message.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.push_str(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").unwrap_or_default();
        }
    }
}

/// Everything but the message.
struct JsonFields<M: SerializeMap> {
    map: M,
    result: Result<(), M::Error>,
}

impl<M: SerializeMap> JsonFields<M> {
    fn put<V: serde::Serialize + ?Sized>(&mut self, field: &Field, value: &V) {
        if field.name() != "message" && self.result.is_ok() {
            self.result = self.map.serialize_entry(field.name(), value);
        }
    }
}

impl<M: SerializeMap> Visit for JsonFields<M> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::format::Writer;
    use tracing_subscriber::fmt::time::FormatTime;
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::{Json, SpanFields, Text};

    struct Noon;

    impl FormatTime for Noon {
        fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
            w.write_str("2026-01-01T12:00:00.000000Z")
        }
    }

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

    fn written(format: &str, say: impl FnOnce()) -> String {
        let out = Out::default();
        let writer = {
            let out = out.clone();
            move || out.clone()
        };
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).fmt_fields(SpanFields);
        let layer = match format {
            "text" => layer.event_format(Text(Noon)).boxed(),
            _ => layer.event_format(Json(Noon)).boxed(),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
    }

    fn say() {
        let _span = tracing::info_span!("pod", name = "web", n = 2).entered();
        let none: Option<&str> = None;
        tracing::warn!(target: "mesh_agent::proxy", a = 1, b = "x y", c = %"plain", d = %"a\nb", none, e = -1.5, "it\thappened");
    }

    #[test]
    fn text() {
        assert_eq!(
            written("text", say),
            "2026-01-01T12:00:00.000000Z\twarn\tproxy:pod{name=\"web\" n=2}\tit\\thappened\t\
             a=1 b=\"x y\" c=plain d=\"a\\nb\" e=-1.5\n"
        );
    }

    #[test]
    fn json() {
        assert_eq!(
            written("json", say),
            "{\"level\":\"warn\",\"time\":\"2026-01-01T12:00:00.000000Z\",\"scope\":\"proxy:pod{name=\\\"web\\\" n=2}\",\
             \"message\":\"it\\thappened\",\"a\":1,\"b\":\"x y\",\"c\":\"plain\",\"d\":\"a\\nb\",\"e\":-1.5}\n"
        );
    }

    #[test]
    fn nothing_but_a_message() {
        assert_eq!(
            written("text", || tracing::info!(target: "x", "hello")),
            "2026-01-01T12:00:00.000000Z\tinfo\tx\thello\n"
        );
    }
}
