//! The port: gRPC and HTTP side by side, TLS, limits, and shutdown.

use crate::Admit;
use crate::args::{Bounds, Config, TlsPaths};
use crate::cluster::Cluster;
use crate::dispatch::{Dispatch, Places};
use crate::engine::{Committer, Engine, EngineConfig};
use crate::error::Error;
use crate::faults::Faults;
use crate::kv::Kv;
use crate::members::Members;
use crate::pd::Pd;
use crate::store::StoreConfig;
use admission::Untaken;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;
use types::error::chain;
use types::{Clock, UnixMillis};

/// Calls that one connection may have open. TiKV's figure is 1024, so hyper's default of 200 is too
/// low.
const STREAMS_MAX: u32 = 4096;
/// An idle connection is pinged this often, and cut if the ping is not answered in time. The
/// timeout is longer than tests suspend a role.
const PING_EVERY: Duration = Duration::from_mins(1);
const PING_TIMEOUT: Duration = Duration::from_mins(1);
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Time for calls to end when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// A TLS handshake that takes longer is cut.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The wall clock, shifted by faults.
struct ShiftedClock {
    shift_ms: Arc<AtomicI64>,
}

impl Clock for ShiftedClock {
    fn now(&self) -> UnixMillis {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the clock that everything else here takes"
        )]
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        UnixMillis(now.saturating_add_signed(self.shift_ms.load(Ordering::Relaxed)))
    }
}

/// Serves until `shutdown` completes, then lets calls end for a few seconds and closes the store.
///
/// # Errors
///
/// When the data directory, the TLS files or the configuration cannot be used. Once it serves,
/// errors of single connections and calls do not end it.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let address = listener.local_addr()?;
    take_large_files_for_a_full_disk()?;
    let mut further = Vec::new();
    for address in &config.pd_listen {
        further.push(TcpListener::bind(address).await?);
    }
    let acceptor = config.tls.as_ref().map(acceptor).transpose()?;
    let tls = acceptor.map(|acceptor| Tls { acceptor, admit: config.admit.clone() });
    let shift_ms = Arc::new(AtomicI64::new(0));
    let clock = Arc::new(ShiftedClock { shift_ms: Arc::clone(&shift_ms) });
    let (engine, committer) = open(&config, clock).await?;
    let cluster = Arc::new(Cluster::load(Arc::clone(&engine), config.pd_version)?);
    prepare(&cluster, &config).await?;
    let faults = Arc::new(Faults::new(config.fault_seed, shift_ms));
    for rule in &config.faults {
        faults.add(rule.clone());
    }
    let advertise: Arc<str> =
        config.advertise.clone().unwrap_or_else(|| address.to_string()).into();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut urls = vec![format!("{scheme}://{advertise}")];
    for listener in &further {
        urls.push(format!("{scheme}://{}", listener.local_addr()?));
    }
    let (stop, stopping) = watch::channel(false);
    let pd = Pd {
        engine: Arc::clone(&engine),
        cluster: Arc::clone(&cluster),
        faults: Arc::clone(&faults),
        advertise: Arc::clone(&advertise),
        members: Arc::new(Members::new(urls, &config.pd_hanging)),
        member: Members::FIRST,
        stopping: stopping.clone(),
    };
    let kv = Kv { engine: Arc::clone(&engine), cluster: Arc::clone(&cluster), faults };
    let garbage = tokio::spawn(Arc::clone(&engine).collect_garbage_forever());
    tracing::info!(
        address = %address,
        advertise = %advertise,
        data_dir = %config.data_dir.display(),
        cluster_id = engine.cluster_id(),
        regions = cluster.regions().now().all().len(),
        "dev-kv serves: one node on one disk, for development and tests, not a replacement for a \
         TiKV cluster"
    );
    let shutdown = async {
        shutdown.await;
        stop.send_replace(true);
    };
    let places = Places::new(&config.bounds);
    let others = (Members::FIRST + 1..).zip(&further).map(|(member, listener)| {
        let dispatch = Dispatch::new(
            Pd { member, ..pd.clone() },
            kv.clone(),
            places.clone(),
            is_loopback(listener),
        );
        let mut stopping = stopping.clone();
        accept(listener, config.bounds, dispatch, tls.clone(), async move {
            // An error means that the sender is gone, and the server with it.
            let _ended = stopping.wait_for(|stopping| *stopping).await;
        })
    });
    let dispatch = Dispatch::new(pd.clone(), kv.clone(), places.clone(), is_loopback(&listener));
    let first = accept(&listener, config.bounds, dispatch, tls.clone(), shutdown);
    futures::future::join(first, futures::future::join_all(others)).await;
    engine.close();
    // The next process must find the directory free, so wait for the task that may still read it.
    if tokio::time::timeout(DRAIN, garbage).await.is_err() {
        tracing::warn!("collection of garbage still under way");
    }
    // Joins the committer's thread, which may be syncing.
    let closed = tokio::task::spawn_blocking(move || drop(committer)).await;
    if let Err(error) = closed {
        tracing::error!(error = %error, "store not closed cleanly");
    }
    tracing::info!("dev-kv stopped");
    Ok(())
}

/// Opens the store in its directory.
async fn open(
    config: &Config,
    clock: Arc<ShiftedClock>,
) -> Result<(Arc<Engine>, Committer), Error> {
    let engine_config = EngineConfig {
        directory: config.data_dir.clone(),
        cache_bytes: config.cache_bytes,
        store: StoreConfig {
            block_cache_bytes: config.block_cache_bytes,
            memtable_bytes: config.memtable_bytes,
        },
        probe: config.sync_probe.clone(),
    };
    // Any number that differs between stores will do. It is used once, for a new store.
    let new_cluster_id = (clock.now().0 << 20 | u64::from(std::process::id())) & (u64::MAX >> 1);
    let opened =
        tokio::task::spawn_blocking(move || Engine::open(engine_config, clock, new_cluster_id))
            .await;
    opened
        .map_err(|error| Error::Store(error.to_string()))?
        .map_err(|error| Error::Store(chain(&error)))
}

fn is_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().is_loopback())
}

/// A write that would grow a file beyond the process's limit ends the process, unless it handles
/// the signal. Then the write fails, as on a full disk. The handler stays for the life of the
/// process.
fn take_large_files_for_a_full_disk() -> std::io::Result<()> {
    let number = nix::sys::signal::Signal::SIGXFSZ as std::ffi::c_int;
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(number)).map(drop)
}

async fn prepare(cluster: &Cluster, config: &Config) -> Result<(), Error> {
    let keys: Vec<Bytes> =
        config.split_keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
    let failed = |error| Error::Store(chain(&error));
    cluster.split_all(&keys).await.map_err(failed)?;
    for name in &config.keyspaces {
        cluster.add_keyspace(name).await.map_err(failed)?;
    }
    Ok(())
}

/// How connections are encrypted, and which clients are admitted.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    admit: Option<Admit>,
}

impl Tls {
    /// Performs the handshake; none when it fails or the client is not admitted.
    async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let stream = match tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "tls handshake failed");
                return None;
            }
            Err(_) => {
                tracing::debug!("tls handshake took too long");
                return None;
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let admitted = match (&self.admit, shown) {
            (None, _) => Ok(()),
            (Some(admit), Some(shown)) => admit(shown),
            (Some(_), None) => Err("it shows no certificate".to_owned()),
        };
        match admitted {
            Ok(()) => Some(stream),
            Err(reason) => {
                tracing::warn!(reason, "refused a client by its certificate");
                None
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    bounds: Bounds,
    dispatch: Dispatch,
    tls: Option<Tls>,
    shutdown: impl Future<Output = ()>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(1 << 20);
    builder.http1().timer(TokioTimer::new());
    let builder = Arc::new(builder);
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let graceful = Arc::new(GracefulShutdown::new());
    let mut connections = tokio::task::JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            let (stream, _) = listener.accept().await?;
            let place = Arc::clone(&places).acquire_owned().await;
            // The semaphore is never closed.
            Ok::<_, std::io::Error>((stream, place.map_err(std::io::Error::other)?))
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = next => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually no file descriptor is left: other connections have to close first.
                tracing::warn!(error = %error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "nodelay not set");
        }
        let (dispatch, builder) = (dispatch.clone(), Arc::clone(&builder));
        let (tls, watcher) = (tls.clone(), graceful.watcher());
        connections.spawn(async move {
            let _place = place;
            match tls {
                None => serve(&builder, stream, bounds, dispatch, watcher).await,
                Some(tls) => {
                    if let Some(stream) = tls.accept(stream).await {
                        serve(&builder, stream, bounds, dispatch, watcher).await;
                    }
                }
            }
        });
    }
    if let Some(graceful) = Arc::into_inner(graceful) {
        // Some calls never end, such as those that a fault leaves without an answer.
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::debug!("connections cut after the drain time");
        }
    }
    connections.shutdown().await;
}

async fn serve(
    builder: &Builder<TokioExecutor>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    bounds: Bounds,
    dispatch: Dispatch,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let asked = Arc::new(AtomicBool::new(false));
    let was_asked = Arc::clone(&asked);
    let untaken = Untaken::default();
    let of_connection = untaken.clone();
    let service = hyper::service::service_fn(move |request| {
        was_asked.store(true, Ordering::Relaxed);
        dispatch.call(request, of_connection.clone())
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.stall));
    let io = TokioIo::new(Box::pin(stream));
    let connection = watcher.watch(builder.serve_connection(io, service));
    let asks_nothing = async {
        tokio::time::sleep(bounds.first_request).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(error = %error, "connection ended");
            }
        }
        () = asks_nothing => tracing::debug!("a connection asked for nothing, and was cut"),
        () = untaken.stalled(bounds.stall) => {
            tracing::debug!("a client takes no answer, and was cut");
        }
    }
}

fn acceptor(paths: &TlsPaths) -> Result<TlsAcceptor, Error> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let failed = |path: &std::path::Path, error: &dyn std::fmt::Display| {
        Error::Tls(format!("{}: {error}", path.display()))
    };
    let certificates = |path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(path, &error))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&paths.cert)?;
    let key =
        PrivateKeyDer::from_pem_file(&paths.key).map_err(|error| failed(&paths.key, &error))?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?;
    let config = match &paths.ca {
        None => config.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| failed(ca, &error))?;
            }
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            )
            .build()
            .map_err(|error| failed(ca, &error))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        config.with_single_cert(chain, key).map_err(|error| failed(&paths.cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
