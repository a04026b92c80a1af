//! Clients that use a shop and record everything that they asked and were told.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::net::{Net, Transport};
use tokio::time::{Instant, sleep};

use super::{
    Book, Entry,
    calls::{Ask, Attempt, DRAWN, ITEMS, Said, USERS},
    grpc::World,
    models::{Order, PRICE},
};

/// Initial units of every item, and then the initial credit of every user.
const STOCK: u64 = 6;
const CREDIT: u64 = 12;
const BUYERS: u64 = 5;
const DEEDS: u64 = 4;
/// People who act on one order at the same moment, and how often they do.
const CROWD: u64 = 7;
const MOMENTS: u64 = 3;
/// How many things a user pays for outside of checkouts.
const PAYMENTS: u64 = 2;
/// Longest time that a client repeats a call; any trouble is over long before.
const PATIENCE: Duration = Duration::from_mins(5);
/// The same for a minted id. These calls set no end, so services remember their results for a
/// minute.
const MINTED_PATIENCE: Duration = Duration::from_secs(40);

/// A shop as its clients see it.
pub trait Shop {
    /// The network as the client of this name sees it.
    fn net(&self, client: &str) -> Arc<dyn Net>;
    /// Endpoints of a role's replicas. Routes need not agree, so clients may use any.
    fn replicas(&self, role: &str) -> Vec<String>;
    /// Shards of every service.
    fn shards(&self) -> u16;
    /// How the clients behave.
    fn habits(&self) -> Habits;
    /// Whether a request with this key may arrive once more after it was answered.
    fn may_come_late(&self, key: &str) -> bool;
    /// Called for everything that a client does.
    fn note(&self, client: &str, what: fmt::Arguments<'_>);
}

/// How clients behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Percentage of calls that the client gives up on.
    pub gives_up: u32,
    /// Chance of a batch_init in each half second, in percent.
    pub init: u32,
    /// Whether batch_init draws orders, too.
    pub draws: bool,
    /// Chance, in percent, that a client's next action is done in a crowd.
    pub crowd: u32,
    /// Whether clients sell by transactions of their own, without an order. Such sales are in no
    /// order.
    pub sells: bool,
    /// Whether [`FOREIGN`](super::calls::FOREIGN) takes part in those transactions.
    pub foreign: bool,
}

/// How a client reaches the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The bridge, with an Idempotency-Key for each call.
    Keyed,
    /// The bridge, without a key: an unknown outcome stays unknown.
    Bare,
    /// The services themselves, with ids like those that the bridge mints.
    Minted,
}

struct Client<'a, S: Shop> {
    shop: &'a S,
    net: Arc<dyn Net>,
    wires: BTreeMap<String, Transport>,
    rng: ChaCha8Rng,
    name: String,
    way: Way,
    calls: u64,
    book: Book,
    /// Whether a request of the current call got no answer, and may still arrive.
    has_late: Cell<bool>,
    /// The tokens that this client was told, by order.
    tokens: BTreeMap<String, String>,
}

impl<'a, S: Shop> Client<'a, S> {
    fn new(shop: &'a S, book: &Book, seed: u64, number: u64) -> Self {
        let name = format!("client-{number}");
        let way = match number % 3 {
            0 => Way::Minted,
            1 => Way::Keyed,
            _ => Way::Bare,
        };
        Self {
            shop,
            net: shop.net(&name),
            wires: BTreeMap::new(),
            rng: ChaCha8Rng::seed_from_u64(seed.wrapping_mul(31) ^ number),
            name,
            way,
            calls: 0,
            book: Rc::clone(book),
            has_late: Cell::new(false),
            tokens: BTreeMap::new(),
        }
    }

    /// The id of the current call.
    fn key(&self) -> String {
        format!("{}-{}", self.name, self.calls)
    }

    /// A connection to a random replica.
    fn wire(&mut self, role: &str) -> Transport {
        let replicas = self.shop.replicas(role);
        let endpoint = replicas[self.rng.random_range(0..replicas.len())].clone();
        let net = &self.net;
        let connect = |endpoint: &String| net.connect(&endpoint.parse().unwrap());
        self.wires.entry(endpoint).or_insert_with_key(connect).clone()
    }

    /// Repeats the call under one id until it is answered or the client gives up.
    async fn ask(&mut self, ask: Ask) -> Option<Said> {
        self.calls += 1;
        let (began, quiet) = {
            let mut book = self.book.borrow_mut();
            (book.step(), book.quiet)
        };
        self.shop.note(&self.name, format_args!("asks {ask:?}"));
        let gives_up = !quiet && self.rng.random_range(0..100) < self.shop.habits().gives_up;
        let patience = if gives_up {
            Duration::from_millis(self.rng.random_range(1..3_000))
        } else {
            PATIENCE
        };
        // The call goes on in the shop after the client stops waiting.
        let attempt = tokio::time::timeout(patience, self.repeat(&ask)).await;
        let attempt = attempt.unwrap_or(Attempt::Unknown);
        self.shop.note(&self.name, format_args!("{ask:?} came to {attempt:?}"));
        let mut book = self.book.borrow_mut();
        let ended = Some(book.step());
        let (ended, said) = match attempt {
            Attempt::Said(said) => (ended, Some(said)),
            Attempt::Unknown if !ask.is_read() => (None, None),
            Attempt::Unknown | Attempt::Nothing => return None,
        };
        // A copy that arrives after the refusal of its key is a new call.
        let late = self.has_late.take() || self.shop.may_come_late(&self.key());
        if late && self.way == Way::Keyed && matches!(said, Some(Said::Refused(..))) {
            let ask = ask.clone();
            book.entries.push(Entry { ask, began, ended: None, said: None, quiet });
        }
        if let (Some(order), Some(Said::Order(_, _, token))) = (ask.order(), &said) {
            self.tokens.insert(order.to_owned(), token.clone());
        }
        book.entries.push(Entry { ask, began, ended, said: said.clone(), quiet });
        said
    }

    async fn repeat(&mut self, ask: &Ask) -> Attempt {
        let began = Instant::now();
        let id = self.key();
        // Over gRPC a plain id of the client's own does not tell a late copy from a new call.
        let minted = format!("{}{id}", types::RequestId::MINTED_PREFIX);
        let world = World { shards: self.shop.shards(), foreign: self.shop.habits().foreign };
        let is_minted = self.way == Way::Minted || !ask.is_rest();
        let patience = if is_minted && !ask.is_read() { MINTED_PATIENCE } else { PATIENCE };
        let mut unknown = false;
        loop {
            let attempt = match self.way {
                Way::Keyed if ask.is_rest() => ask.rest(self.wire("bridge"), Some(&id)).await,
                Way::Bare if ask.is_rest() => ask.rest(self.wire("bridge"), None).await,
                Way::Minted | Way::Keyed | Way::Bare => {
                    let time = Duration::from_millis(self.rng.random_range(2_000..8_000));
                    ask.grpc(self.wire(ask.role()), &minted, time, world).await
                }
            };
            unknown |= attempt == Attempt::Unknown;
            self.has_late.set(unknown);
            // Without a key a repetition would be a new call.
            let may_repeat = self.way != Way::Bare || ask.is_read() || !unknown;
            match attempt {
                Attempt::Said(_) => return attempt,
                Attempt::Nothing | Attempt::Unknown if !may_repeat => return Attempt::Unknown,
                Attempt::Nothing | Attempt::Unknown if began.elapsed() > patience => {
                    return if unknown { Attempt::Unknown } else { Attempt::Nothing };
                }
                Attempt::Nothing | Attempt::Unknown => {}
            }
            sleep(Duration::from_millis(self.rng.random_range(1..300))).await;
        }
    }

    /// Fills the shop with items, users and orders.
    async fn fill(&mut self) {
        for ask in [Ask::InitStock(STOCK), Ask::InitUsers(CREDIT), Ask::InitOrders] {
            while self.ask(ask.clone()).await != Some(Said::Done) {}
        }
    }

    /// Any user but 0, which owns the drawn orders, and the last, which never checks out.
    fn user(&mut self) -> u64 {
        self.rng.random_range(1..USERS - 1)
    }

    fn item(&mut self) -> u64 {
        self.rng.random_range(1..ITEMS - 1)
    }

    /// A new order with some items; none if its outcome is unknown.
    async fn new_order(&mut self) -> Option<String> {
        let user = self.user();
        let Some(Said::Id(order)) = self.ask(Ask::CreateOrder(user)).await else { return None };
        for _ in 0..self.rng.random_range(1..3) {
            let (item, units) = (self.item(), self.rng.random_range(1..3));
            self.ask(Ask::AddItem(order.clone(), item, units)).await;
        }
        if self.rng.random_bool(0.1) {
            let item = self.item();
            self.ask(Ask::RemoveItem(order.clone(), item)).await;
        }
        if self.rng.random_bool(0.05) {
            self.ask(Ask::RemoveOrder(order.clone())).await;
        }
        Some(order)
    }

    /// A call on an item or user, but on no order.
    fn call_without_order(&mut self) -> Ask {
        let (item, user) = (self.rng.random_range(0..ITEMS), self.rng.random_range(0..USERS));
        let (amount, what) = (self.rng.random_range(1..4), self.rng.random_range(0..PAYMENTS));
        match self.rng.random_range(0..15) {
            0 => Ask::AddStock(item, amount),
            1 => Ask::Subtract(item, amount),
            2 => Ask::AddFunds(user, amount),
            3 => Ask::Pay(user, amount),
            4 => Ask::FindItem(item),
            5 => Ask::FindUser(user),
            6 => Ask::PayFor(user, what),
            7 => Ask::Cancel(user, what),
            8 => Ask::FindPayment(user, what),
            9 => Ask::Misplan(user, item, amount),
            _ if self.shop.habits().sells => Ask::Sell(user, item, amount),
            10 => Ask::FindItem(item),
            _ => Ask::FindUser(user),
        }
    }

    /// One deed of a client.
    async fn deed(&mut self, orders: &RefCell<Vec<String>>) {
        if self.rng.random_range(0..100) < self.shop.habits().crowd {
            return self.crowd(orders).await;
        }
        match self.rng.random_range(0..15) {
            14 => self.come_late().await,
            0..=5 => {
                let ask = self.call_without_order();
                self.ask(ask).await;
            }
            6 | 7 => {
                let order = self.rng.random_range(0..DRAWN).to_string();
                self.buy(order).await;
            }
            8 | 9 => {
                // Another client's order, perhaps while that client checks it out.
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

    /// A checkout is refused, and what was missing arrives right after. The refusal must remain in
    /// effect.
    async fn come_late(&mut self) {
        let (user, item, units) = (self.user(), self.item(), STOCK + 1);
        let Some(Said::Id(order)) = self.ask(Ask::CreateOrder(user)).await else { return };
        self.ask(Ask::AddItem(order.clone(), item, units)).await;
        self.ask(Ask::Checkout(order.clone(), None)).await;
        self.ask(Ask::AddStock(item, units)).await;
        self.ask(Ask::AddFunds(user, units * PRICE)).await;
        sleep(Duration::from_millis(self.rng.random_range(0..3_000))).await;
        self.ask(Ask::FindOrder(order)).await;
        self.ask(Ask::Subtract(item, units)).await;
        self.ask(Ask::Pay(user, units * PRICE)).await;
    }

    /// Several clients use one order, its items and its user at the same moment, several times.
    async fn crowd(&mut self, orders: &RefCell<Vec<String>>) {
        let Some(order) = self.new_order().await else { return };
        orders.borrow_mut().push(order.clone());
        for _ in 0..MOMENTS {
            self.ask(Ask::FindOrder(order.clone())).await;
            let asks: Vec<_> = (0..CROWD).map(|_| self.at(&order)).collect();
            self.together(asks).await;
        }
    }

    /// A call of one of the crowd, on the order or on what it concerns.
    fn at(&mut self, order: &str) -> Ask {
        let order = order.to_owned();
        match self.rng.random_range(0..32) {
            0..=12 => Ask::AddItem(order, self.item(), 1),
            13 | 14 => Ask::RemoveItem(order, self.item()),
            15 => Ask::RemoveOrder(order),
            16..=23 => Ask::Checkout(order, None),
            24 | 25 => {
                let token = self.tokens.get(&order).cloned();
                Ask::Checkout(order, token)
            }
            26 | 27 => Ask::FindOrder(order),
            _ => self.call_without_order(),
        }
    }

    /// Makes all these calls at the same moment, each by a client of its own.
    async fn together(&mut self, asks: Vec<Ask>) {
        let people: Vec<_> = asks
            .into_iter()
            .map(|ask| {
                let number = self.rng.random_range(1_000..u64::MAX / 64);
                let mut one = Client::new(self.shop, &self.book, number, number);
                async move { one.ask(ask).await }
            })
            .collect();
        join_all(people).await;
    }

    async fn buy(&mut self, order: String) {
        for _ in 0..self.rng.random_range(1..3) {
            let seen = self.tokens.get(&order).cloned();
            let token = seen.filter(|_| self.rng.random_bool(0.5));
            self.ask(Ask::Checkout(order.clone(), token)).await;
            self.ask(Ask::FindOrder(order.clone())).await;
        }
    }

    /// A call on a drawn order while it is drawn again.
    fn at_drawn(&mut self, order: String) -> Ask {
        match self.rng.random_range(0..6) {
            0 => Ask::AddItem(order, 1, 1),
            1 => Ask::RemoveItem(order, 1),
            2 => Ask::RemoveOrder(order),
            _ => Ask::Checkout(order, None),
        }
    }

    /// Overwrites items while some are held for users who cannot pay and others are sold.
    async fn overwrite_holds(&mut self) {
        let dear = CREDIT / PRICE + 1;
        let (init, poor) = (Ask::InitStock(2 * dear), Ask::Sell(1, 1, dear));
        let first = [poor.clone(), init.clone(), poor.clone(), Ask::Subtract(1, dear)];
        let second = [poor.clone(), init, Ask::Subtract(1, dear), poor, Ask::FindItem(1)];
        for asks in [first.to_vec(), second.to_vec()] {
            self.together(asks).await;
        }
    }

    /// Overwrites records while others use them, sometimes several times at one moment.
    async fn batch_init(&mut self, done: &Cell<u64>) {
        let habits = self.shop.habits();
        while done.get() < BUYERS {
            sleep(Duration::from_millis(500)).await;
            if self.rng.random_range(0..100) >= habits.init {
                continue;
            }
            let amount = self.rng.random_range(0..8);
            let drawn = self.rng.random_range(0..DRAWN).to_string();
            let (init, use_) = match self.rng.random_range(0..4) {
                3 if habits.sells => {
                    self.overwrite_holds().await;
                    continue;
                }
                0 if habits.draws => (Ask::InitOrders, self.at_drawn(drawn)),
                0 | 1 if habits.sells => (Ask::InitStock(amount), Ask::Sell(1, 1, 1)),
                0 | 1 | 3 => (Ask::InitStock(amount), Ask::AddStock(1, 1)),
                _ => (Ask::InitUsers(2 * amount), Ask::PayFor(1, 0)),
            };
            if self.rng.random_range(0..100) < habits.crowd {
                let many = [init.clone(), use_.clone(), init, use_];
                self.together(many.to_vec()).await;
            } else {
                self.ask(init).await;
            }
        }
    }
}

/// Fills the shop and runs all its clients.
pub async fn live<S: Shop>(shop: &S, seed: u64) -> Book {
    let book = Book::default();
    Client::new(shop, &book, seed, 0).fill().await;
    let (orders, done) = (RefCell::default(), Cell::new(0));
    let buyers = (1..=BUYERS).map(|number| {
        let (book, orders, done) = (&book, &orders, &done);
        async move {
            let mut client = Client::new(shop, book, seed, number);
            for _ in 0..DEEDS {
                client.deed(orders).await;
            }
            done.set(done.get() + 1);
        }
    });
    let mut officer = Client::new(shop, &book, seed, 97);
    futures::join!(join_all(buyers), officer.batch_init(&done));
    book
}

/// Once everything is quiet: reads everything, buys what can be bought, and reads again. Returns
/// all orders as they stand, and their users.
pub async fn close<S: Shop>(shop: &S, book: &Book, seed: u64) -> BTreeMap<String, (Order, u64)> {
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
            client.ask(Ask::FindPayment(user, 0)).await;
        }
        for order in made.iter().cloned().chain((0..DRAWN).map(|order| order.to_string())) {
            let said = client.ask(Ask::FindOrder(order.clone())).await;
            let Some(Said::Order(found, user, _)) = said else { continue };
            if round == 0 && !found.paid {
                client.ask(Ask::Checkout(order.clone(), None)).await;
            }
            orders.insert(order, (found, user));
        }
    }
    orders
}
