//! A small shop in the store, all of whose content is known: what the services would have written.

use audit::{Options, Report};
use prost::Message as _;
use proto::{
    payment::v1::HoldCreditReceipt,
    stock::v1::{HoldStockReceipt, hold_stock_receipt},
};
use storage::{
    Key, Kv as _, codec,
    keys::{self, Kind, Space},
    record::{
        Branch, Head, Image, ItemRecord, JournalEntry, OrderRecord, TxEvent, TxMeta, UserRecord,
        order_record::{Line, Paid, Receipt},
        tx_event,
    },
    schema,
};
use testkit::{MemKv, ORIGIN};
use types::{Role, ShardId, Timestamp, TxId, UnixMillis, shard_of};

pub(crate) const SHARDS: u16 = 2;
/// A moment before [`ORIGIN`], when the shop is audited; holds are from a second before.
pub(crate) fn ago(ms: u64) -> u64 {
    Timestamp::from_physical(UnixMillis(ORIGIN.0 - ms)).0
}

pub(crate) fn tx(number: u8) -> TxId {
    TxId([number; 16])
}

/// The branches of an order of item "a" by user "u".
fn branches(order: &str) -> Vec<Branch> {
    let branch = |service: &str, id| Branch {
        service: service.to_owned(),
        shard: shard_of(id, SHARDS).0.into(),
    };
    vec![branch("order", order), branch("stock", "a"), branch("payment", "u")]
}

pub(crate) fn stock_hold(quantity: u64) -> Vec<u8> {
    let line = hold_stock_receipt::Line {
        item_id: "a".to_owned(),
        quantity,
        incarnation: ago(100_000),
        ..Default::default()
    };
    HoldStockReceipt { lines: vec![line] }.encode_to_vec()
}

pub(crate) fn credit_hold(amount: u64) -> Vec<u8> {
    let incarnation = ago(100_000);
    HoldCreditReceipt { user_id: "u".to_owned(), amount, incarnation, ..Default::default() }
        .encode_to_vec()
}

/// The events of one branch of an order's transaction.
pub(crate) struct Part<'a> {
    pub(crate) order: &'a str,
    pub(crate) number: u8,
    pub(crate) deadline_ms: u64,
}

impl Part<'_> {
    fn meta(&self) -> TxMeta {
        TxMeta {
            tx_id: tx(self.number).0.to_vec().into(),
            begin_ts: ago(2_000),
            nonce: u64::from(self.number),
            deadline_ms: self.deadline_ms,
            branches: branches(self.order),
            ..TxMeta::default()
        }
    }

    pub(crate) fn prepared(&self, hold: Vec<u8>) -> TxEvent {
        let prepared = tx_event::Prepared {
            tx: Some(self.meta()),
            receipt: hold.clone().into(),
            hold: hold.into(),
        };
        TxEvent { event: Some(tx_event::Event::Prepared(prepared)) }
    }

    pub(crate) fn fenced(&self) -> TxEvent {
        let fenced = tx_event::Fenced { tx: Some(self.meta()), ..tx_event::Fenced::default() };
        TxEvent { event: Some(tx_event::Event::Fenced(fenced)) }
    }

    pub(crate) fn decided(&self, committed: bool) -> TxEvent {
        let tx_id = tx(self.number).0.to_vec().into();
        TxEvent { event: Some(tx_event::Event::Decided(tx_event::Decided { tx_id, committed })) }
    }
}

/// The shop. Change it with [`Shop::edit`], then audit it.
pub(crate) struct Shop {
    kv: MemKv,
}

impl Shop {
    /// Item "a" (10 supplied, at price 3) and user "u" (100 supplied). Order "o1" bought 1, and
    /// every branch has forgotten the transaction. Order "o2" is held for 2 by transaction 2. Order
    /// "o3" bought 4 by transaction 3, which payment does not know yet. Order "o4" is unpaid.
    pub(crate) async fn open() -> Self {
        let shop = Self { kv: MemKv::default() };
        schema::open(&shop.kv, Some(SHARDS)).await.unwrap();
        let incarnation = ago(100_000);
        let item =
            ItemRecord { price: 3, available: 3, supplied: 10, incarnation, ..Default::default() };
        shop.put(key(Role::Stock, Kind::Item, "a"), &item).await;
        let user = UserRecord { available: 79, supplied: 100, incarnation, ..Default::default() };
        shop.put(key(Role::Payment, Kind::User, "u"), &user).await;
        for (order, quantity, payer) in [("o1", 1, Some(1)), ("o3", 4, Some(3)), ("o4", 1, None)] {
            shop.put(key(Role::Order, Kind::Order, order), &record(order, quantity, payer)).await;
        }
        shop.put(key(Role::Order, Kind::Order, "o2"), &record("o2", 2, None)).await;

        let deadline_ms = ORIGIN.0 + 1_000;
        let second = Part { order: "o2", number: 2, deadline_ms };
        let third = Part { order: "o3", number: 3, deadline_ms };
        shop.journal("order", "o2", vec![second.prepared(b"o2".to_vec())], 500).await;
        let events = vec![third.prepared(b"o3".to_vec()), third.decided(true)];
        shop.journal("order", "o3", events, 400).await;
        let events = vec![
            second.prepared(stock_hold(2)),
            third.prepared(stock_hold(4)),
            third.decided(true),
        ];
        shop.journal("stock", "a", events, 300).await;
        let events = vec![second.prepared(credit_hold(6)), third.prepared(credit_hold(12))];
        shop.journal("payment", "u", events, 300).await;
        shop
    }

    pub(crate) async fn audit(&self, options: &Options) -> Report {
        audit::run(&self.kv, options, &mut |_| {}).await.unwrap()
    }

    /// Appends a journal entry to the shard of `id`, written this many milliseconds ago.
    pub(crate) async fn journal(&self, service: &str, id: &str, events: Vec<TxEvent>, ms: u64) {
        let space = Space::of(Role::named(service).unwrap(), shard_of(id, SHARDS));
        let mut txn = self.kv.begin().await.unwrap();
        let head = txn.get(&space.head()).await.unwrap();
        let head = head.map(|head| codec::decode::<Head>(&space.head(), &head).unwrap());
        let mut head = head.unwrap_or(Head { oldest: 1, ..Head::default() });
        head.flushed += 1;
        let entry = JournalEntry { events, start_ts: ago(ms), ..JournalEntry::default() };
        txn.put(space.head(), codec::encode(&head));
        txn.put(space.journal(head.flushed), codec::encode(&entry));
        txn.commit().await.unwrap();
    }

    /// Appends an entry to the journal of the shard of `id` that shows a record, or its deletion.
    /// The record itself is unchanged.
    pub(crate) async fn show<M: prost::Message>(
        &self,
        owner: Role,
        kind: Kind,
        id: &str,
        record: Option<&M>,
    ) {
        let space = Space::of(owner, shard_of(id, SHARDS));
        let at = self.kv.timestamp().await.unwrap();
        let journal = self.kv.snapshot(at).scan(space.range(Kind::Journal), 100).await.unwrap();
        let last = journal.last().map(|(key, _)| u64::from_be_bytes(key[4..].try_into().unwrap()));
        let image = Image {
            row: keys::record_key(kind, id.as_bytes()).into(),
            value: record.map(|record| codec::encode(record).into()).unwrap_or_default(),
        };
        let entry = JournalEntry { images: vec![image], start_ts: at.0, ..Default::default() };
        self.put(space.journal(last.unwrap_or(0) + 1), &entry).await;
    }

    /// Looks up an order, as for people.
    pub(crate) async fn order(&self, id: &str) -> Option<OrderRecord> {
        audit::lookup::order(&self.kv, &id.parse().unwrap()).await.unwrap()
    }

    pub(crate) async fn put(&self, key: Key, record: &impl prost::Message) {
        let mut txn = self.kv.begin().await.unwrap();
        txn.put(key, codec::encode(record));
        txn.commit().await.unwrap();
    }

    pub(crate) async fn delete(&self, key: Key) {
        let mut txn = self.kv.begin().await.unwrap();
        txn.delete(key);
        txn.commit().await.unwrap();
    }

    /// Changes one record.
    pub(crate) async fn edit<M: prost::Message + Default>(
        &self,
        key: Key,
        change: impl FnOnce(&mut M),
    ) {
        let at = self.kv.timestamp().await.unwrap();
        let value = self.kv.snapshot(at).get(&key).await.unwrap().unwrap();
        let mut record = codec::decode(&key, &value).unwrap();
        change(&mut record);
        self.put(key, &record).await;
    }
}

pub(crate) fn key(owner: Role, kind: Kind, id: &str) -> Key {
    Space::of(owner, shard_of(id, SHARDS)).record(kind, id.as_bytes())
}

/// The key of the first journal entry of the shard of `id`.
pub(crate) fn journal_key(owner: Role, id: &str) -> Key {
    Space::of(owner, ShardId(shard_of(id, SHARDS).0)).journal(1)
}

/// An order of this many of "a" for "u", paid by a transaction or unpaid.
pub(crate) fn record(order: &str, quantity: u64, payer: Option<u8>) -> OrderRecord {
    let receipt = |branch: Branch, receipt: Vec<u8>| Receipt {
        branch: Some(branch),
        receipt: receipt.into(),
    };
    let paid = payer.map(|number| {
        let parts = [Vec::new(), stock_hold(quantity), credit_hold(quantity * 3)];
        let receipts = branches(order).into_iter().zip(parts);
        let receipts = receipts.map(|(branch, part)| receipt(branch, part)).collect();
        Paid { tx_id: tx(number).0.to_vec().into(), receipts, ..Paid::default() }
    });
    OrderRecord {
        user_id: "u".to_owned(),
        lines: vec![Line { item_id: "a".to_owned(), quantity, price: 3 }],
        total_cost: quantity * 3,
        version: if paid.is_some() { ago(400) } else { ago(90_000) },
        paid,
        incarnation: ago(90_000),
        ..OrderRecord::default()
    }
}
