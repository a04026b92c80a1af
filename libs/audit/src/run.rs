//! Runs an audit: reads the journals, then the orders, then users and items, in pages at one
//! timestamp.

use std::{collections::BTreeMap, io, ops::Range};

use bytes::Bytes;
use prost::Message;
use proto::{payment::v1::HoldCreditReceipt, stock::v1::HoldStockReceipt};
use storage::{
    Key, Kv, KvError, Value, codec,
    janitor::AnnounceError,
    keys::{Kind, Space},
    record::{Head, JournalEntry, OrderRecord},
    schema::{self, SchemaError},
};
use types::{Branch, BranchState, Role, ShardId, Stamp, Timestamp, TxId};

use crate::{
    balance::{Balances, Taken, note, ranges},
    journal::Transactions,
    offence::{Findings, Invariant, Offence},
    order::{self, Bought, Sold, Source},
    overlay::Overlay,
    scan::Scanner,
    sort::Sorter,
};

/// Journal entries read per page; there are few because each may be long.
const ENTRIES: u32 = 64;

/// How to audit.
#[derive(Debug, Clone)]
pub struct Options {
    /// True if nothing has happened for a while, so that no vote may be unresolved.
    pub quiet: bool,
    /// How long a hold may stand past its deadline, in milliseconds.
    pub grace_ms: u64,
    /// Upper limit on the offences kept with their records; all are counted.
    pub offences_max: usize,
    /// Memory for sorting, in bytes. The rest goes to temporary files.
    pub memory_bytes: usize,
    /// Records read per page.
    pub page: u32,
    /// Distinguishes this reader from others in the store.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quiet: false,
            grace_ms: 30_000,
            offences_max: 100,
            memory_bytes: 64 << 20,
            page: 1_024,
            name: "audit".to_owned(),
        }
    }
}

/// The progress of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being read.
    pub stage: &'static str,
    /// Number of shards done in this stage.
    pub shard: u16,
    /// Number of shards in this stage.
    pub shards: u16,
    /// Number of records read so far in all stages.
    pub records: u64,
}

/// What the audit covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Number of orders.
    pub orders: u64,
    /// Number of paid orders.
    pub paid: u64,
    /// Number of items.
    pub items: u64,
    /// Number of users.
    pub users: u64,
    /// Number of transactions in the live journals.
    pub transactions: u64,
    /// Number of those that have a vote without an outcome.
    pub unresolved: u64,
    /// Number of items and users whose sum falls short. That is allowed, because an order paid
    /// during their incarnation was overwritten.
    pub judged_in_part: u64,
}

/// The result of an audit.
#[derive(Debug, Clone)]
pub struct Report {
    /// The timestamp at which the books were read.
    pub at: Timestamp,
    /// What the audit covered.
    pub counts: Counts,
    /// The first offences.
    pub offences: Vec<Offence>,
    /// The number of offences by invariant.
    pub by_invariant: BTreeMap<Invariant, u64>,
}

impl Report {
    /// True when every invariant holds.
    pub fn is_clean(&self) -> bool {
        self.by_invariant.is_empty()
    }
}

/// Why an audit did not finish. It says nothing about the books.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store's layout cannot be read. A retry helps if the store did not answer.
    #[error("cannot read the layout")]
    Schema(#[from] SchemaError),
    /// The store does not answer. Retry.
    #[error("cannot read the store")]
    Kv(#[from] KvError),
    /// The store does not answer, or the timestamp is too old by now. Begin again.
    #[error("cannot read at one timestamp")]
    Read(#[from] AnnounceError),
    /// A temporary file cannot be used. Check TMPDIR.
    #[error("cannot use a temporary file")]
    Spill(#[from] io::Error),
}

/// Audits the whole store as of now.
///
/// # Errors
/// [`AuditError`]; a retry helps if the store did not answer.
pub async fn run(
    kv: &dyn Kv,
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, AuditError> {
    let schema = schema::read(kv).await?;
    let at = kv.timestamp().await?;
    let shards = schema.map_or(0, |schema| schema.shards);
    let scanner = Scanner::begin(kv, at, options.page, options.name.clone()).await?;
    let mut audit = Audit {
        scanner,
        shards,
        overlay: Overlay::default(),
        findings: Findings::new(options.offences_max),
        counts: Counts::default(),
        records: 0,
        progress,
    };
    let report = audit.run(options).await;
    audit.scanner.end().await;
    report
}

/// Reads the transactions in the live journals, at a fresh timestamp. Gaps and unreadable entries
/// are skipped without a report.
///
/// # Errors
/// [`AuditError`]; a retry helps if the store did not answer.
pub async fn survey(kv: &dyn Kv, name: &str) -> Result<(Timestamp, Transactions), AuditError> {
    let options = Options { name: name.to_owned(), ..Options::default() };
    let shards = schema::read(kv).await?.map_or(0, |schema| schema.shards);
    let at = kv.timestamp().await?;
    let mut audit = Audit {
        scanner: Scanner::begin(kv, at, options.page, options.name).await?,
        shards,
        overlay: Overlay::default(),
        findings: Findings::new(0),
        counts: Counts::default(),
        records: 0,
        progress: &mut |_| {},
    };
    let transactions = audit.journals().await;
    audit.scanner.end().await;
    Ok((at, transactions?))
}

struct Audit<'a> {
    scanner: Scanner<'a>,
    shards: u16,
    /// The images from the journals, once those are read.
    overlay: Overlay,
    findings: Findings,
    counts: Counts,
    records: u64,
    progress: &'a mut (dyn FnMut(Progress) + Send),
}

impl Audit<'_> {
    async fn run(&mut self, options: &Options) -> Result<Report, AuditError> {
        let mut transactions = self.journals().await?;
        let mut claims = Sorter::new(options.memory_bytes / 4 * 3);
        let mut payers = Sorter::new(options.memory_bytes / 4);
        let last_overwritten = self.orders(&mut transactions, &mut claims, &mut payers).await?;
        self.once_each(payers).await?;
        self.holds(&transactions, &mut claims).await?;
        transactions.judge(self.scanner.at(), options.grace_ms, options.quiet, &mut self.findings);
        self.counts.transactions = count(transactions.len());
        self.counts.unresolved = count(transactions.unresolved());
        drop(transactions);
        let mut balances = Balances::new(claims.finish().await?, last_overwritten);
        // Claims are sorted by key, so users come first, as their keys do.
        self.counts.users =
            self.balances("users", Role::Payment, Kind::User, &mut balances).await?;
        self.counts.items = self.balances("items", Role::Stock, Kind::Item, &mut balances).await?;
        self.counts.judged_in_part = balances.judged_in_part;
        Ok(Report {
            at: self.scanner.at(),
            counts: self.counts,
            offences: self.findings.kept().to_vec(),
            by_invariant: self.findings.by_invariant().clone(),
        })
    }

    fn tell(&mut self, stage: &'static str, shard: u16) {
        let (shards, records) = (self.shards, self.records);
        (self.progress)(Progress { stage, shard, shards, records });
    }

    async fn page(
        &mut self,
        range: Range<Key>,
    ) -> Result<(Vec<(Key, Value)>, Option<Key>), AuditError> {
        let (page, next) = self.scanner.page(range.clone()).await?;
        let end = next.clone().unwrap_or(range.end);
        let page = self.overlay.lay_over(range.start..end, page);
        self.records = self.records.saturating_add(count(page.len()));
        Ok((page, next))
    }

    /// Decodes a record, or reports that it cannot be read.
    fn decode<M: Message + Default>(&mut self, key: &[u8], value: &[u8]) -> Option<M> {
        // Heads have a format of their own; any other record in that format cannot be read.
        let is_head = key.get(3) == Some(&Kind::Head.byte());
        let newest = if is_head { codec::FORMAT_3 } else { codec::FORMAT_1 };
        self.readable(key, codec::decode_any(key, value, newest)).map(|(_, record)| record)
    }

    /// The decoded value, or an offence.
    fn readable<T>(&mut self, key: &[u8], decoded: Result<T, KvError>) -> Option<T> {
        match decoded {
            Ok(record) => Some(record),
            Err(error) => {
                let subject = format!("record {}", codec::hex(key));
                self.findings.add(Invariant::Readable, subject, error, Vec::new());
                None
            }
        }
    }

    async fn journals(&mut self) -> Result<Transactions, AuditError> {
        let mut transactions = Transactions::default();
        for service in Role::SERVICES {
            for shard in (0..self.shards).map(ShardId) {
                self.tell("journals", shard.0);
                let branch = Branch { service: service.into(), shard };
                self.journal(Space::of(service, shard), &branch, &mut transactions).await?;
            }
        }
        Ok(transactions)
    }

    async fn journal(
        &mut self,
        space: Space,
        branch: &Branch,
        transactions: &mut Transactions,
    ) -> Result<(), AuditError> {
        let head = match self.scanner.get(&space.head()).await? {
            Some(value) => self.decode::<Head>(&space.head(), &value),
            None => None,
        };
        let head = head.unwrap_or(Head { oldest: 1, ..Head::default() });
        let mut expected = head.oldest;
        let mut range = space.range(Kind::Journal);
        // Entries below `oldest` do not exist; one that is there was inserted too late.
        range.start = space.journal(head.oldest);
        let mut before: Option<(Bytes, u64)> = None;
        loop {
            let (page, next) = self.scanner.page_of(range.clone(), ENTRIES).await?;
            self.records = self.records.saturating_add(count(page.len()));
            for (key, value) in page {
                let id = space.strip(&key).and_then(|record| record.get(1..));
                let seq = id.and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
                if seq != Some(expected) {
                    self.gap(branch, expected, seq);
                }
                expected = seq.unwrap_or(expected).saturating_add(1);
                let decoded = codec::decode_packed::<JournalEntry>(&key, &value);
                let Some(entry) = self.readable(&key, decoded) else { continue };
                self.follows(branch, before.as_ref(), &entry);
                before = Some((entry.writer.clone(), entry.run));
                self.overlay.take(space, head.flushed, expected.saturating_sub(1), &entry);
                for event in &entry.events {
                    let start = Timestamp(entry.start_ts);
                    if let Err(problem) = transactions.apply(branch, start, event) {
                        let subject =
                            format!("journal entry {} of {branch}", expected.saturating_sub(1));
                        self.findings.add(Invariant::Readable, subject, problem, Vec::new());
                    }
                }
            }
            match next {
                Some(next) => range.start = next,
                None => break,
            }
        }
        if expected <= head.flushed {
            self.gap(branch, expected, None);
        }
        Ok(())
    }

    /// Checks that an entry names the one before it (J4).
    fn follows(&mut self, branch: &Branch, before: Option<&(Bytes, u64)>, entry: &JournalEntry) {
        let said = (&entry.previous_writer, entry.previous_run);
        let Some((writer, run)) = before.filter(|_| !said.0.is_empty()) else { return };
        if said != (writer, *run) {
            let subject = format!("journal of {branch}");
            let problem = format!("run {} was appended to another entry than run {run}", entry.run);
            self.findings.add(Invariant::Readable, subject, problem, Vec::new());
        }
    }

    fn gap(&mut self, branch: &Branch, expected: u64, found: Option<u64>) {
        let problem = match found {
            Some(found) => format!("entry {found} stands where {expected} belongs"),
            None => format!("entry {expected} is missing"),
        };
        let subject = format!("journal of {branch}");
        self.findings.add(Invariant::Readable, subject, problem, Vec::new());
    }

    /// Reads all orders. Returns when the latest of the overwritten paid orders was paid.
    async fn orders(
        &mut self,
        transactions: &mut Transactions,
        claims: &mut Sorter,
        payers: &mut Sorter,
    ) -> Result<Timestamp, AuditError> {
        let mut bought = Bought::of(transactions);
        let mut last_overwritten = Timestamp(0);
        for (shard, mut range) in (0..).zip(ranges(Role::Order, Kind::Order, self.shards)) {
            self.tell("orders", shard);
            loop {
                let (page, next) = self.page(range.clone()).await?;
                for (key, value) in page {
                    let Some(record) = self.decode::<OrderRecord>(&key, &value) else { continue };
                    let id = String::from_utf8_lossy(key.get(4..).unwrap_or_default()).into_owned();
                    let overwritten = Timestamp(record.last_overwritten_paid_at);
                    last_overwritten = last_overwritten.max(overwritten);
                    self.counts.orders += 1;
                    if let Some(paid) = &record.paid {
                        self.counts.paid += 1;
                        payers.push(&[&paid.tx_id, id.as_bytes()].concat()).await?;
                    }
                    let findings = &mut self.findings;
                    let sold = order::judge(&id, &record, &mut bought, transactions, findings);
                    for sold in &sold {
                        note(claims, self.shards, sold, Taken::Sold, &id).await?;
                    }
                }
                self.tell("orders", shard);
                match next {
                    Some(next) => range.start = next,
                    None => break,
                }
            }
        }
        bought.report_missing(&mut self.findings);
        Ok(last_overwritten)
    }

    /// Checks that no transaction paid two orders (I4).
    async fn once_each(&mut self, payers: Sorter) -> Result<(), AuditError> {
        let mut sorted = payers.finish().await?;
        let mut before: Vec<u8> = Vec::new();
        while let Some(entry) = sorted.next_entry()? {
            if let (Some((payer, order)), Some((same, other))) =
                (entry.split_at_checked(16), before.split_at_checked(16))
                && payer == same
                && let Ok(tx_id) = TxId::from_slice(payer)
            {
                let name = |id: &[u8]| format!("order {}", String::from_utf8_lossy(id));
                let problem = "pays two orders";
                self.findings.add(
                    Invariant::PaidOnce,
                    format_args!("transaction {tx_id}"),
                    problem,
                    vec![name(other), name(order)],
                );
            }
            before = entry;
        }
        Ok(())
    }

    /// Notes what unresolved votes hold. What a paid order bought counts as sold, even if its
    /// branches do not know it yet.
    async fn holds(
        &mut self,
        transactions: &Transactions,
        claims: &mut Sorter,
    ) -> Result<(), AuditError> {
        for (tx_id, transaction) in transactions.iter() {
            if transaction.paid_order.is_some() {
                continue;
            }
            for (branch, said) in &transaction.branches {
                if said.state != BranchState::Prepared {
                    continue;
                }
                match held(branch, &said.hold) {
                    Ok(held) => {
                        for held in &held {
                            let by = tx_id.to_string();
                            note(claims, self.shards, held, Taken::Held, &by).await?;
                        }
                    }
                    Err(error) => self.findings.add(
                        Invariant::Readable,
                        format_args!("hold of {tx_id} at {branch}"),
                        error,
                        transaction.describe(),
                    ),
                }
            }
        }
        Ok(())
    }

    async fn balances(
        &mut self,
        stage: &'static str,
        service: Role,
        kind: Kind,
        balances: &mut Balances,
    ) -> Result<u64, AuditError> {
        let mut judged = 0;
        for (shard, mut range) in (0..).zip(ranges(service, kind, self.shards)) {
            loop {
                self.tell(stage, shard);
                let (page, next) = self.page(range.clone()).await?;
                judged += count(page.len());
                for (key, value) in page {
                    balances.judge(&key, &value, &mut self.findings)?;
                }
                match next {
                    Some(next) => range.start = next,
                    None => break,
                }
            }
            balances.finish(&range.end, &mut self.findings)?;
        }
        self.tell(stage, self.shards);
        Ok(judged)
    }
}

/// What a vote set aside at one of our own services.
fn held(branch: &Branch, hold: &Bytes) -> Result<Vec<Sold>, prost::DecodeError> {
    Ok(match branch.service.as_str() {
        "stock" => {
            let lines = HoldStockReceipt::decode(hold.clone())?.lines.into_iter();
            let held = lines.map(|line| Sold {
                from: Source::Item(line.item_id),
                incarnation: Stamp::new(line.incarnation, line.incarnation_change),
                amount: line.quantity,
            });
            held.collect()
        }
        "payment" => {
            let hold = HoldCreditReceipt::decode(hold.clone())?;
            let incarnation = Stamp::new(hold.incarnation, hold.incarnation_change);
            vec![Sold { from: Source::User(hold.user_id), incarnation, amount: hold.amount }]
        }
        _ => Vec::new(),
    })
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
