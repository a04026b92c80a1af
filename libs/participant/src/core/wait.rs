//! Wait-die: which transactions may wait for which, and the order in which waiters are served.
//!
//! An older transaction may wait for a younger one's hold, but never the other way round, so there
//! is no cycle of waiting (Rosenkrantz, Stearns, Lewis 1978). Calls that hold nothing may always
//! wait.

use types::{Mutation, Priority, TxId, TxMeta, UnixMillis, Vote};

use super::{Answer, Call, CallId, Core, Domain, rows::holders_of};
use crate::records::Row;

/// A call that waits for holds on a row to be resolved.
#[derive(Debug)]
pub(super) struct Waiter<D: Domain> {
    pub(super) call: Call<D>,
    pub(super) row: Row,
    pub(super) priority: Priority,
    pub(super) since: UnixMillis,
}

impl<D: Domain> Clone for Waiter<D> {
    fn clone(&self) -> Self {
        Self {
            call: self.call.clone(),
            row: self.row.clone(),
            priority: self.priority,
            since: self.since,
        }
    }
}

impl<D: Domain> Core<D> {
    /// Lets a call wait for the holds on a row.
    pub(super) fn park(&mut self, id: CallId, waiter: Waiter<D>) {
        if let Call::Prepare { meta, .. } = &waiter.call {
            self.waiting.insert((meta.tx_id, id), ());
        }
        self.queue.insert((waiter.row.clone(), waiter.priority, id), ());
        self.waiters.insert(id, waiter);
    }

    /// Takes a call out of the queue.
    pub(super) fn unpark(&mut self, id: CallId) -> Option<Waiter<D>> {
        let waiter = self.waiters.remove(&id)?;
        self.queue.remove(&(waiter.row.clone(), waiter.priority, id));
        if let Call::Prepare { meta, .. } = &waiter.call {
            self.waiting.remove(&(meta.tx_id, id));
        }
        Some(waiter)
    }

    /// Drops a waiting call whose caller is gone. Call between batches only.
    pub fn cancel(&mut self, id: CallId) {
        if let Some(waiter) = self.unpark(id) {
            // The call behind it may go on now.
            self.rows_to_recheck.insert(waiter.row);
        }
        self.waiters.settle();
        self.queue.settle();
        self.waiting.settle();
    }

    /// Drops the waiting calls that need a row which cannot be read, and returns them. Call between
    /// batches only.
    pub fn give_up(&mut self, row: &Row) -> Vec<CallId> {
        let needs = self
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.row == *row || self.rows_of(&waiter.call).contains(row));
        let ids: Vec<CallId> = needs.map(|(id, _)| *id).collect();
        for id in &ids {
            self.cancel(*id);
        }
        self.rows_to_recheck.remove(row);
        ids
    }

    /// The waiting calls, so that the lane can check whether their callers are still there.
    pub fn waiting_calls(&self) -> impl Iterator<Item = CallId> {
        self.waiters.iter().map(|(id, _)| *id)
    }

    /// Transactions that others have been waiting for since before `since`, each once, in the form
    /// needed to resolve them.
    pub fn blockers(&self, since: UnixMillis) -> Vec<TxMeta> {
        let mut blockers = std::collections::BTreeMap::new();
        for (_, waiter) in self.waiters.iter().filter(|(_, waiter)| waiter.since < since) {
            for (_, tx_id) in holders_of(&self.holders, &waiter.row) {
                if let Some(entry) = self.table.get(tx_id) {
                    blockers.entry(tx_id).or_insert_with(|| entry.meta.clone());
                }
            }
        }
        blockers.into_values().collect()
    }

    /// The oldest unresolved transaction on a row.
    pub(super) fn blocker_on(&self, row: &[u8]) -> Option<&TxMeta> {
        let (_, tx_id) = holders_of(&self.holders, row).next()?;
        self.table.get(tx_id).map(|entry| &entry.meta)
    }

    /// Whether waiting is allowed, that is, whether a transaction younger than `priority` holds
    /// something on the row.
    pub(super) fn may_wait_on(&self, row: &[u8], priority: Priority) -> bool {
        let mut holders = holders_of(&self.holders, row);
        if Mutation::YoungerWaits.is_on() {
            return holders.next_back().is_some();
        }
        holders.next_back().is_some_and(|(holder, _)| holder > priority)
    }

    /// Whether a call waits on the row that is older than `priority` and keeps its place.
    pub(super) fn older_waits_on(&self, row: &[u8], priority: Priority) -> bool {
        let least = Priority { begin_ts: 0, nonce: 0 };
        self.queue.range((row.to_vec(), least, 0)..(row.to_vec(), priority, 0)).any(
            |((_, _, id), ())| {
                self.waiters.get(id).is_some_and(|waiter| Self::keeps_place(&waiter.call))
            },
        )
    }

    /// Whether younger calls must not overtake this waiting call. They may overtake reads, which
    /// take nothing.
    fn keeps_place(call: &Call<D>) -> bool {
        match call {
            Call::Prepare { .. } | Call::Op { call: Some(_), .. } => true,
            Call::Op { call: None, .. }
            | Call::Reject { .. }
            | Call::Commit { .. }
            | Call::Abort { .. }
            | Call::Query { .. }
            | Call::Forget { .. }
            | Call::Refuse { .. } => false,
        }
    }

    /// Answers waiters whose time is over: a Prepare past its deadline, an operation past the end
    /// of its call. They must no longer take effect.
    pub(super) fn expire_waiters(&mut self) {
        let now = self.run.start.physical();
        let late = self.waiters.iter().filter(|(_, waiter)| waiter.call.is_over(now));
        let late: Vec<CallId> = late.map(|(id, _)| *id).collect();
        for id in late {
            if let Some(waiter) = self.unpark(id) {
                self.rows_to_recheck.insert(waiter.row);
                let votes = matches!(waiter.call, Call::Prepare { .. });
                let answer = if votes { Answer::Vote(Vote::Fenced) } else { Answer::Expired };
                self.answer(id, answer);
            }
        }
    }

    /// Decides the waiting Prepares of a transaction again, after its state has changed.
    pub(super) fn wake_transaction(&mut self, tx_id: TxId) {
        let ids: Vec<CallId> = self
            .waiting
            .range((tx_id, 0)..=(tx_id, CallId::MAX))
            .map(|((_, id), ())| *id)
            .collect();
        for id in ids {
            if let Some(waiter) = self.unpark(id) {
                self.rows_to_recheck.insert(waiter.row.clone());
                self.decide(id, &waiter.call, Some(&waiter));
            }
        }
    }

    /// Serves waiters whose row changed, oldest first, until nothing changes any more. If a waiter
    /// must go on waiting, those behind it are not served; this only checks whether they may still
    /// wait. The next batch serves the waiters that find no room in this one.
    pub(super) fn serve_waiters(&mut self) {
        while self.has_room()
            && let Some(row) = self.rows_to_recheck.pop_first()
        {
            let least = Priority { begin_ts: 0, nonce: 0 };
            let greatest = Priority { begin_ts: u64::MAX, nonce: u64::MAX };
            let range = (row.clone(), least, 0)..=(row.clone(), greatest, CallId::MAX);
            let ids: Vec<CallId> = self.queue.range(range).map(|((_, _, id), ())| *id).collect();
            let mut served = true;
            for id in ids {
                if !self.has_room() {
                    self.rows_to_recheck.insert(row);
                    return;
                }
                if served {
                    let Some(waiter) = self.unpark(id) else { continue };
                    self.decide(id, &waiter.call, Some(&waiter));
                    let still = self.waiters.get(&id).is_some_and(|waiter| waiter.row == row);
                    served = !(still && Self::keeps_place(&waiter.call));
                } else {
                    self.check_turn(id, &row);
                }
            }
        }
    }

    /// Sends a Prepare away if it may no longer wait here.
    fn check_turn(&mut self, id: CallId, row: &[u8]) {
        let Some(waiter) = self.waiters.get(&id) else { return };
        let Call::Prepare { meta, .. } = &waiter.call else { return };
        if !self.may_wait_on(row, waiter.priority) {
            let meta = meta.clone();
            self.unpark(id);
            self.contended(id, meta, row);
        }
    }
}
