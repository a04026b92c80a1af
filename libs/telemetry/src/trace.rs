//! One trace through every process: what continues it over HTTP and gRPC (W3C Trace Context), and what ties
//! a batch to the requests that it carries.
//!
//! Where nothing is exported, nothing here does anything: an [`Origin`] is empty, and spans of [`TARGET`]
//! are not made.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanContext, TraceContextExt as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Spans of this target, at debug level, are what is exported. They stand in log lines, too, where
/// `TILL_LOG` asks for them (`till.trace=debug`).
pub const TARGET: &str = "till.trace";

/// Requests that a batch is linked to at most; of more nobody would look at all.
pub const LINKS_MAX: usize = 128;

static ON: AtomicBool = AtomicBool::new(false);

/// From now on there is somebody to send traces to.
pub(crate) fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

/// True when somebody exports traces.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The span in which something was asked for, kept while it waits to be carried out. Empty, and as large
/// as a pointer, where nobody exports traces.
#[derive(Debug, Clone, Default)]
pub struct Origin(Option<Box<SpanContext>>);

impl Origin {
    /// The span at hand.
    pub fn here() -> Self {
        if !is_on() {
            return Self(None);
        }
        Self::of(&Span::current().context())
    }

    /// The caller's span, as the head of its request says.
    pub fn of_caller(headers: &HeaderMap) -> Self {
        if !is_on() {
            return Self(None);
        }
        Self::of(&TraceContextPropagator::new().extract(&Headers(headers)))
    }

    fn of(context: &Context) -> Self {
        let span = context.span();
        let span = span.span_context();
        Self(span.is_valid().then(|| Box::new(span.clone())))
    }

    /// Makes `span` a child of this one. Call it before the span is entered.
    pub fn continue_in(&self, span: &Span) {
        if let Some(origin) = &self.0 {
            let parent = Context::new().with_remote_span_context((**origin).clone());
            // It fails only where no traces are exported.
            let _off = span.set_parent(parent);
        }
    }

    fn is_sampled(&self) -> bool {
        self.0.as_ref().is_some_and(|origin| origin.is_sampled())
    }
}

/// The span of something done for several requests at once: a child of the first of them that is traced,
/// so that a request that is alone has all of it in its own trace. None where none came with a span: then
/// it is nobody's request. [`link`] ties it to the others.
pub fn batch<'a>(
    origins: &(impl Iterator<Item = &'a Origin> + Clone),
    make: impl FnOnce() -> Span,
) -> Span {
    if !is_on() {
        return Span::none();
    }
    let sampled = origins.clone().find(|origin| origin.is_sampled());
    let Some(first) = sampled.or_else(|| origins.clone().find(|origin| origin.0.is_some())) else {
        return Span::none();
    };
    let span = make();
    first.continue_in(&span);
    span
}

/// Links a batch to the requests that it carries, the first [`LINKS_MAX`] of those that are traced.
pub fn link<'a>(batch: &Span, origins: impl Iterator<Item = &'a Origin>) {
    if !is_on() || batch.is_disabled() {
        return;
    }
    for origin in origins.filter(|origin| origin.is_sampled()).take(LINKS_MAX) {
        if let Some(origin) = &origin.0 {
            batch.add_link((**origin).clone());
        }
    }
}

/// A span below the one at hand; none where there is none, so that what a process does by itself makes no
/// traces of its own.
pub fn below(make: impl FnOnce() -> Span) -> Span {
    if is_on() && !Span::current().is_none() { make() } else { Span::none() }
}

/// Marks a span, which has to have the field `otel.status_code`, as one of something that failed.
pub fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// Tells whoever is called that it continues `span`.
pub fn inject(span: &Span, headers: &mut HeaderMap) {
    if is_on() && !span.is_disabled() {
        let context = span.context();
        TraceContextPropagator::new().inject_context(&context, &mut HeadersMut(headers));
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty tracestate says nothing.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) =
            (http::HeaderName::try_from(key), http::HeaderValue::try_from(value))
        {
            self.0.insert(name, value);
        }
    }
}
