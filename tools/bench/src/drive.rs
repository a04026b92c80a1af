//! The measured part: callers do jobs at a pace, and a window is counted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    call::{Call, Outcome, Trouble},
    client::{Client, Endpoints},
    pace::{Arrivals, Pace},
    progress::Progress,
    tally::{End, Kind, Tally},
    workload::{Job, Must, WorkloadState},
};

/// How a window is driven.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) pace: Pace,
    /// Driven before the window begins, and not counted.
    pub(crate) warm_up: Duration,
    /// Length of the window.
    pub(crate) window: Duration,
    pub(crate) seed: u64,
    /// More is offered than the shop can serve: refusals as too much are acceptable, and nothing is
    /// sent after the window, however much of it was due before.
    pub(crate) may_shed: bool,
}

/// What the callers share.
struct Shared {
    state: Mutex<WorkloadState>,
    tally: Mutex<Tally>,
    arrivals: Option<Mutex<Arrivals>>,
    /// Cancelled when the workload has no calls left.
    over: CancellationToken,
    changed: Notify,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        // A panic elsewhere leaves the counts consistent.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, WorkloadState> {
        // As for the tally.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ran_out(&self) {
        self.tally().close(Instant::now());
        self.over.cancel();
        self.changed.notify_one();
    }
}

/// Drives a workload. Calls `take_reading` when the window begins and when it ends.
///
/// # Errors
/// In words, when the task of a caller fails (not a call), or `take_reading` does.
pub(crate) async fn drive<Reading, ReadingFuture>(
    endpoints: &Endpoints,
    state: WorkloadState,
    plan: Plan,
    mut take_reading: impl FnMut() -> ReadingFuture,
) -> Result<(WorkloadState, Tally, [Reading; 2]), String>
where
    ReadingFuture: Future<Output = Result<Reading, String>>,
{
    let start = Instant::now();
    let begin = start + plan.warm_up;
    let arrivals = match plan.pace {
        Pace::Open { rate, .. } => Some(Mutex::new(Arrivals::new(start, rate, plan.seed))),
        Pace::Closed { .. } | Pace::Thinking { .. } => None,
    };
    let mut tally = Tally::new(begin, begin + plan.window);
    if plan.may_shed {
        tally.let_shed();
    }
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        tally: Mutex::new(tally),
        arrivals,
        over: CancellationToken::new(),
        changed: Notify::new(),
    });
    let mut callers = JoinSet::new();
    for number in 0..plan.pace.callers() {
        callers.spawn(caller(Arc::clone(&shared), endpoints.measured(number), plan, number));
    }
    let early = |moment: Instant| {
        let shared = &shared;
        async move {
            tokio::select! {
                () = sleep_until(moment) => {}
                () = shared.changed.notified() => {}
            }
        }
    };
    sleep_until(begin).await;
    let before = take_reading().await?;
    early(begin + plan.window).await;
    let after = take_reading().await?;
    let progress = Progress::new("last answers", plan.pace.callers());
    while let Some(ended) = callers.join_next().await {
        ended.map_err(|error| error.to_string())?;
        progress.step();
    }
    drop(progress);
    let shared = Arc::into_inner(shared).ok_or("a caller is still there")?;
    let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let tally = shared.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((state, tally, [before, after]))
}

/// Runs one caller until the window ends or the workload has no calls left.
async fn caller(shared: Arc<Shared>, mut client: Client, plan: Plan, number: usize) {
    let pace = plan.pace;
    if let Pace::Thinking { callers, think } = pace {
        // Spread the starts evenly; otherwise all callers would call at the same moments, again and
        // again.
        let part = u32::try_from(number).unwrap_or_default();
        let whole = u32::try_from(callers).unwrap_or(u32::MAX).max(1);
        sleep(think / whole * part).await;
    }
    loop {
        let due = match &shared.arrivals {
            Some(arrivals) => {
                // Nothing under this lock can panic.
                arrivals.lock().unwrap_or_else(PoisonError::into_inner).next()
            }
            None => Instant::now(),
        };
        // An overload ends with its window. What is late by then is never sent: working it off
        // would take many times as long as the window.
        let sent = if plan.may_shed { due.max(Instant::now()) } else { due };
        if sent >= shared.tally().end() {
            return;
        }
        tokio::select! {
            () = sleep_until(due) => {}
            () = shared.over.cancelled() => return,
        }
        let job = shared.state().next();
        let Some(job) = job else {
            shared.ran_out();
            return;
        };
        perform(&shared, &mut client, job, due).await;
        if let Pace::Thinking { think, .. } = pace {
            tokio::select! {
                () = sleep(think) => {}
                () = shared.over.cancelled() => return,
            }
        }
    }
}

async fn perform(shared: &Shared, client: &mut Client, job: Job, due: Instant) {
    match job {
        Job::Checkout { order, id, must } => {
            checkout(shared, client, (order, id, must), due).await;
        }
        Job::Find(kind, call) => {
            step(shared, client, &call, kind, due).await;
        }
        Job::Purchase { user, items } => purchase(shared, client, user, items, due).await,
    }
}

/// Makes a purchase. Every step after the first is due when the one before it is answered.
async fn purchase(
    shared: &Shared,
    client: &mut Client,
    user: String,
    items: [String; 2],
    due: Instant,
) {
    let made = step(shared, client, &Call::CreateOrder { user }, Kind::Create, due).await;
    let Some(Ok(order)) = made.map(|reply| reply.id()) else { return };
    let number = shared.state().made(order.clone());
    for item in items {
        let call = Call::AddItem { order: order.clone(), item };
        if step(shared, client, &call, Kind::Add, Instant::now()).await.is_none() {
            return;
        }
    }
    checkout(shared, client, (number, order.clone(), Must::Succeed), Instant::now()).await;
    step(shared, client, &Call::FindOrder { order }, Kind::FindOrder, Instant::now()).await;
}

/// Makes a call that must succeed; returns its reply if it did.
async fn step(
    shared: &Shared,
    client: &mut Client,
    call: &Call,
    kind: Kind,
    due: Instant,
) -> Option<crate::call::Reply> {
    let outcome: Outcome = client.call(call).await;
    let (end, reply) = match outcome {
        Ok(reply) => (End::Done(kind), Some(reply)),
        Err(Trouble::Refused(reason)) => (End::Unexplained(reason), None),
        Err(Trouble::Shed(said)) => (End::Shed(said), None),
        Err(Trouble::Failed(problem)) => (End::Failed(problem), None),
    };
    shared.tally().add(due, Instant::now(), end);
    reply
}

async fn checkout(
    shared: &Shared,
    client: &mut Client,
    (order, id, must): (usize, String, Must),
    due: Instant,
) {
    let outcome = client.call(&Call::Checkout { order: id }).await.map(drop);
    let now = Instant::now();
    let end = shared.state().ended(order, must, outcome);
    shared.tally().add(due, now, end);
}

#[cfg(test)]
mod tests;
