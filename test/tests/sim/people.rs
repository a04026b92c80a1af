//! Clients who use the shop, and a history of everything that they asked and were told.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use futures::future::join_all;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::net::{Net, Transport};
use tokio::time::{Instant, sleep};

use crate::{
    calls::{Ask, Attempt, DRAWN, ITEMS, Said, USERS},
    models::Order,
    network::Process,
    shop::{Shop, name},
    trace,
};

/// Units of every item and credit of every user to begin with.
pub(crate) const STOCK: u64 = 6;
pub(crate) const CREDIT: u64 = 12;
const BUYERS: u64 = 5;
const DEEDS: u64 = 4;
/// Longest that somebody asks again; everything heals long before.
const PATIENCE: Duration = Duration::from_mins(5);

/// One call of a client, retries included.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) ask: Ask,
    /// Steps of a clock that all clients share.
    pub(crate) began: u64,
    /// None when the outcome is unknown.
    pub(crate) ended: Option<u64>,
    pub(crate) said: Option<Said>,
    /// Asked when nothing was in trouble any more and nothing was under way.
    pub(crate) quiet: bool,
}

/// Everything that was asked and said.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
    step: u64,
    quiet: bool,
}

/// The history as clients share it.
pub(crate) type Book = Rc<RefCell<History>>;

/// How a client reaches the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The bridge, with an Idempotency-Key for each call.
    Keyed,
    /// The bridge, without: an unknown outcome stays unknown.
    Bare,
    /// The services themselves, with an id as the bridge mints them.
    Minted,
}

struct Client<'a> {
    shop: &'a Shop,
    net: Arc<dyn Net>,
    wires: BTreeMap<String, Transport>,
    rng: ChaCha8Rng,
    name: String,
    way: Way,
    calls: u64,
    book: Book,
}

impl<'a> Client<'a> {
    fn new(shop: &'a Shop, book: &Book, seed: u64, number: u64) -> Self {
        let name = format!("client-{number}");
        let way = match number % 3 {
            0 => Way::Minted,
            1 => Way::Keyed,
            _ => Way::Bare,
        };
        Self {
            shop,
            net: shop.network.of(&Process::start(&name)),
            wires: BTreeMap::new(),
            rng: ChaCha8Rng::seed_from_u64(seed.wrapping_mul(31) ^ number),
            name,
            way,
            calls: 0,
            book: Rc::clone(book),
        }
    }

    /// Any replica: routes need not agree.
    fn wire(&mut self, role: &str) -> Transport {
        let replica = self.rng.random_range(0..self.shop.rates.replicas);
        let endpoint = name(role, replica);
        let net = &self.net;
        let connect = |endpoint: &String| net.connect(&endpoint.parse().unwrap());
        self.wires.entry(endpoint).or_insert_with_key(connect).clone()
    }

    /// Asks until it is answered, or until the client has had enough. Every repetition has the same id.
    async fn ask(&mut self, ask: Ask) -> Option<Said> {
        self.calls += 1;
        let (began, quiet) = {
            let mut book = self.book.borrow_mut();
            book.step += 1;
            (book.step, book.quiet)
        };
        trace::note(&self.name, format_args!("asks {ask:?}"));
        let gives_up = !quiet && self.rng.random_range(0..100) < self.shop.rates.gives_up;
        let patience = if gives_up {
            Duration::from_millis(self.rng.random_range(1..3_000))
        } else {
            PATIENCE
        };
        // It goes on in the shop when nobody listens any more.
        let attempt = tokio::time::timeout(patience, self.repeat(&ask)).await;
        let attempt = attempt.unwrap_or(Attempt::Unknown);
        trace::note(&self.name, format_args!("{ask:?} came to {attempt:?}"));
        let mut book = self.book.borrow_mut();
        book.step += 1;
        let ended = Some(book.step);
        let (ended, said) = match attempt {
            Attempt::Said(said) => (ended, Some(said)),
            Attempt::Unknown if !ask.is_read() => (None, None),
            Attempt::Unknown | Attempt::Nothing => return None,
        };
        if self.way == Way::Keyed && !quiet && matches!(said, Some(Said::Refused(..))) {
            // A refusal under a key that the client chose does not bind what is still on its way.
            let late = Entry { ask: ask.clone(), began, ended: None, said: None, quiet };
            book.entries.push(late);
        }
        book.entries.push(Entry { ask, began, ended, said: said.clone(), quiet });
        said
    }

    async fn repeat(&mut self, ask: &Ask) -> Attempt {
        let began = Instant::now();
        let id = match self.way {
            Way::Minted => {
                format!("{}{}-{}", types::RequestId::MINTED_PREFIX, self.name, self.calls)
            }
            Way::Keyed | Way::Bare => format!("{}-{}", self.name, self.calls),
        };
        let mut unknown = false;
        loop {
            let attempt = match self.way {
                Way::Minted => {
                    let time = Duration::from_millis(self.rng.random_range(2_000..8_000));
                    ask.grpc(self.wire(ask.role()), &id, time).await
                }
                Way::Keyed => ask.rest(self.wire("bridge"), Some(&id)).await,
                Way::Bare => ask.rest(self.wire("bridge"), None).await,
            };
            unknown |= attempt == Attempt::Unknown;
            // Without a key a repetition would be a new call.
            let may_repeat = self.way != Way::Bare || ask.is_read() || !unknown;
            match attempt {
                Attempt::Said(_) => return attempt,
                Attempt::Nothing | Attempt::Unknown if !may_repeat => return Attempt::Unknown,
                Attempt::Nothing | Attempt::Unknown if began.elapsed() > PATIENCE => {
                    return if unknown { Attempt::Unknown } else { Attempt::Nothing };
                }
                Attempt::Nothing | Attempt::Unknown => {}
            }
            sleep(Duration::from_millis(self.rng.random_range(1..300))).await;
        }
    }

    /// Fills the shop.
    async fn fill(&mut self) {
        for ask in [Ask::InitStock(STOCK), Ask::InitUsers(CREDIT), Ask::InitOrders] {
            while self.ask(ask.clone()).await != Some(Said::Done) {}
        }
    }

    /// An order of an own choice; none when nobody knows what became of it.
    async fn new_order(&mut self) -> Option<String> {
        // User 0 is for the drawn orders alone, the last one is for those who never check out.
        let user = self.rng.random_range(1..USERS - 1);
        let Some(Said::Id(order)) = self.ask(Ask::CreateOrder(user)).await else { return None };
        for _ in 0..self.rng.random_range(1..3) {
            let item = self.rng.random_range(1..ITEMS - 1);
            let units = self.rng.random_range(1..3);
            self.ask(Ask::AddItem(order.clone(), item, units)).await;
        }
        if self.rng.random_bool(0.1) {
            let item = self.rng.random_range(1..ITEMS - 1);
            self.ask(Ask::RemoveItem(order.clone(), item)).await;
        }
        if self.rng.random_bool(0.05) {
            self.ask(Ask::RemoveOrder(order.clone())).await;
        }
        Some(order)
    }

    /// One thing that people do.
    async fn deed(&mut self, orders: &RefCell<Vec<String>>) {
        let (item, user) = (self.rng.random_range(0..ITEMS), self.rng.random_range(0..USERS));
        let amount = self.rng.random_range(1..4);
        match self.rng.random_range(0..14) {
            0 => drop(self.ask(Ask::AddStock(item, amount)).await),
            1 => drop(self.ask(Ask::Subtract(item, amount)).await),
            2 => drop(self.ask(Ask::AddFunds(user, amount)).await),
            3 => drop(self.ask(Ask::Pay(user, amount)).await),
            4 => drop(self.ask(Ask::FindItem(item)).await),
            5 => drop(self.ask(Ask::FindUser(user)).await),
            6 | 7 => {
                let order = self.rng.random_range(0..DRAWN).to_string();
                self.buy(order).await;
            }
            8 | 9 => {
                // Somebody else's, perhaps while they check it out.
                let order = {
                    let orders = orders.borrow();
                    let any = self.rng.random_range(0..=orders.len());
                    orders.get(any).cloned()
                };
                if let Some(order) = order {
                    if self.rng.random_bool(0.3) {
                        self.ask(Ask::AddItem(order.clone(), 1, 1)).await;
                    }
                    self.buy(order).await;
                }
            }
            _ => {
                let Some(order) = self.new_order().await else { return };
                orders.borrow_mut().push(order.clone());
                self.buy(order).await;
            }
        }
    }

    async fn buy(&mut self, order: String) {
        for _ in 0..self.rng.random_range(1..3) {
            self.ask(Ask::Checkout(order.clone())).await;
            self.ask(Ask::FindOrder(order.clone())).await;
        }
    }

    /// Overwrites things while others use them.
    async fn batch_init(&mut self, done: &RefCell<u64>) {
        let rates = &self.shop.rates;
        while *done.borrow() < BUYERS {
            sleep(Duration::from_millis(500)).await;
            if self.rng.random_range(0..100) >= rates.init {
                continue;
            }
            let amount = self.rng.random_range(0..8);
            match self.rng.random_range(0..3) {
                0 if rates.draws => drop(self.ask(Ask::InitOrders).await),
                0 | 1 => drop(self.ask(Ask::InitStock(amount)).await),
                _ => drop(self.ask(Ask::InitUsers(2 * amount)).await),
            }
        }
    }
}

/// Fills the shop and lets everybody use it.
pub(crate) async fn live(shop: &Shop, seed: u64) -> Book {
    let book = Book::default();
    Client::new(shop, &book, seed, 0).fill().await;
    let (orders, done) = (RefCell::default(), RefCell::new(0));
    let buyers = (1..=BUYERS).map(|number| {
        let (book, orders, done) = (&book, &orders, &done);
        async move {
            let mut client = Client::new(shop, book, seed, number);
            for _ in 0..DEEDS {
                client.deed(orders).await;
            }
            *done.borrow_mut() += 1;
        }
    });
    let mut officer = Client::new(shop, &book, seed, 97);
    futures::join!(join_all(buyers), officer.batch_init(&done));
    book
}

/// After everything is quiet: looks at everything, buys what can be bought, and looks again. Returns all
/// orders, as they stand, and whose they are.
pub(crate) async fn close(shop: &Shop, book: &Book, seed: u64) -> BTreeMap<String, (Order, u64)> {
    book.borrow_mut().quiet = true;
    let mut client = Client::new(shop, book, seed, 999);
    let made = book.borrow().made();
    let mut orders = BTreeMap::new();
    for round in 0..2 {
        for item in 0..ITEMS {
            client.ask(Ask::FindItem(item)).await;
        }
        for user in 0..USERS {
            client.ask(Ask::FindUser(user)).await;
        }
        for order in made.iter().cloned().chain((0..DRAWN).map(|order| order.to_string())) {
            let said = client.ask(Ask::FindOrder(order.clone())).await;
            let Some(Said::Order(found, user)) = said else { continue };
            if round == 0 && !found.paid {
                client.ask(Ask::Checkout(order.clone())).await;
            }
            orders.insert(order, (found, user));
        }
    }
    orders
}

impl History {
    /// Orders that somebody made, as far as anybody was told.
    fn made(&self) -> Vec<String> {
        let id = |entry: &Entry| match &entry.said {
            Some(Said::Id(order)) => Some(order.clone()),
            _ => None,
        };
        self.entries.iter().filter_map(id).collect()
    }
}
