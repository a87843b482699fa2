//! The log on standard error: for people, or a JSON object a line for programs.

use std::fmt;
use std::io::IsTerminal as _;

use kuberewind_packet::Timestamp;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// Starts to log, in the whole process. What comes back changes how much.
pub(crate) fn start(format: LogFormat, level: Level) -> impl Fn(Level) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && format == LogFormat::Text)
        .event_format(Lines(format))
        .with_env_filter(of_level(level))
        .with_filter_reloading();
    let filter = subscriber.reload_handle();
    subscriber.init();
    move |level| {
        let _ = filter.reload(of_level(level));
    }
}

/// What the libraries below say is of interest only to who traces everything.
fn of_level(level: Level) -> EnvFilter {
    match level {
        Level::TRACE => EnvFilter::new("trace"),
        level => EnvFilter::new(format!(
            "warn,kuberewind={level},kuberewind_cluster={level},kuberewind_capture={level},kuberewind_store={level}"
        )),
    }
}

struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.0 {
            LogFormat::Text => format().format_event(context, writer, event),
            LogFormat::Json => {
                let metadata = event.metadata();
                let mut fields = Fields(Map::new());
                event.record(&mut fields);
                // Last: no field of an event takes their place.
                fields.0.insert("time".to_owned(), json!(Timestamp::now().to_string()));
                fields.0.insert("level".to_owned(), json!(metadata.level().as_str()));
                fields.0.insert("target".to_owned(), json!(metadata.target()));
                writeln!(writer, "{}", Value::Object(fields.0))
            }
        }
    }
}

/// An event's fields; its text is `message`.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Lines(format))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    fn event() {
        let pods = Some("cart\n\"1\"");
        tracing::warn!(bytes = 7_u64, whole = true, ?pods, level = "mine", "exported {}", 1);
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, || {
            event();
            event();
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        let mut line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let time = line["time"].take();
        assert!(time.as_str().unwrap().parse::<Timestamp>().is_ok(), "{time}");
        let expected = json!({
            "time": null, "level": "WARN", "target": "kuberewind::logging::tests",
            "message": "exported 1", "bytes": 7, "whole": true, "pods": "Some(\"cart\\n\\\"1\\\"\")",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn text_is_for_people() {
        let text = logged(LogFormat::Text, event);
        assert!(
            text.contains(" WARN ") && text.contains("exported 1 bytes=7 whole=true"),
            "{text}"
        );
    }
}
