//! Turns records of the `log` crate, which libraries use, into events like any other. Their place
//! in the source is left out, because it is a path on the machine that built the executable.

use tracing_log::{
    LogTracer,
    log::{self, Log, Metadata, Record},
};

/// Takes records from now on, up to the level that the filter lets through.
pub(crate) fn take() {
    // If there is a logger already, it stays and gets the records.
    if log::set_boxed_logger(Box::new(Records(LogTracer::new()))).is_ok() {
        let most = tracing_log::AsLog::as_log(&tracing::level_filters::LevelFilter::current());
        log::set_max_level(most);
    }
}

struct Records(LogTracer);

impl Log for Records {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let metadata = record.metadata().clone();
        self.0.log(&Record::builder().metadata(metadata).args(*record.args()).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// A place in the source, shortened to start at the crate's own folder.
pub(crate) fn place(path: &str) -> &str {
    let Some(source) = path.rfind("/src/").filter(|_| path.starts_with('/')) else {
        return path.trim_start_matches('/');
    };
    let above = path.get(..source).unwrap_or_default();
    above.rfind('/').and_then(|folder| path.get(folder + 1..)).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::format::{self, tests::Lines};

    #[test]
    fn no_line_of_a_library_names_a_place_where_it_was_built() {
        let lines = Lines::default();
        let (pretty, json) = (lines.clone(), lines.clone());
        let registry = tracing_subscriber::registry()
            .with(format::pretty("x", move || pretty.clone()))
            .with(format::json("x", move || json.clone()));
        let logger = Records(LogTracer::new());
        tracing::subscriber::with_default(registry, || {
            let metadata = Metadata::builder().target("fjall").level(log::Level::Warn).build();
            let record = Record::builder()
                .metadata(metadata)
                .args(format_args!("compaction is slow"))
                .file(Some("/build/.cargo/registry/src/index/fjall-2.0.0/src/keyspace.rs"))
                .module_path(Some("fjall::keyspace"))
                .line(Some(7))
                .build();
            logger.log(&record);
        });
        let text = lines.text();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.contains("compaction is slow")), "{text}");
        assert!(text.lines().all(|line| line.contains("fjall")), "{text}");
        assert!(!text.contains(".cargo") && !text.contains("keyspace"), "{text}");
    }

    #[test]
    fn the_place_of_a_panic_begins_with_its_crate() {
        for (path, expected) in [
            (
                "/build/.cargo/registry/src/index-1/tonic-0.14.0/src/a/b.rs",
                "tonic-0.14.0/src/a/b.rs",
            ),
            ("/rustc/0123/library/core/src/option.rs", "core/src/option.rs"),
            ("libs/rpc/src/server.rs", "libs/rpc/src/server.rs"),
            ("/build.rs", "build.rs"),
        ] {
            assert_eq!(place(path), expected);
        }
    }
}
