//! What was read from files, kept in step with them.

use std::{error::Error, sync::Arc, time::Duration};

/// How often files are looked at again, unless somebody needs it sooner.
pub const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Has `reload` look at the files again and again, for as long as somebody uses `shared`; it tells whether
/// something changed, and leaves what stands where it fails. `what` names it in the log, in the plural. Must
/// be called within a tokio runtime.
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
                // Half-written, most likely; said once for each bad spell.
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
