//! A network that loses, doubles, delays and cuts off, and processes that die behind it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::net::{Endpoint, Net, NetError, Transport, in_process};
use tokio::{sync::watch, time::sleep};
use tonic::{body::Body, metadata::MetadataMap, service::Routes};
use tower::{Service, ServiceExt, service_fn};

/// How often messages are in trouble, in messages per thousand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetRates {
    pub(crate) request_lost: u32,
    pub(crate) reply_lost: u32,
    pub(crate) doubled: u32,
    /// Held back for up to four seconds.
    pub(crate) late: u32,
    /// Greatest ordinary delay, in milliseconds, each way.
    pub(crate) delay_ms: u64,
}

/// A process: one start of one replica. Dead for good once it is dead.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) name: String,
    death: watch::Sender<bool>,
}

impl Process {
    pub(crate) fn start(name: &str) -> Self {
        Self { name: name.to_owned(), death: watch::Sender::new(false) }
    }

    pub(crate) fn is_dead(&self) -> bool {
        *self.death.borrow()
    }

    pub(crate) fn kill(&self) {
        self.death.send_replace(true);
    }

    pub(crate) async fn died(&self) {
        let mut death = self.death.subscribe();
        // An error means that the process is gone for good.
        let _gone = death.wait_for(|dead| *dead).await;
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(Default)]
struct Listening {
    processes: BTreeMap<String, (Process, Routes)>,
    /// Pairs that cannot reach each other, until then.
    cuts: BTreeMap<(String, String), tokio::time::Instant>,
}

/// The network of one simulated shop.
#[derive(Clone)]
pub(crate) struct Network {
    listening: Arc<Mutex<Listening>>,
    rng: Arc<Mutex<ChaCha8Rng>>,
    rates: Arc<Mutex<NetRates>>,
    messages: Arc<Mutex<u64>>,
}

impl Network {
    pub(crate) fn new(seed: u64, rates: NetRates) -> Self {
        Self {
            listening: Arc::default(),
            rng: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))),
            rates: Arc::new(Mutex::new(rates)),
            messages: Arc::default(),
        }
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap()
    }

    /// How many messages there were.
    pub(crate) fn messages(&self) -> u64 {
        *self.messages.lock().unwrap()
    }

    /// No trouble from now on.
    pub(crate) fn heal(&self) {
        *self.rates.lock().unwrap() =
            NetRates { request_lost: 0, reply_lost: 0, doubled: 0, late: 0, delay_ms: 1 };
        self.listening().cuts.clear();
    }

    /// Puts a process behind its name, in place of the one before.
    pub(crate) fn listen(&self, process: Process, routes: Routes) {
        self.listening().processes.insert(process.name.clone(), (process, routes));
    }

    /// Two names cannot reach each other for a while.
    pub(crate) fn cut(&self, one: &str, other: &str, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        let mut listening = self.listening();
        for pair in [(one, other), (other, one)] {
            listening.cuts.insert((pair.0.to_owned(), pair.1.to_owned()), until);
        }
    }

    /// The network as a process sees it.
    pub(crate) fn of(&self, process: &Process) -> Arc<dyn Net> {
        Arc::new(View { network: self.clone(), process: process.clone() })
    }

    fn dice(&self, per_thousand: u32) -> bool {
        self.rng.lock().unwrap().random_range(0..1_000) < per_thousand
    }

    fn delay(&self) -> Duration {
        let rates = *self.rates.lock().unwrap();
        let late = self.dice(rates.late);
        let mut rng = self.rng.lock().unwrap();
        let most = if late { 4_000 } else { rates.delay_ms };
        Duration::from_millis(rng.random_range(0..=most))
    }

    fn target(&self, from: &str, to: &str) -> Option<(Process, Routes)> {
        let listening = self.listening();
        let cut = listening.cuts.get(&(from.to_owned(), to.to_owned()));
        if cut.is_some_and(|until| *until > tokio::time::Instant::now()) {
            return None;
        }
        listening.processes.get(to).filter(|(process, _)| !process.is_dead()).cloned()
    }

    /// Carries one call there and back.
    async fn call(
        &self,
        from: &Process,
        to: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, NetError> {
        *self.messages.lock().unwrap() += 1;
        if from.is_dead() {
            std::future::pending::<()>().await;
        }
        let rates = *self.rates.lock().unwrap();
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.map_err(NetError::new)?.to_bytes();
        let metadata = MetadataMap::from_headers(parts.headers.clone());
        let time = rpc::deadline::of(&metadata).unwrap_or(Duration::from_mins(1));
        let copy = move || {
            let body =
                Body::new(Full::new(bytes.clone()).map_err(|never: Infallible| match never {}));
            Request::from_parts(parts.clone(), body)
        };
        if self.dice(rates.doubled) {
            let (network, from, to, twin) = (self.clone(), from.clone(), to.to_owned(), copy());
            tokio::spawn(async move {
                sleep(network.delay()).await;
                // The second answer goes nowhere.
                let _unread = network.arrive(&from, &to, twin).await;
            });
        }
        let exchange = async {
            if self.dice(rates.request_lost) {
                std::future::pending::<()>().await;
            }
            sleep(self.delay()).await;
            let response = self.arrive(from, to, copy()).await?;
            if self.dice(rates.reply_lost) {
                std::future::pending::<()>().await;
            }
            sleep(self.delay()).await;
            Ok(response)
        };
        // What is lost is noticed when the time is over, or when the connection is.
        let lost = time.min(Duration::from_secs(3));
        let outcome = tokio::time::timeout(lost, exchange).await;
        if from.is_dead() {
            std::future::pending::<()>().await;
        }
        outcome.unwrap_or_else(|_| Err(NetError::new("lost")))
    }

    /// Has the target handle a request; it goes on when the caller is gone, as over a real network.
    async fn arrive(
        &self,
        from: &Process,
        to: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, NetError> {
        let (process, mut routes) =
            self.target(&from.name, to).ok_or_else(|| NetError::new("connection refused"))?;
        let handled = tokio::spawn(async move {
            let routes: &mut Routes = ServiceExt::<Request<Body>>::ready(&mut routes).await?;
            let response = routes.call(request).await?;
            // All of it, so that the answer does not depend on the target any more.
            let (parts, body) = response.into_parts();
            let body = body.collect().await?;
            Ok::<_, tower::BoxError>((parts, body))
        });
        tokio::select! {
            biased;
            () = process.died() => Err(NetError::new("connection reset")),
            handled = handled => {
                let (parts, body) = handled.map_err(NetError::new)?.map_err(NetError::new)?;
                Ok(Response::from_parts(parts, Body::new(body)))
            }
        }
    }
}

#[derive(Clone)]
struct View {
    network: Network,
    process: Process,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Net for View {
    fn connect(&self, endpoint: &Endpoint) -> Transport {
        let (view, to) = (self.clone(), endpoint.to_string());
        in_process(service_fn(move |request: Request<Body>| {
            let (view, to) = (view.clone(), to.clone());
            async move { view.network.call(&view.process, &to, request).await }
        }))
    }
}
