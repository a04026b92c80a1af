//! A network that loses, doubles, delays and cuts off, with processes that stop and die behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use proto::participant::v1::{ApplyRequest, operation::Operation as Op};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::net::Net;
use testkit::net::{Carried, carried_by};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tonic::{body::Body, metadata::MetadataMap};
use tower::{BoxError, Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    coverage::{self, Between},
    fate::NetRates,
    trace,
};

/// The service that answers at a process's endpoint.
pub(crate) type ProcessService = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// A lost message is noticed after this time, or when the caller's deadline passes.
const NOTICED: Duration = Duration::from_secs(3);
/// Greatest delay of a late message, in milliseconds.
const LATE_MS: u64 = 4_000;

/// A process: one start of one replica. Once dead it stays dead.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) name: String,
    death: Arc<Death>,
    stopped_until: Arc<Mutex<Option<Instant>>>,
}

/// Whether a process is dead. Unlike a `watch` it wakes its waiters in their order.
#[derive(Default)]
struct Death {
    is_over: AtomicBool,
    told: Notify,
}

impl Process {
    pub(crate) fn start(name: &str) -> Self {
        Self { name: name.to_owned(), death: Arc::default(), stopped_until: Arc::default() }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.death.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn kill(&self) {
        trace::note(&self.name, format_args!("dies"));
        coverage::trouble(&self.name, Between::Death);
        self.death.is_over.store(true, Ordering::Relaxed);
        self.death.told.notify_waiters();
    }

    pub(crate) async fn died(&self) {
        let told = self.death.told.notified();
        if !self.is_dead() {
            told.await;
        }
    }

    /// Stops the process for a while: nothing goes in or out.
    pub(crate) fn stop(&self, time: Duration) {
        trace::note(&self.name, format_args!("stands still for {} ms", time.as_millis()));
        coverage::trouble(&self.name, Between::Standstill);
        *self.stopped_until.lock().unwrap() = Some(Instant::now() + time);
    }

    /// How much longer it stands still.
    pub(crate) fn still_stopped(&self) -> Duration {
        let until = *self.stopped_until.lock().unwrap();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(Default)]
struct Listening {
    processes: BTreeMap<String, (Process, ProcessService)>,
    /// Pairs that cannot reach each other, and until when.
    cuts: BTreeMap<(String, String), Instant>,
    /// Names that can reach nobody, and until when.
    islands: BTreeMap<String, Instant>,
}

/// The network of one simulated shop.
#[derive(Clone)]
pub(crate) struct Network {
    listening: Arc<Mutex<Listening>>,
    rng: Arc<Mutex<ChaCha8Rng>>,
    rates: Arc<Mutex<NetRates>>,
    messages: Arc<Mutex<u64>>,
    /// Client keys whose request may arrive once more after it was answered.
    copied: Arc<Mutex<BTreeSet<String>>>,
}

impl Network {
    pub(crate) fn new(seed: u64, rates: NetRates) -> Self {
        Self {
            listening: Arc::default(),
            rng: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))),
            rates: Arc::new(Mutex::new(rates)),
            messages: Arc::default(),
            copied: Arc::default(),
        }
    }

    /// Whether a request with this key may arrive once more after it was answered.
    pub(crate) fn may_come_late(&self, key: &str) -> bool {
        self.copied.lock().unwrap().contains(key)
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap()
    }

    fn rates(&self) -> NetRates {
        *self.rates.lock().unwrap()
    }

    /// Number of messages so far.
    pub(crate) fn messages(&self) -> u64 {
        *self.messages.lock().unwrap()
    }

    /// Ends all trouble.
    pub(crate) fn heal(&self) {
        *self.rates.lock().unwrap() = NetRates { delay_ms: 1, ..NetRates::default() };
        let mut listening = self.listening();
        listening.cuts.clear();
        listening.islands.clear();
    }

    /// Removes all processes. Services and network refer to each other, so without this the whole
    /// shop would stay in memory.
    pub(crate) fn close(&self) {
        let closed = std::mem::take(&mut *self.listening());
        // Dropped without the lock, as what is dropped may still look at the network.
        drop(closed);
    }

    /// Puts a process at its name, in place of the one before.
    pub(crate) fn listen(&self, process: Process, service: ProcessService) {
        self.listening().processes.insert(process.name.clone(), (process, service));
    }

    /// Cuts two names off from each other for a while.
    pub(crate) fn cut(&self, one: &str, other: &str, time: Duration) {
        trace::note(&"network", format_args!("cut {one} - {other}, {} ms", time.as_millis()));
        let until = Instant::now() + time;
        let mut listening = self.listening();
        for pair in [(one, other), (other, one)] {
            listening.cuts.insert((pair.0.to_owned(), pair.1.to_owned()), until);
        }
    }

    /// Cuts a name off from everything for a while.
    pub(crate) fn isolate(&self, name: &str, time: Duration) {
        trace::note(&"network", format_args!("isolate {name}, {} ms", time.as_millis()));
        self.listening().islands.insert(name.to_owned(), Instant::now() + time);
    }

    /// The network as a process sees it.
    pub(crate) fn of(&self, process: &Process) -> Arc<dyn Net> {
        let (network, process) = (self.clone(), process.clone());
        carried_by(move |to, request| {
            let (network, process) = (network.clone(), process.clone());
            async move { network.call(&process, to.as_str(), request).await }
        })
    }

    fn dice(&self, per_thousand: u32) -> bool {
        self.rng.lock().unwrap().random_range(0..1_000) < per_thousand
    }

    fn delay(&self, most: u64) -> Duration {
        let late = self.dice(self.rates().late);
        let most = if late { LATE_MS } else { most };
        Duration::from_millis(self.rng.lock().unwrap().random_range(0..=most))
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let now = Instant::now();
        let listening = self.listening();
        let cut = listening.cuts.get(&(from.to_owned(), to.to_owned()));
        let island = [from, to].into_iter().filter_map(|name| listening.islands.get(name));
        island.chain(cut).any(|until| *until > now)
    }

    fn target(&self, from: &str, to: &str) -> Option<(Process, ProcessService)> {
        if self.is_cut(from, to) {
            return None;
        }
        let listening = self.listening();
        listening.processes.get(to).filter(|(process, _)| !process.is_dead()).cloned()
    }

    /// Carries one call and its answer.
    async fn call(&self, from: &Process, to: &str, request: Request<Body>) -> Carried {
        let number = {
            let mut messages = self.messages.lock().unwrap();
            *messages += 1;
            *messages
        };
        if from.is_dead() {
            std::future::pending::<()>().await;
        }
        sleep(from.still_stopped()).await;
        let rates = self.rates();
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let path = parts.uri.path().to_owned();
        let note = |what: &str| {
            trace::note(&from.name, format_args!("#{number} {what} {to}{path}"));
        };
        let bare = bytes.get(5..).unwrap_or_default();
        trace::note(
            &from.name,
            format_args!("#{number} -> {to}{path} {}", Content { path: &path, bytes: bare }),
        );
        let metadata = MetadataMap::from_headers(parts.headers.clone());
        let time = rpc::deadline::of(&metadata).unwrap_or(Duration::from_mins(2));
        // Without a key, a call that arrives twice counts as two calls.
        let may_double = if rates.applies_alone {
            path.ends_with("/Apply")
        } else {
            parts.headers.contains_key("idempotency-key") || !is_rest(&path)
        };
        let copy = move || Request::from_parts(parts.clone(), whole(bytes.clone()));
        if may_double && self.dice(rates.doubled) {
            if let Some(key) = metadata.get("idempotency-key") {
                self.copied.lock().unwrap().insert(key.to_str().unwrap().to_owned());
            }
            let (network, from, to, twin) = (self.clone(), from.clone(), to.to_owned(), copy());
            tokio::spawn(async move {
                let (least, most) = rates.double_ms;
                sleep(Duration::from_millis(least) + network.delay(most - least)).await;
                trace::note(&from.name, format_args!("#{number} -> {to} once more"));
                // Nobody reads the second answer.
                let _unread = network.arrive(&from, &to, twin).await;
            });
        }
        let exchange = async {
            if self.dice(rates.request_lost) {
                note("is lost on the way to");
                sleep(time.min(NOTICED)).await;
                return Err("lost".into());
            }
            sleep(self.delay(rates.delay_ms)).await;
            let response = self.arrive(from, to, copy()).await?;
            if self.dice(rates.reply_lost) || self.is_cut(to, &from.name) {
                note("is lost on the way back from");
                sleep(time.min(NOTICED)).await;
                return Err("lost".into());
            }
            sleep(self.delay(rates.delay_ms)).await;
            Ok(response)
        };
        let outcome = timeout(time, exchange).await;
        if from.is_dead() {
            std::future::pending::<()>().await;
        }
        sleep(from.still_stopped()).await;
        let outcome = outcome.unwrap_or_else(|_| Err("time is over".into()));
        note(if outcome.is_ok() { "<-" } else { "<- nothing from" });
        outcome
    }

    /// Has the target handle a request. As over a real network, the target goes on if the caller is
    /// gone.
    async fn arrive(&self, from: &Process, to: &str, request: Request<Body>) -> Carried {
        let target = self.target(&from.name, to);
        let (process, mut service) = target.ok_or("connection refused")?;
        let handler = process.clone();
        let handled = tokio::spawn(async move {
            sleep(handler.still_stopped()).await;
            let response = service.ready().await?.call(request).await?;
            // Reads the whole body, so that the answer no longer depends on the target.
            let (parts, body) = response.into_parts();
            let body = body.collect().await?;
            sleep(handler.still_stopped()).await;
            Ok::<_, BoxError>((parts, body))
        });
        tokio::select! {
            biased;
            () = process.died() => Err("connection reset".into()),
            handled = handled => {
                let (parts, body) = handled??;
                Ok(Response::from_parts(parts, Body::new(body)))
            }
        }
    }
}

/// True for a path of the bridge, false for a gRPC method.
fn is_rest(path: &str) -> bool {
    !path.starts_with("/till.")
}

/// A message in readable form: an Apply's operations, or else the length.
struct Content<'a> {
    path: &'a str,
    bytes: &'a [u8],
}

impl fmt::Display for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let apply = self.path.ends_with("/Apply") && trace::is_read();
        let Some(Ok(apply)) = apply.then(|| <ApplyRequest as prost::Message>::decode(self.bytes))
        else {
            return write!(f, "({} bytes)", self.bytes.len());
        };
        for operation in apply.operations {
            let (name, tx) = match operation.operation {
                Some(Op::Prepare(op)) => ("prepare", op.tx.map(|tx| tx.tx_id)),
                Some(Op::Commit(op)) => ("commit", op.tx.map(|tx| tx.tx_id)),
                Some(Op::Abort(op)) => ("abort", op.tx.map(|tx| tx.tx_id)),
                Some(Op::Query(op)) if op.fence => ("fence", op.tx.map(|tx| tx.tx_id)),
                Some(Op::Query(op)) => ("query", op.tx.map(|tx| tx.tx_id)),
                Some(Op::Forget(op)) => ("forget", Some(op.tx_id)),
                Some(Op::Read(_)) => ("read", None),
                Some(Op::Refuse(_)) => ("refuse", None),
                None => ("nothing", None),
            };
            let tail: Vec<u8> = tx.unwrap_or_default().into_iter().skip(12).collect();
            write!(f, " {name} {}", storage::codec::hex(&tail))?;
        }
        Ok(())
    }
}

/// A body that is complete at once.
fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes).map_err(|never: std::convert::Infallible| match never {}))
}
