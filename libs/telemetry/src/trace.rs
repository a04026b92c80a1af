//! One trace through every process: propagation over HTTP and gRPC (W3C Trace Context), and links
//! from a batch to the requests that it carries.
//!
//! If nothing is exported, nothing here does anything: a [`CallerSpan`] is empty, and no span of
//! [`TARGET`] is made.

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

/// Spans of this target, at debug level, are exported. They also appear in log lines if `TILL_LOG`
/// asks for them (`till.trace=debug`).
pub const TARGET: &str = "till.trace";

/// Limit on the requests that a batch is linked to. Nobody would look at more.
pub const LINKS_MAX: usize = 128;

static ON: AtomicBool = AtomicBool::new(false);

/// Turns tracing on: from now on traces are sent.
pub(crate) fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

/// True if traces are exported.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The span of a caller, kept while its request waits. It has the size of a pointer, and is empty
/// if traces are not exported.
#[derive(Debug, Clone, Default)]
pub struct CallerSpan(Option<Box<SpanContext>>);

impl CallerSpan {
    /// The current span.
    pub fn here() -> Self {
        if !is_on() {
            return Self(None);
        }
        Self::of(&Span::current().context())
    }

    /// The caller's span, from the headers of its request.
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
        if let Some(caller) = &self.0 {
            let parent = Context::new().with_remote_span_context((**caller).clone());
            // This fails only if no traces are exported.
            let _off = span.set_parent(parent);
        }
    }

    fn is_sampled(&self) -> bool {
        self.0.as_ref().is_some_and(|caller| caller.is_sampled())
    }
}

/// The span of work that is done for several requests at once. It is a child of the first sampled
/// one, so that a request alone in its batch has everything in its own trace. Without a span among
/// the callers, the work belongs to no request and gets no span. [`link`] ties the batch to the
/// other requests.
pub fn batch<'a>(
    callers: &(impl Iterator<Item = &'a CallerSpan> + Clone),
    make: impl FnOnce() -> Span,
) -> Span {
    if !is_on() {
        return Span::none();
    }
    let sampled = callers.clone().find(|caller| caller.is_sampled());
    let Some(first) = sampled.or_else(|| callers.clone().find(|caller| caller.0.is_some())) else {
        return Span::none();
    };
    let span = make();
    first.continue_in(&span);
    span
}

/// Links a batch to the first [`LINKS_MAX`] sampled requests that it carries.
pub fn link<'a>(batch: &Span, callers: impl Iterator<Item = &'a CallerSpan>) {
    if !is_on() || batch.is_disabled() {
        return;
    }
    for caller in callers.filter(|caller| caller.is_sampled()).take(LINKS_MAX) {
        if let Some(caller) = &caller.0 {
            batch.add_link((**caller).clone());
        }
    }
}

/// A child of the current span; none if there is no current span, so that a process's own chores
/// make no traces.
pub fn below(make: impl FnOnce() -> Span) -> Span {
    if is_on() && !Span::current().is_none() { make() } else { Span::none() }
}

/// Marks a span as failed. The span must have the field `otel.status_code`.
pub fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// Puts `span` into the headers of a call, so that the callee continues it.
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
