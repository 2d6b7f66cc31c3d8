//! The fields of a span in JSON.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes the fields of a span as one JSON object, all of them as strings. A request has one span: the map of values that
/// the library makes of its fields would cost more than the rest of the span.
pub(super) struct JsonSpan;

impl<'w> FormatFields<'w> for JsonSpan {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut object = Object { writer, has_members: false, outcome: Ok(()) };
        fields.record(&mut object);
        object.end()
    }
}

struct Object<'w> {
    writer: Writer<'w>,
    has_members: bool,
    /// The first error.
    outcome: fmt::Result,
}

impl Object<'_> {
    fn member(&mut self, name: &str, value: &str) -> fmt::Result {
        self.writer.write_str(if self.has_members { ",\"" } else { "{\"" })?;
        self.has_members = true;
        self.writer.write_str(name)?;
        self.writer.write_str("\":")?;
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        // Without an early end, many bytes are compared at once.
        if value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            self.writer.write_str("\"")?;
            self.writer.write_str(value)?;
            self.writer.write_str("\"")
        } else {
            self.writer.write_str(&serde_json::to_string(value).map_err(|_| fmt::Error)?)
        }
    }

    fn end(mut self) -> fmt::Result {
        self.outcome?;
        self.writer.write_str(if self.has_members { "}" } else { "{}" })
    }
}

impl Visit for Object<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let written = self.member(field.name(), value);
        self.outcome = self.outcome.and(written);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tracing_subscriber::fmt::Subscriber;

    use super::*;
    use crate::telemetry::sink::Sink;
    use crate::telemetry::{Format, Log};

    /// What is logged within the span.
    fn logged(span: fn() -> tracing::Span) -> Value {
        let sink = Sink::default();
        let log = Log::start(Format::Json, sink.clone());
        let subscriber = Subscriber::builder()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .fmt_fields(JsonSpan)
            .with_writer(log.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || span().in_scope(|| tracing::info!("here")));
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(log.flush()).unwrap();
        sink.lines().remove(0)["span"].clone()
    }

    #[test]
    fn a_line_has_the_fields_of_its_span() {
        assert_eq!(
            logged(|| tracing::info_span!("s", a = "x", b = Some("1.2"))),
            json!({"a":"x","b":"1.2","name":"s"})
        );
        assert_eq!(logged(|| tracing::info_span!("s", a = "\"\\\n\u{7f}ä")), json!({"a":"\"\\\n\u{7f}ä","name":"s"}));
        assert_eq!(logged(|| tracing::info_span!("s", a = ?(1, "x"))), json!({"a":"(1, \"x\")","name":"s"}));
        assert_eq!(logged(|| tracing::info_span!("s", a = Option::<&str>::None)), json!({"name":"s"}));
    }
}
