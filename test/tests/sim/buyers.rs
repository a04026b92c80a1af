//! Clients who repeat every call until it is answered, and remember what they were told.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use futures::future::join_all;
use proto::{
    coordinator::v1::{CheckoutRequest, coordinator_service_client::CoordinatorServiceClient},
    order::v1::{
        self as order, AddItemRequest, CreateOrderRequest, GetOrderRequest,
        order_service_client::OrderServiceClient,
    },
    payment::v1::{
        self as payment, AddFundsRequest, GetUserRequest, PayRequest,
        payment_service_client::PaymentServiceClient,
    },
    stock::v1::{
        self as stock, AddStockRequest, GetItemRequest, SubtractStockRequest,
        stock_service_client::StockServiceClient,
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::{
    net::Transport,
    routing::{Router, Target},
    status::Failure,
};
use tokio::time::sleep;
use tonic::{Response, Status};

use crate::{
    network::Process,
    shop::{Shop, target},
};

const ITEMS: u64 = 3;
const USERS: u64 = 4;
const STOCK: u64 = 6;
const CREDIT: u64 = 12;
const BUYERS: u64 = 5;
const DEEDS: u64 = 5;

/// What the clients were told, in all.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// By order: whether its checkout ever succeeded.
    orders: BTreeMap<String, bool>,
    /// By item: units added less units subtracted.
    stock: BTreeMap<u64, i64>,
    /// By user: money added less money paid.
    credit: BTreeMap<u64, i64>,
    refused: BTreeMap<String, u64>,
}

/// A client with connections to every replica, who picks any of them: routes need not agree.
struct Client {
    routers: BTreeMap<&'static str, Router>,
    rng: ChaCha8Rng,
    name: String,
    calls: u64,
}

impl Client {
    fn new(shop: &Shop, seed: u64, number: u64) -> Self {
        let name = format!("client-{number}");
        let net = shop.network.of(&Process::start(&name));
        let router = |role: &'static str| (role, Router::new(target(role), Arc::clone(&net)));
        Self {
            routers: ["coordinator", "order", "stock", "payment"].map(router).into(),
            rng: ChaCha8Rng::seed_from_u64(seed.wrapping_mul(31) ^ number),
            name,
            calls: 0,
        }
    }

    fn request_id(&mut self) -> String {
        self.calls += 1;
        // As the bridge mints them: one for each call, for that call's own retries.
        format!("{}{}-{}", types::RequestId::MINTED_PREFIX, self.name, self.calls)
    }

    /// Repeats a call until it is answered, by whichever replica.
    async fn ask<T, F: Future<Output = Result<Response<T>, Status>>>(
        &mut self,
        role: &'static str,
        call: impl Fn(Transport) -> F,
    ) -> Result<T, String> {
        loop {
            let router = &self.routers[role];
            let endpoint = match router.target() {
                Target::Static(all) => all[self.rng.random_range(0..all.len())].clone(),
                Target::Dns(_) => unreachable!("replicas are listed"),
            };
            // Any replica may serve any shard.
            let route = loop {
                let route = router.any().unwrap();
                if route.endpoint == endpoint || self.rng.random_bool(0.3) {
                    break route;
                }
            };
            match call(route.transport).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => {
                    let failure = Failure::from_status(&status);
                    if !failure.is_transient() {
                        return Err(failure.reason);
                    }
                }
            }
            sleep(Duration::from_millis(self.rng.random_range(1..300))).await;
        }
    }

    async fn fill(&mut self) {
        let request_id = self.request_id();
        let request = stock::BatchInitRequest {
            count: ITEMS,
            starting_stock: STOCK,
            item_price: 2,
            request_id,
            shards: Vec::new(),
        };
        let call = |to| {
            let request = request.clone();
            async move { StockServiceClient::new(to).batch_init(request).await }
        };
        self.ask("stock", call).await.unwrap();
        let request_id = self.request_id();
        let request = payment::BatchInitRequest {
            count: USERS,
            starting_money: CREDIT,
            request_id,
            shards: Vec::new(),
        };
        let call = |to| {
            let request = request.clone();
            async move { PaymentServiceClient::new(to).batch_init(request).await }
        };
        self.ask("payment", call).await.unwrap();
    }

    async fn order(&mut self, id: &str) -> order::Order {
        let request = GetOrderRequest { order_id: id.to_owned() };
        let call = |to| {
            let request = request.clone();
            async move { OrderServiceClient::new(to).get_order(request).await }
        };
        self.ask("order", call).await.unwrap().order.unwrap()
    }

    async fn stock(&mut self, item: u64) -> u64 {
        let request = GetItemRequest { item_id: item.to_string() };
        let call = |to| {
            let request = request.clone();
            async move { StockServiceClient::new(to).get_item(request).await }
        };
        self.ask("stock", call).await.unwrap().item.unwrap().stock
    }

    async fn credit(&mut self, user: u64) -> u64 {
        let request = GetUserRequest { user_id: user.to_string() };
        let call = |to| {
            let request = request.clone();
            async move { PaymentServiceClient::new(to).get_user(request).await }
        };
        self.ask("payment", call).await.unwrap().user.unwrap().credit
    }

    async fn new_order(&mut self) -> String {
        let user_id = self.rng.random_range(0..USERS).to_string();
        let request = CreateOrderRequest { user_id, request_id: self.request_id() };
        let call = |to| {
            let request = request.clone();
            async move { OrderServiceClient::new(to).create_order(request).await }
        };
        let order_id = self.ask("order", call).await.unwrap().order_id;
        for _ in 0..self.rng.random_range(1..3) {
            let request = AddItemRequest {
                order_id: order_id.clone(),
                item_id: self.rng.random_range(0..ITEMS).to_string(),
                quantity: 1,
                request_id: self.request_id(),
            };
            let call = |to| {
                let request = request.clone();
                async move { OrderServiceClient::new(to).add_item(request).await }
            };
            self.ask("order", call).await.unwrap();
        }
        order_id
    }

    async fn checkout(&mut self, order_id: &str) -> Result<(), String> {
        let request_id = self.request_id();
        let request = CheckoutRequest { order_id: order_id.to_owned(), request_id };
        let call = |to| {
            let mut request = tonic::Request::new(request.clone());
            rpc::deadline::set(&mut request, Duration::from_secs(8));
            async move { CoordinatorServiceClient::new(to).checkout(request).await }
        };
        self.ask("coordinator", call).await.map(|_| ())
    }

    /// One thing that people do.
    async fn deed(&mut self, told: &mut Told) {
        let (item, user) = (self.rng.random_range(0..ITEMS), self.rng.random_range(0..USERS));
        let amount = self.rng.random_range(1..4);
        let units = i64::try_from(amount).unwrap();
        match self.rng.random_range(0..10) {
            0 => {
                let request_id = self.request_id();
                let request = AddStockRequest { item_id: item.to_string(), amount, request_id };
                let call = |to| {
                    let request = request.clone();
                    async move { StockServiceClient::new(to).add_stock(request).await }
                };
                self.ask("stock", call).await.unwrap();
                *told.stock.entry(item).or_default() += units;
            }
            1 => {
                let request_id = self.request_id();
                let request =
                    SubtractStockRequest { item_id: item.to_string(), amount, request_id };
                let call = |to| {
                    let request = request.clone();
                    async move { StockServiceClient::new(to).subtract_stock(request).await }
                };
                match self.ask("stock", call).await {
                    Ok(_) => *told.stock.entry(item).or_default() -= units,
                    Err(reason) => *told.refused.entry(reason).or_default() += 1,
                }
            }
            2 => {
                let request_id = self.request_id();
                let request = AddFundsRequest { user_id: user.to_string(), amount, request_id };
                let call = |to| {
                    let request = request.clone();
                    async move { PaymentServiceClient::new(to).add_funds(request).await }
                };
                self.ask("payment", call).await.unwrap();
                *told.credit.entry(user).or_default() += units;
            }
            3 => {
                let request = PayRequest {
                    user_id: user.to_string(),
                    amount,
                    order_id: String::new(),
                    request_id: self.request_id(),
                };
                let call = |to| {
                    let request = request.clone();
                    async move { PaymentServiceClient::new(to).pay(request).await }
                };
                match self.ask("payment", call).await {
                    Ok(_) => *told.credit.entry(user).or_default() -= units,
                    Err(reason) => *told.refused.entry(reason).or_default() += 1,
                }
            }
            _ => {
                let order_id = self.new_order().await;
                for _ in 0..self.rng.random_range(1..3) {
                    let bought = self.checkout(&order_id).await;
                    let order = self.order(&order_id).await;
                    match bought {
                        Ok(()) => {
                            assert!(order.paid, "a read lags the reply: {order_id}");
                            told.orders.insert(order_id.clone(), true);
                        }
                        Err(reason) => {
                            assert!(!order.paid, "refused ({reason}) and paid: {order_id}");
                            told.orders.entry(order_id.clone()).or_insert(false);
                            *told.refused.entry(reason).or_default() += 1;
                        }
                    }
                }
            }
        }
    }
}

/// Fills the shop and lets everybody buy; returns when every call has had a definite answer.
pub(crate) async fn buy(shop: &Shop, seed: u64) -> Told {
    Client::new(shop, seed, 0).fill().await;
    let buyers = (1..=BUYERS).map(|number| async move {
        let mut client = Client::new(shop, seed, number);
        let mut told = Told::default();
        for _ in 0..DEEDS {
            client.deed(&mut told).await;
        }
        told
    });
    let mut all = Told::default();
    for told in join_all(buyers).await {
        all.orders.extend(told.orders);
        for (item, units) in told.stock {
            *all.stock.entry(item).or_default() += units;
        }
        for (user, money) in told.credit {
            *all.credit.entry(user).or_default() += money;
        }
        for (reason, count) in told.refused {
            *all.refused.entry(reason).or_default() += count;
        }
    }
    all
}

/// I1, I2, I4, I6, I12: per order, item and user, what stands is what was told.
pub(crate) async fn audit(shop: &Shop, told: &Told, seed: u64) {
    let mut client = Client::new(shop, seed, 999);
    let mut stock: BTreeMap<u64, i64> = (0..ITEMS).map(|item| (item, 6)).collect();
    let mut credit: BTreeMap<u64, i64> = (0..USERS).map(|user| (user, 12)).collect();
    for (item, units) in &told.stock {
        *stock.entry(*item).or_default() += units;
    }
    for (user, money) in &told.credit {
        *credit.entry(*user).or_default() += money;
    }
    for (order_id, bought) in &told.orders {
        let order = client.order(order_id).await;
        assert_eq!(order.paid, *bought, "SEED={seed} order {order_id}");
        if order.paid {
            let cost = i64::try_from(order.total_cost).unwrap();
            *credit.get_mut(&order.user_id.parse().unwrap()).unwrap() -= cost;
            for line in &order.lines {
                let units = i64::try_from(line.quantity).unwrap();
                *stock.get_mut(&line.item_id.parse().unwrap()).unwrap() -= units;
            }
        }
    }
    for (item, expected) in stock {
        let seen = i64::try_from(client.stock(item).await).unwrap();
        assert_eq!(seen, expected, "SEED={seed} item {item}");
    }
    for (user, expected) in credit {
        let seen = i64::try_from(client.credit(user).await).unwrap();
        assert_eq!(seen, expected, "SEED={seed} user {user}");
    }
}
