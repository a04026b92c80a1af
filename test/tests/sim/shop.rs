//! A simulated shop: replicas of every role over one store, and a fate that disturbs, kills and
//! restarts them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coordinator::{Coordinator, Extras};
use http::{Request, Response};
use http_bridge::{Bridge, Settings};
use participant::{core::Domain, lane::LaneOptions, role::Parts};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::{
    net::Net,
    routing::{Router, Target},
};
use system_test::history::{
    calls::FOREIGN,
    people::{self, Habits},
};
use testkit::{MemKv, ORIGIN, SeededEntropy, TokioClock, mem::Stats};
use tokio::time::Instant;
use tonic::{body::Body, service::Routes};
use tower::{BoxError, Service, ServiceExt};
use types::{Clock, Entropy, Role};

use crate::{
    fate::{Fate, Rates, WildClock},
    network::{Network, Process, ProcessService},
    points::Points,
    trace,
};

/// Shards of every service: few, so that calls meet.
pub(crate) const SHARDS: u16 = 2;
/// All roles of the shop.
const ROLES: [&str; 5] = ["coordinator", "order", "stock", "payment", "bridge"];
/// The name of the foreign participant.
const POINTS: &str = "points-0:1";

/// The state of a replica that survives its processes.
struct Replica {
    process: Process,
    clock: WildClock,
    away: Arc<Mutex<Option<Instant>>>,
}

/// The whole shop.
pub(crate) struct Shop {
    pub(crate) network: Network,
    pub(crate) kv: MemKv,
    pub(crate) rates: Rates,
    truth: TokioClock,
    seed: u64,
    healed: Arc<AtomicBool>,
    replicas: Mutex<BTreeMap<String, Replica>>,
    starts: Mutex<u64>,
    pub(crate) points: Points,
}

impl Shop {
    /// Opens a shop, and starts its fate.
    pub(crate) fn open(seed: u64, rates: Rates) -> Arc<Self> {
        let truth = TokioClock::default();
        let shop = Arc::new(Self {
            network: Network::new(seed, rates.net),
            kv: MemKv::new(Arc::new(truth)),
            truth,
            rates,
            seed,
            healed: Arc::default(),
            replicas: Mutex::default(),
            starts: Mutex::default(),
            points: Points::new(),
        });
        for role in ROLES {
            for replica in 0..shop.rates.replicas {
                shop.start(&name(role, replica));
            }
        }
        if shop.rates.habits.foreign {
            shop.start(POINTS);
        }
        tokio::spawn(Arc::clone(&shop).fate());
        shop
    }

    /// Ends all trouble. Processes that are dead are still restarted.
    pub(crate) fn heal(&self) {
        trace::note(&"fate", format_args!("leaves everybody alone"));
        self.healed.store(true, Ordering::Relaxed);
        self.network.heal();
        for replica in self.replicas.lock().unwrap().values() {
            replica.clock.error_ms.store(0, Ordering::Relaxed);
            *replica.away.lock().unwrap() = None;
        }
    }

    /// Numbers of messages, process starts, store operations, and elapsed milliseconds.
    pub(crate) fn numbers(&self) -> (u64, u64, Stats, u64) {
        let elapsed = self.truth.now().since(ORIGIN);
        (self.network.messages(), *self.starts.lock().unwrap(), self.kv.stats(), elapsed)
    }

    /// Restarts the dead processes, and disturbs the living ones.
    async fn fate(self: Arc<Self>) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0xfa7e);
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..500))).await;
            let dead: Vec<String> = {
                let replicas = self.replicas.lock().unwrap();
                let dead = replicas.values().filter(|replica| replica.process.is_dead());
                dead.map(|replica| replica.process.name.clone()).collect()
            };
            for name in dead {
                self.start(&name);
            }
            if !self.healed.load(Ordering::Relaxed) {
                self.plague(&mut rng);
            }
        }
    }

    fn plague(&self, rng: &mut ChaCha8Rng) {
        let replicas = self.replicas.lock().unwrap();
        let names: Vec<&String> = replicas.keys().collect();
        let mut happens = |percent: u32| {
            let one = names[rng.random_range(0..names.len())];
            let other = names[rng.random_range(0..names.len())];
            let happens = rng.random_range(0..100) < percent;
            let time = Duration::from_millis(rng.random_range(10..6_000));
            happens.then_some((one, other, time))
        };
        if let Some((one, other, time)) = happens(self.rates.cut) {
            self.network.cut(one, other, time);
        }
        if let Some((one, _, time)) = happens(self.rates.island) {
            if time.as_millis() % 2 == 0 {
                self.network.isolate(one, time);
            } else {
                let ms = time.as_millis();
                trace::note(one, format_args!("cannot reach the store for {ms} ms"));
                *replicas[one].away.lock().unwrap() = Some(Instant::now() + time);
            }
        }
        if let Some((one, _, time)) = happens(self.rates.stop) {
            replicas[one].process.stop(time);
        }
        if let Some((one, _, time)) = happens(self.rates.jump) {
            let error = i64::try_from(time.as_millis()).unwrap() * 4 - 10_000;
            trace::note(one, format_args!("has a clock that is {error} ms wrong"));
            replicas[one].clock.error_ms.store(error, Ordering::Relaxed);
        }
    }

    fn start(&self, name: &str) {
        let start = {
            let mut starts = self.starts.lock().unwrap();
            *starts += 1;
            *starts
        };
        let mut replicas = self.replicas.lock().unwrap();
        let process = Process::start(name);
        trace::note(&name, format_args!("starts"));
        let replica = replicas.entry(name.to_owned()).or_insert_with(|| Replica {
            process: process.clone(),
            clock: WildClock { truth: self.truth, error_ms: Arc::new(AtomicI64::new(0)) },
            away: Arc::default(),
        });
        replica.process = process.clone();
        let stream = self.seed.wrapping_mul(1_000_003) ^ start;
        if name == POINTS {
            let death = (self.rates.death, &self.healed);
            let served = self.points.serve(&process, self.truth, stream, death);
            let net = self.network.of(&process);
            let coordinators = (0..self.rates.replicas)
                .map(|replica| net.connect(&self::name("coordinator", replica).parse().unwrap()))
                .collect();
            tokio::spawn(self.points.clone().ask(process.clone(), self.truth, coordinators));
            return self.network.listen(process, process_service(Routes::new(served)));
        }
        let away = Arc::clone(&replica.away);
        let fate = Fate::new(&process, stream, &self.rates, away, Arc::clone(&self.healed));
        let seams = Seams {
            kv: self.kv.with_faults(Arc::new(fate)).process(u32::try_from(start).unwrap()),
            net: self.network.of(&process),
            clock: Arc::new(replica.clock.clone()),
            entropy: Arc::new(SeededEntropy::new(stream ^ 3)),
            known: self.known(name),
            retention_ms: self.rates.retention_ms,
            vote_window_ms: self.rates.vote_window_ms,
            foreign: self.rates.habits.foreign,
            request: Duration::from_millis(self.rates.request_ms),
        };
        self.network.listen(process, seams.service(name.split_once('-').unwrap().0));
    }

    /// Which replicas of each role this process knows.
    fn known(&self, name: &str) -> Known {
        let all = self.rates.replicas;
        if !self.rates.stray {
            return Known { from: 0, to: all };
        }
        // Routes that do not agree: some know only the first replica, some only the last, some all.
        let hash =
            name.bytes().fold(self.seed, |hash, byte| hash * 31 % 1_000_003 + u64::from(byte));
        match hash % 3 {
            0 => Known { from: 0, to: 1 },
            1 => Known { from: all - 1, to: all },
            _ => Known { from: 0, to: all },
        }
    }
}

impl people::Shop for Shop {
    fn net(&self, client: &str) -> Arc<dyn Net> {
        self.network.of(&Process::start(client))
    }

    fn replicas(&self, role: &str) -> Vec<String> {
        (0..self.rates.replicas).map(|replica| name(role, replica)).collect()
    }

    fn shards(&self) -> u16 {
        SHARDS
    }

    fn habits(&self) -> Habits {
        self.rates.habits
    }

    fn may_come_late(&self, key: &str) -> bool {
        self.network.may_come_late(key)
    }

    fn note(&self, client: &str, what: std::fmt::Arguments<'_>) {
        trace::note(&client, what);
    }
}

/// The range of replicas that a process knows.
#[derive(Debug, Clone, Copy)]
struct Known {
    from: u8,
    to: u8,
}

impl Known {
    fn target(self, role: &str) -> Target {
        let names: Vec<String> = (self.from..self.to).map(|replica| name(role, replica)).collect();
        names.join(",").parse().unwrap()
    }
}

/// A process's access to the world.
struct Seams {
    kv: MemKv,
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    known: Known,
    retention_ms: u64,
    vote_window_ms: u64,
    foreign: bool,
    request: Duration,
}

impl Seams {
    fn service(self, role: &str) -> ProcessService {
        match role {
            "bridge" => process_service(self.bridge().router()),
            "coordinator" => process_service(self.coordinator()),
            "order" => {
                let stock = self.known.target("stock");
                process_service(order::routes(&self.parts(order::records::Orders), stock))
            }
            "stock" => process_service(stock::routes(&self.parts(stock::records::Stock))),
            _ => process_service(payment::routes(&self.parts(payment::records::Payment))),
        }
    }

    fn bridge(self) -> Bridge {
        let router = |role| Router::new(self.known.target(role), Arc::clone(&self.net));
        let shop = [Role::Order, Role::Stock, Role::Payment, Role::Coordinator]
            .map(|role| (role, router(role.name())))
            .into_iter()
            .collect();
        let settings = Settings {
            request_timeout: self.request,
            batch_init_timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(4).min(self.request / 2),
            in_flight_max: 1_000,
            trust_request_id: false,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        };
        Bridge::new(shop, settings, self.clock, self.entropy)
    }

    fn coordinator(self) -> Routes {
        let settings = coordinator::Settings {
            services: [Role::Order, Role::Stock, Role::Payment]
                .map(|role| (role, self.known.target(role.name())))
                .into_iter()
                .collect(),
            request_id_retention_ms: 600_000,
            vote_window_ms: self.vote_window_ms,
            batch_calls_max: None,
        };
        let kv = self.kv.shared();
        let points = self.foreign.then(|| format!("{FOREIGN}={POINTS}").parse().unwrap());
        let extras = Extras { participants: points.into_iter().collect(), ..Extras::default() };
        let (net, clock, entropy) = (&self.net, self.clock, self.entropy);
        coordinator::routes(Coordinator::new(&settings, &extras, net, kv, clock, entropy))
    }

    fn parts<D: Domain>(self, domain: D) -> Parts<D> {
        let net = Arc::clone(&self.net);
        let parts = Parts::new(domain, net, self.entropy);
        let coordinator = Router::new(self.known.target("coordinator"), self.net);
        let opening = parts.clone();
        tokio::spawn(async move {
            let mut options = LaneOptions::default();
            options.limits.retention_ms = self.retention_ms;
            let kv = self.kv.shared();
            opening.open(kv, Some(SHARDS), self.clock, coordinator, options).await.unwrap();
        });
        parts
    }
}

/// A role's service as its process answers with it.
fn process_service<S, B>(service: S) -> ProcessService
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + Sync + 'static,
    B: tonic::transport::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let answered = |response: Response<B>| response.map(|body| Body::new(body));
    ProcessService::new(service.map_response(answered).map_err(Into::into))
}

/// The name of a replica, which is also its endpoint.
pub(crate) fn name(role: &str, replica: u8) -> String {
    format!("{role}-{replica}:1")
}
