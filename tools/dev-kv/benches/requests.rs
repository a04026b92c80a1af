//! The time of single requests over the wire, one after the other, to a server in the same process.
//! Writes include the disk's sync. Run `cargo bench -p dev-kv`. `examples/load.rs` measures many
//! requests at once.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a measuring tool: it ends at the first surprise"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dev_kv::Config;
use dev_kv::wire::tikvpb::tikv_client::TikvClient;
use dev_kv::wire::{kvrpcpb, metapb, pdpb};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Channel;

/// The allocator of `till`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A server and hand-written requests to its only region.
struct Wire {
    runtime: Runtime,
    kv: TikvClient<Channel>,
    asking: mpsc::Sender<pdpb::TsoRequest>,
    timestamps: Streaming<pdpb::TsoResponse>,
    /// Keys written so far.
    written: u64,
    last_commit_ts: u64,
    _directory: TempDir,
}

fn context() -> kvrpcpb::Context {
    kvrpcpb::Context {
        region_id: 2,
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        peer: Some(metapb::Peer { id: 2, store_id: 1 }),
        ..kvrpcpb::Context::default()
    }
}

/// A key of 24 bytes, scattered as in the load.
fn key(number: u64) -> Bytes {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [0, 0, scattered].iter().flat_map(|part| part.to_be_bytes()).collect()
}

impl Wire {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let directory = TempDir::new().unwrap();
        let config = Config::new(directory.path().join("kv"));
        let (kv, asking, timestamps) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(dev_kv::run(config, listener, std::future::pending()));
            let kv = TikvClient::connect(address.clone()).await.unwrap();
            let mut pd = pdpb::pd_client::PdClient::connect(address).await.unwrap();
            let (asking, asked) = mpsc::channel(1);
            let asked = futures::stream::unfold(asked, async |mut asked: mpsc::Receiver<_>| {
                Some((asked.recv().await?, asked))
            });
            let timestamps = pd.tso(asked).await.unwrap().into_inner();
            (kv, asking, timestamps)
        });
        Self {
            runtime,
            kv,
            asking,
            timestamps,
            written: 0,
            last_commit_ts: 1,
            _directory: directory,
        }
    }

    /// Commits new keys in one phase.
    fn write(&mut self, count: u64) {
        let mutations: Vec<_> = (self.written..self.written + count)
            .map(|number| kvrpcpb::Mutation {
                op: kvrpcpb::Op::Put.into(),
                key: key(number),
                value: Bytes::from_static(&[b'v'; 40]),
                assertion: 0,
            })
            .collect();
        self.written += count;
        let request = kvrpcpb::PrewriteRequest {
            context: Some(context()),
            primary_lock: mutations[0].key.clone(),
            mutations,
            start_version: self.last_commit_ts,
            lock_ttl: 3_000,
            txn_size: u64::MAX,
            try_one_pc: true,
            ..kvrpcpb::PrewriteRequest::default()
        };
        let response = self.runtime.block_on(self.kv.kv_prewrite(request)).unwrap().into_inner();
        assert!(response.one_pc_commit_ts > self.last_commit_ts, "{response:?}");
        self.last_commit_ts = response.one_pc_commit_ts;
    }

    /// Reads written keys, some of which are in memory and some on disk.
    fn read(&mut self, from: u64, count: u64) {
        let request = kvrpcpb::BatchGetRequest {
            context: Some(context()),
            keys: (from..from + count).map(|number| key(number % self.written)).collect(),
            version: self.last_commit_ts,
        };
        let response = self.runtime.block_on(self.kv.kv_batch_get(request)).unwrap().into_inner();
        assert_eq!(response.pairs.len() as u64, count, "keys are missing");
    }

    fn timestamp(&mut self) {
        let Self { runtime, asking, timestamps, .. } = self;
        runtime.block_on(async {
            asking
                .send(pdpb::TsoRequest { count: 1, ..pdpb::TsoRequest::default() })
                .await
                .unwrap();
            timestamps.message().await.unwrap().unwrap();
        });
    }
}

fn requests(criterion: &mut Criterion) {
    let mut wire = Wire::start();
    let mut group = criterion.benchmark_group("one phase");
    for count in [1, 8, 60, 150] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} keys"), |bencher| {
            bencher.iter(|| wire.write(count));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("batch get");
    for count in [8, 200] {
        let mut from = 0;
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} keys"), |bencher| {
            bencher.iter(|| {
                wire.read(from, count);
                from += count;
            });
        });
    }
    group.finish();
    criterion.bench_function("timestamp", |bencher| bencher.iter(|| wire.timestamp()));
}

criterion_group!(benches, requests);
criterion_main!(benches);
