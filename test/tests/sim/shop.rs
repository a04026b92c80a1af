//! A simulated shop: two replicas of every role over one store, and a fate that kills and restarts them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use coordinator::service::Coordinator;
use participant::{domain::Domain, lane::LaneOptions, role::Parts, shards::Retention};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::{
    net::Net,
    routing::{Router, Target},
};
use storage::{
    codec,
    keys::{Kind, Owner, Space},
    mem::{
        After, Call, Chaos, ChaosRates, Faults, MemKv, Op, Plan, SeededEntropy, TokioClock, Verdict,
    },
    record::{JournalEntry, tx_event::Event},
};
use tonic::service::Routes;
use types::{Clock, Entropy, ShardId, UnixMillis};

use crate::network::{NetRates, Network, Process};

/// Shards of every service: few, so that calls meet.
pub(crate) const SHARDS: u16 = 2;
/// Replicas of every role.
const REPLICAS: [u8; 2] = [0, 1];
/// Roles by name.
const ROLES: [&str; 4] = ["coordinator", "order", "stock", "payment"];

/// How bad a run is.
#[derive(Debug, Clone)]
pub(crate) struct Rates {
    net: NetRates,
    store: ChaosRates,
    /// Chance of a process to die at a call to the store, before or after its effect, in calls per ten
    /// thousand.
    death: u32,
    /// Chance of a cut between two processes in each half second, in percent.
    cut: u32,
}

impl Rates {
    /// Every seed is bad in its own way: some in everything, some in one thing, some in nothing.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let mut some =
            |most: u32| if rng.random_bool(0.6) { rng.random_range(0..=most) } else { 0 };
        let net = NetRates {
            request_lost: some(60),
            reply_lost: some(60),
            doubled: some(80),
            late: some(20),
            delay_ms: u64::from(some(8)),
        };
        let store = ChaosRates {
            unavailable: some(20),
            locked: some(10),
            conflict: some(20),
            landed: some(40),
            lost: some(40),
            late: some(40),
            late_ms: 1..=3_000,
            delay_ms: 0..=u64::from(some(6)) + 1,
        };
        Self { net, store, death: some(25), cut: some(15) }
    }
}

/// Trouble at the store, and death.
#[derive(Debug)]
struct Fate {
    process: Process,
    chaos: Chaos,
    death: Mutex<(ChaCha8Rng, u32)>,
    healed: Arc<Mutex<bool>>,
}

impl Fate {
    fn dies(&self) -> bool {
        let healed = *self.healed.lock().unwrap();
        let mut death = self.death.lock().unwrap();
        let rate = death.1;
        if !healed && death.0.random_range(0..10_000) < rate {
            self.process.kill();
        }
        self.process.is_dead()
    }
}

impl Faults for Fate {
    fn before(&self, call: &Call<'_>) -> Plan {
        if self.dies() {
            return Plan::at_once(Verdict::Vanish);
        }
        if *self.healed.lock().unwrap() {
            return Plan { delay_before: Duration::from_millis(1), ..Plan::PROCEED };
        }
        self.chaos.before(call)
    }

    fn after(&self, call: &Call<'_>) -> After {
        // A commit is where death hurts.
        if call.op == Op::Commit && self.dies() { After::Vanish } else { After::Return }
    }
}

/// The whole shop.
pub(crate) struct Shop {
    pub(crate) network: Network,
    kv: MemKv,
    clock: Arc<dyn Clock>,
    rates: Rates,
    seed: u64,
    healed: Arc<Mutex<bool>>,
    processes: Mutex<BTreeMap<String, Process>>,
    starts: Mutex<u64>,
}

impl Shop {
    /// Opens a shop and leaves it to its fate.
    pub(crate) fn open(seed: u64, rates: Rates) -> Arc<Self> {
        let clock: Arc<dyn Clock> =
            Arc::new(TokioClock::starting_at(UnixMillis(1_700_000_000_000)));
        let shop = Arc::new(Self {
            network: Network::new(seed, rates.net),
            kv: MemKv::new(Arc::clone(&clock)),
            clock,
            rates,
            seed,
            healed: Arc::default(),
            processes: Mutex::default(),
            starts: Mutex::default(),
        });
        for role in ROLES {
            for replica in REPLICAS {
                shop.start(&name(role, replica));
            }
        }
        tokio::spawn(Arc::clone(&shop).fate());
        shop
    }

    /// No more trouble; whoever is dead is started once more.
    pub(crate) fn heal(&self) {
        *self.healed.lock().unwrap() = true;
        self.network.heal();
    }

    /// What happened, in numbers.
    pub(crate) fn trouble(&self) -> (u64, u64, storage::mem::Stats, u64) {
        let elapsed = self.clock.now().0;
        (self.network.messages(), *self.starts.lock().unwrap(), self.kv.stats(), elapsed)
    }

    /// Restarts the dead, and cuts the network here and there.
    async fn fate(self: Arc<Self>) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0xfa7e);
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..500))).await;
            let dead: Vec<String> = {
                let processes = self.processes.lock().unwrap();
                processes
                    .values()
                    .filter(|process| process.is_dead())
                    .map(|p| p.name.clone())
                    .collect()
            };
            for name in dead {
                self.start(&name);
            }
            if !*self.healed.lock().unwrap() && rng.random_range(0..100) < self.rates.cut {
                let names: Vec<String> = self.processes.lock().unwrap().keys().cloned().collect();
                let one = &names[rng.random_range(0..names.len())];
                let other = &names[rng.random_range(0..names.len())];
                self.network.cut(one, other, Duration::from_millis(rng.random_range(10..5_000)));
            }
        }
    }

    fn start(&self, name: &str) {
        let start = {
            let mut starts = self.starts.lock().unwrap();
            *starts += 1;
            *starts
        };
        let stream = self.seed.wrapping_mul(1_000_003) ^ start;
        let process = Process::start(name);
        let fate = Fate {
            process: process.clone(),
            chaos: Chaos::new(stream ^ 1, self.rates.store.clone()),
            death: Mutex::new((ChaCha8Rng::seed_from_u64(stream ^ 2), self.rates.death)),
            healed: Arc::clone(&self.healed),
        };
        let kv = self.kv.with_faults(Arc::new(fate)).process(u32::try_from(start).unwrap());
        let net = self.network.of(&process);
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(stream ^ 3));
        let role = name.split_once('-').unwrap().0;
        let routes = match role {
            "coordinator" => self.coordinator(&net, &kv, entropy),
            "order" => {
                let parts = self.parts(order::app::Orders, &net, kv, entropy);
                order::routes(&parts, target("stock"))
            }
            "stock" => stock::routes(&self.parts(stock::app::Stock, &net, kv, entropy)),
            _ => payment::routes(&self.parts(payment::app::Payment, &net, kv, entropy)),
        };
        self.network.listen(process.clone(), routes);
        self.processes.lock().unwrap().insert(name.to_owned(), process);
    }

    fn coordinator(&self, net: &Arc<dyn Net>, kv: &MemKv, entropy: Arc<dyn Entropy>) -> Routes {
        let settings = coordinator::Settings {
            order_endpoints: target("order"),
            stock_endpoints: target("stock"),
            payment_endpoints: target("payment"),
            request_id_retention_ms: 600_000,
            vote_window_ms: 2_000,
            batch_calls_max: None,
        };
        let clock = Arc::clone(&self.clock);
        coordinator::routes(Coordinator::new(&settings, net, kv.shared(), clock, entropy))
    }

    fn parts<D: Domain>(
        &self,
        domain: D,
        net: &Arc<dyn Net>,
        kv: MemKv,
        entropy: Arc<dyn Entropy>,
    ) -> Parts<D> {
        let parts = Parts::new(domain, Retention::default(), Arc::clone(net), entropy).unwrap();
        let coordinator = Router::new(target("coordinator"), Arc::clone(net));
        let (opening, clock) = (parts.clone(), Arc::clone(&self.clock));
        tokio::spawn(async move {
            let options = LaneOptions::default();
            opening.open(kv.shared(), Some(SHARDS), clock, coordinator, options).await.unwrap();
        });
        parts
    }

    /// I8: after quiet no vote is without its outcome.
    pub(crate) fn expect_nothing_unresolved(&self, seed: u64) {
        let contents = self.kv.contents();
        for owner in [Owner::Order, Owner::Stock, Owner::Payment] {
            for shard in (0..SHARDS).map(ShardId) {
                let range = Space::new(owner, shard).range(Kind::Journal);
                let mut open = BTreeSet::new();
                for (key, value) in contents.range(range) {
                    let entry: JournalEntry = codec::decode(key, value).unwrap();
                    for event in entry.events.into_iter().filter_map(|event| event.event) {
                        match event {
                            Event::Prepared(event) => {
                                open.insert(event.tx.unwrap().tx_id);
                            }
                            Event::Carried(event) if event.state == 2 => {
                                open.insert(event.tx.unwrap().tx_id);
                            }
                            Event::Decided(event) => {
                                open.remove(&event.tx_id);
                            }
                            Event::Fenced(_) | Event::Acknowledged(_) | Event::Carried(_) => {}
                        }
                    }
                }
                assert!(open.is_empty(), "SEED={seed} {owner:?}/{shard} is unresolved: {open:?}");
            }
        }
    }
}

fn name(role: &str, replica: u8) -> String {
    format!("{role}-{replica}:1")
}

/// Every replica of a role.
pub(crate) fn target(role: &str) -> Target {
    REPLICAS.map(|replica| name(role, replica)).join(",").parse().unwrap()
}
