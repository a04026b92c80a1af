//! Log lines that name their role.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{Compact, DefaultFields, Format, Json, JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// Lines for people: time, level, role, then what happened.
pub(crate) fn pretty<S, W>(role: &str, writer: W) -> impl Layer<S> + Send + Sync + use<S, W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .fmt_fields(DefaultFields::new())
        .event_format(Named {
            role: format!("{role} "),
            inner: Format::default().compact(),
        })
        .with_writer(writer)
}

/// One JSON object a line, with `role` as its first member.
pub(crate) fn json<S, W>(role: &str, writer: W) -> impl Layer<S> + Send + Sync + use<S, W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .fmt_fields(JsonFields::new())
        .event_format(NamedJson {
            role: quoted(role),
            inner: Format::default().json().flatten_event(true),
        })
        .with_writer(writer)
}

/// A line with the role before it.
struct Named {
    role: String,
    inner: Format<Compact>,
}

impl<S, N> FormatEvent<S, N> for Named
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
        writer.write_str(&self.role)?;
        self.inner.format_event(context, writer, event)
    }
}

/// A JSON object with the role as its first member.
struct NamedJson {
    role: String,
    inner: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for NamedJson
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
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        // The inner format writes one object a line; it never is empty, as it has a timestamp.
        let rest = line.strip_prefix('{').unwrap_or(&line);
        write!(writer, "{{\"role\":{},{rest}", self.role)
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.push(' '),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
