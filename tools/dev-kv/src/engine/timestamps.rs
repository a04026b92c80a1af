//! Timestamps, and the durable ceiling below which they are given out.

use super::{Engine, EngineError, UpdateError};
use crate::model::Ts;
use crate::tso::Oracle;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

pub(super) const META_CEILING: &str = "tso_ceiling";

impl Engine {
    /// Takes the next `count` timestamps; returns the last of them.
    pub(crate) async fn timestamps(self: &Arc<Self>, count: u64) -> Result<Ts, EngineError> {
        loop {
            let now = self.clock.now().0;
            let wanted = self.oracle().wanted_ceiling(now);
            match wanted {
                Some((_, true)) => self.raise_ceiling(true).await?,
                Some((_, false)) => self.plan_raise(),
                None => {}
            }
            if let Some(ts) = self.take_now(count) {
                return Ok(ts);
            }
            self.raise_ceiling(true).await?;
        }
    }

    /// Makes sure that timestamps near the present can be taken inside a section.
    pub(crate) async fn prepare_timestamps(self: &Arc<Self>) -> Result<(), EngineError> {
        let wanted = self.oracle().wanted_ceiling(self.clock.now().0);
        match wanted {
            Some((_, true)) => self.raise_ceiling(true).await,
            Some((_, false)) => {
                self.plan_raise();
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn take_now(&self, count: u64) -> Option<Ts> {
        let now = self.clock.now().0;
        self.oracle().take(now, count)
    }

    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the ceiling in the background, ahead of need.
    fn plan_raise(self: &Arc<Self>) {
        if self.raise_planned.swap(true, Ordering::AcqRel) {
            return;
        }
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = engine.raise_ceiling(false).await {
                tracing::warn!(error = %error, "timestamp ceiling not raised");
            }
            engine.raise_planned.store(false, Ordering::Release);
        });
    }

    pub(super) async fn raise_ceiling(&self, urgent: bool) -> Result<(), EngineError> {
        let alone = self.raising.lock().await;
        let wanted = self.oracle().wanted_ceiling(self.clock.now().0);
        // Another task may have raised it in the meantime.
        let ceiling = match wanted {
            Some((ceiling, now)) if now || !urgent => ceiling,
            Some(_) | None => return Ok(()),
        };
        let result = self
            .update(&[], |section| {
                section.write_meta(META_CEILING, Some(ceiling.to_be_bytes().to_vec()));
                Ok(((), Vec::new()))
            })
            .await;
        match result {
            Ok(()) | Err(UpdateError::Refused(_)) => {}
            Err(UpdateError::Engine(error)) => self.mark_ceiling(ceiling, error).await?,
        }
        self.oracle().raise(ceiling);
        drop(alone);
        Ok(())
    }

    /// Stores the ceiling in the marks, which works even on a full disk. `error` says why the usual
    /// write failed.
    async fn mark_ceiling(&self, ceiling: u64, error: EngineError) -> Result<(), EngineError> {
        let Some(directory) = self.lock().directory.clone() else { return Err(error) };
        let raised =
            tokio::task::spawn_blocking(move || directory.marks().raise_ceiling(ceiling)).await;
        let problem = match raised {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(problem)) => problem.to_string(),
            Err(problem) => problem.to_string(),
        };
        Err(EngineError::WriteFailed(format!("{error}; the timestamp ceiling: {problem}")))
    }
}
