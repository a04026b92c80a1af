//! What happened in a run, in order. Every line goes into a hash, and is printed if a seed is
//! replayed. A run stays on one thread, and so does its trace.

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Write as _},
    sync::Once,
};

use tokio::time::Instant;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::coverage;

/// The trace of the run on this thread.
struct Trace {
    hash: Fnv,
    began: Instant,
    /// Errors that the modules logged, which need a person's attention, and panics.
    alarms: Vec<String>,
}

thread_local! {
    static IS_READ: Cell<bool> = const { Cell::new(false) };
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// Begins the trace of a run. Must be called within its runtime.
pub(crate) fn begin(print: bool) {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        tracing::subscriber::set_global_default(Watch).unwrap();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let inside = TRACE.with_borrow_mut(|trace| {
                trace.as_mut().map(|trace| trace.alarms.push(format!("panic: {panic}"))).is_some()
            });
            if !inside {
                before(panic);
            }
        }));
    });
    let hash = Fnv(0xcbf2_9ce4_8422_2325);
    let trace = Trace { hash, began: Instant::now(), alarms: Vec::new() };
    IS_READ.set(print);
    TRACE.set(Some(trace));
}

/// Ends the trace: returns its hash, and the alarms.
pub(crate) fn end() -> (u64, Vec<String>) {
    let trace = TRACE.take().expect("it was begun");
    (trace.hash.0, trace.alarms)
}

/// Whether lines are printed, so that they may be expensive.
pub(crate) fn is_read() -> bool {
    IS_READ.get()
}

/// Records that something happened.
pub(crate) fn note(who: &dyn fmt::Display, what: fmt::Arguments<'_>) {
    TRACE.with_borrow_mut(|trace| {
        let Some(trace) = trace.as_mut() else { return };
        let at = trace.began.elapsed().as_micros();
        writeln!(trace.hash, "{at} {who} {what}").expect("hashing does not fail");
        if is_read() {
            println!("{:>8} ms  {who:<16} {what}", at / 1_000);
        }
    });
}

/// Watches what the modules log: errors are alarms, everything else is for readers.
struct Watch;

/// A log line's fields.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
        written.expect("a String takes everything");
    }
}

impl Subscriber for Watch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.target() == coverage::TARGET {
            return coverage::is_wanted();
        }
        metadata.is_event() && (*metadata.level() == Level::ERROR || is_read())
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::TRACE)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target() == coverage::TARGET {
            return coverage::hear(event);
        }
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        TRACE.with_borrow_mut(|trace| {
            let Some(trace) = trace.as_mut() else { return };
            if is_read() {
                println!("{:>16} log: {}", "", line.0);
            }
            if *event.metadata().level() == Level::ERROR {
                trace.alarms.push(line.0);
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
