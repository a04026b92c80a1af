//! The announcements that hold the safe point back, by the rules of PD 8.5 and of PD 9. Pure;
//! [`crate::cluster`] keeps them on disk.
//!
//! PD 8.5 has service safe points. A service that needs old versions announces the oldest one. The
//! garbage collector announces as the service `gc_worker`, and takes the lowest of all. Nothing
//! enforces that: UpdateGCSafePoint accepts any value. PD 9 has a second safe point, of
//! transactions, which only those announcements hold back. The GC safe point must not pass it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The service name of the garbage collector.
const WORKER: &str = "gc_worker";
/// TTL and expiry of an announcement that does not expire.
const NEVER: i64 = i64::MAX;

/// The PD version whose rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PdVersion {
    /// PD 8.5 and before: safe points of services.
    #[default]
    #[value(name = "8.5")]
    V8_5,
    /// PD 9: the states of garbage collection.
    #[value(name = "9")]
    V9,
}

impl PdVersion {
    /// The version number that PD and TiKV report.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::V8_5 => "8.5.0",
            Self::V9 => "9.0.0",
        }
    }
}

/// Why a request is refused. The texts are PD's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("TTL of gc_worker's service safe point must be infinity")]
    WorkerEnds,
    #[error(
        "[PD:gc:ErrGCSafePointExceedsTxnSafePoint]trying to update GC safe point to a too large \
         value, exceeding the txn safe point, current value: {current}, given: {given}, current \
         txn safe point: {txn}"
    )]
    ExceedsTxn { current: u64, given: u64, txn: u64 },
    #[error(
        "[PD:gc:ErrDecreasingTxnSafePoint]trying to update txn safe point to a smaller value, \
         current value: {current}, given: {given}"
    )]
    DecreasingTxn { current: u64, given: u64 },
    #[error(
        "[PD:gc:ErrDecreasingGCSafePoint]trying to update GC safe point to a smaller value, \
         current value: {current}, given: {given}"
    )]
    DecreasingGc { current: u64, given: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Service {
    safe_point: u64,
    /// In unix seconds.
    expires_at: i64,
}

/// The service with the lowest safe point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Least {
    pub(crate) service: String,
    pub(crate) ttl: i64,
    pub(crate) safe_point: u64,
}

/// The result of advancing the transaction safe point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advanced {
    pub(crate) old: u64,
    pub(crate) new: u64,
    /// The service that holds it back; empty when none does.
    pub(crate) blocker: String,
}

/// All announcements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announced {
    /// The transaction safe point; only PD 9 uses it.
    txn_safe_point: u64,
    services: BTreeMap<String, Service>,
}

impl Announced {
    /// UpdateServiceGCSafePoint. `gc` is the GC safe point, `now` the time in unix seconds.
    pub(crate) fn announce(
        &mut self,
        version: PdVersion,
        service: &str,
        safe_point: u64,
        ttl: i64,
        (gc, now): (u64, i64),
    ) -> Result<Least, Refused> {
        if service == WORKER && ttl != NEVER {
            return Err(Refused::WorkerEnds);
        }
        match version {
            PdVersion::V8_5 => Ok(self.announce_to_8_5(service, safe_point, ttl, now)),
            PdVersion::V9 if service == WORKER => {
                let advanced = self.advance_txn(safe_point, (gc, now))?;
                let service =
                    if advanced.blocker.is_empty() { WORKER.to_owned() } else { advanced.blocker };
                Ok(Least { service, ttl: NEVER, safe_point: advanced.new })
            }
            PdVersion::V9 => {
                let txn = self.txn(gc);
                if ttl <= 0 {
                    self.services.remove(service);
                } else if safe_point >= txn {
                    self.put(service, safe_point, ttl, now);
                }
                Ok(Least { service: WORKER.to_owned(), ttl: NEVER, safe_point: txn })
            }
        }
    }

    fn announce_to_8_5(&mut self, service: &str, safe_point: u64, ttl: i64, now: i64) -> Least {
        if ttl <= 0 {
            self.services.remove(service);
        }
        let least = self.least(now);
        if ttl <= 0 || safe_point < least.safe_point {
            return least;
        }
        self.put(service, safe_point, ttl, now);
        if service == least.service { self.least(now) } else { least }
    }

    fn put(&mut self, service: &str, safe_point: u64, ttl: i64, now: i64) {
        let expires_at = now.saturating_add(ttl);
        self.services.insert(service.to_owned(), Service { safe_point, expires_at });
    }

    /// The lowest announcement that has not expired. If the worker has announced nothing yet, this
    /// counts as the worker's own.
    fn least(&mut self, now: i64) -> Least {
        let known = self.services.contains_key(WORKER);
        self.services.retain(|_, service| service.expires_at >= now);
        let least = self.services.iter().min_by_key(|(_, service)| service.safe_point);
        let (name, safe_point, expires_at) = match least {
            Some((name, least)) if known => (name.clone(), least.safe_point, least.expires_at),
            Some((_, least)) => (WORKER.to_owned(), least.safe_point, NEVER),
            None => (WORKER.to_owned(), 0, NEVER),
        };
        if !known {
            self.put(WORKER, safe_point, NEVER, now);
        }
        let ttl = if expires_at == NEVER { NEVER } else { expires_at.saturating_sub(now) };
        Least { service: name, ttl, safe_point }
    }

    /// The transaction safe point. A store that another PD version used has none yet; it starts at
    /// the GC safe point.
    fn txn(&self, gc: u64) -> u64 {
        self.txn_safe_point.max(gc)
    }

    /// AdvanceTxnSafePoint: advances as far as the announcements allow.
    pub(crate) fn advance_txn(
        &mut self,
        target: u64,
        (gc, now): (u64, i64),
    ) -> Result<Advanced, Refused> {
        let old = self.txn(gc);
        if target < old {
            return Err(Refused::DecreasingTxn { current: old, given: target });
        }
        self.services.retain(|name, service| name != WORKER && service.expires_at >= now);
        let blocker = self.services.iter().min_by_key(|(_, service)| service.safe_point);
        let blocker = blocker.filter(|(_, service)| service.safe_point < target);
        let new = blocker.map_or(target, |(_, service)| service.safe_point).max(old);
        let blocker = blocker.map_or_else(String::new, |(name, _)| name.clone());
        self.txn_safe_point = new;
        Ok(Advanced { old, new, blocker })
    }

    /// Checks an AdvanceGCSafePoint before the safe point is raised.
    pub(crate) fn advance_gc(&self, target: u64, gc: u64) -> Result<(), Refused> {
        let txn = self.txn(gc);
        if target < gc {
            Err(Refused::DecreasingGc { current: gc, given: target })
        } else if target > txn {
            Err(Refused::ExceedsTxn { current: gc, given: target, txn })
        } else {
            Ok(())
        }
    }

    /// Checks an UpdateGCSafePoint before the safe point is raised. A lower target changes nothing.
    pub(crate) fn update_gc(
        &self,
        version: PdVersion,
        target: u64,
        gc: u64,
    ) -> Result<(), Refused> {
        match version {
            PdVersion::V9 if target > gc => self.advance_gc(target, gc),
            PdVersion::V8_5 | PdVersion::V9 => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(all: &mut Announced, version: PdVersion, service: &str, at: u64) -> Least {
        let ttl = if service == WORKER { NEVER } else { 60 };
        all.announce(version, service, at, ttl, (0, 1_000)).unwrap()
    }

    #[test]
    fn in_8_5_the_worker_is_told_the_least_and_nothing_holds_it_back() {
        let mut all = Announced::default();
        let version = PdVersion::V8_5;
        assert_eq!(announce(&mut all, version, WORKER, 100).safe_point, 100);
        assert_eq!(announce(&mut all, version, "backup", 150).service, WORKER);
        let least = announce(&mut all, version, WORKER, 200);
        assert_eq!(least, Least { service: "backup".to_owned(), ttl: 60, safe_point: 150 });
        assert_eq!(announce(&mut all, version, "late", 140).safe_point, 150, "not below the least");
        assert_eq!(all.update_gc(version, 200, 100), Ok(()), "whoever does not ask passes over it");
        let later = all.announce(version, WORKER, 300, NEVER, (0, 1_061)).unwrap();
        assert_eq!((later.service.as_str(), later.safe_point), (WORKER, 300), "it ends by itself");
        assert_eq!(all.announce(version, WORKER, 9, 60, (0, 0)), Err(Refused::WorkerEnds));
    }

    #[test]
    fn in_9_what_is_announced_holds_the_safe_point_of_transactions_and_that_the_one_of_garbage() {
        let mut all = Announced::default();
        let version = PdVersion::V9;
        let exceeds = Refused::ExceedsTxn { current: 0, given: 50, txn: 0 };
        assert_eq!(all.update_gc(version, 50, 0), Err(exceeds.clone()));
        assert_eq!(all.advance_gc(50, 0), Err(exceeds));
        announce(&mut all, version, "backup", 150);
        let advanced = all.advance_txn(200, (0, 1_000)).unwrap();
        assert_eq!(advanced, Advanced { old: 0, new: 150, blocker: "backup".to_owned() });
        assert_eq!(all.advance_gc(150, 0), Ok(()));
        let refused = all.advance_txn(149, (150, 1_000));
        assert_eq!(refused, Err(Refused::DecreasingTxn { current: 150, given: 149 }));
        assert_eq!(
            all.advance_gc(149, 150),
            Err(Refused::DecreasingGc { current: 150, given: 149 })
        );
        assert_eq!(all.update_gc(version, 149, 150), Ok(()), "the old call says nothing then");
        assert_eq!(all.advance_txn(200, (150, 1_061)).unwrap().new, 200, "it ends by itself");
        let least = announce(&mut all, version, WORKER, 300);
        assert_eq!((least.service.as_str(), least.safe_point), (WORKER, 300));
        assert_eq!(all.advance_gc(300, 150), Ok(()), "the old announcement counts");
    }

    #[test]
    fn a_store_that_8_5_had_goes_on_from_its_safe_point() {
        let mut all = Announced::default();
        announce(&mut all, PdVersion::V8_5, WORKER, 100);
        assert_eq!(all.advance_txn(120, (100, 2_000)).unwrap().old, 100);
    }
}
