//! Keeps values read from files in step with the files.

use std::{error::Error, sync::Arc, time::Duration};

/// How often files are checked for changes by default.
pub const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Calls `reload` periodically for as long as `shared` is in use. `reload` returns whether
/// something changed, and leaves the old value in place if it fails. `what` is the plural name used
/// in the log. Must be called within a tokio runtime.
pub fn keep_fresh<S, E>(
    shared: &Arc<S>,
    every: Duration,
    what: &'static str,
    reload: fn(&S) -> Result<bool, E>,
) where
    S: Send + Sync + 'static,
    E: Error + Send + 'static,
{
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut failing = false;
        loop {
            tokio::time::sleep(every).await;
            let Some(shared) = shared.upgrade() else { return };
            match tokio::task::spawn_blocking(move || reload(&shared)).await {
                Ok(Ok(changed)) => {
                    if changed {
                        tracing::info!("{what} were read again");
                    }
                    failing = false;
                }
                // Most likely the file is half-written. Logged once per series of failures.
                Ok(Err(error)) if !failing => {
                    let cause = error.source().map(ToString::to_string);
                    tracing::warn!(%error, cause, "{what} changed and cannot be used, keeping the old");
                    failing = true;
                }
                Ok(Err(_)) => {}
                Err(error) => {
                    tracing::error!(%error, "{what} are not looked at any more");
                    return;
                }
            }
        }
    });
}
