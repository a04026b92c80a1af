//! Log lines that name their role.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{DefaultFields, Format, JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// Lines for people: role, time, level, then the message.
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
            in_object: false,
        })
        .with_writer(writer)
}

/// One JSON object per line, with `role` as its first member.
pub(crate) fn json<S, W>(role: &str, writer: W) -> impl Layer<S> + Send + Sync + use<S, W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .fmt_fields(JsonFields::new())
        .event_format(Named {
            role: quoted(role),
            inner: Format::default().json().flatten_event(true),
            in_object: true,
        })
        .with_writer(writer)
}

/// Adds the role to another format's output: before the line, or as the first member of the JSON
/// object.
struct Named<F> {
    role: String,
    inner: F,
    in_object: bool,
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.in_object {
            writer.write_str(&self.role)?;
            return self.inner.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        // The inner format writes one object per line. The object is never empty: it has a
        // timestamp.
        let rest = line.strip_prefix('{').unwrap_or(&line);
        write!(writer, "{{\"role\":{},{rest}", self.role)
    }
}

/// `text` as a JSON string. Control characters become blanks.
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

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn say_something() {
        let _span = tracing::info_span!("request", till.order.id = "o\"1").entered();
        tracing::warn!(attempt = 2, "store is slow");
        tracing::info!("second line");
    }

    #[test]
    fn every_line_for_people_names_its_role() {
        let lines = Lines::default();
        let writer = lines.clone();
        let registry = tracing_subscriber::registry();
        let layer = pretty("stock-1", move || writer.clone());
        tracing::subscriber::with_default(registry.with(layer), say_something);
        let text = lines.text();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line.starts_with("stock-1 ")), "{text}");
        assert!(text.contains("WARN") && text.contains("store is slow attempt=2"), "{text}");
    }

    #[test]
    fn every_line_for_machines_is_an_object_that_names_its_role() {
        let lines = Lines::default();
        let writer = lines.clone();
        let registry = tracing_subscriber::registry();
        let layer = json("stock \"1\"", move || writer.clone());
        tracing::subscriber::with_default(registry.with(layer), say_something);
        let objects: Vec<serde_json::Value> =
            lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2);
        for object in &objects {
            assert_eq!(object["role"], "stock \"1\"");
            assert_eq!(object["span"]["till.order.id"], "o\"1");
        }
        assert_eq!(objects[0]["message"], "store is slow");
        assert_eq!(objects[0]["attempt"], 2);
    }
}
