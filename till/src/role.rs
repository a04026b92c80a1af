//! Runs one role: binds its ports, hands it over to its crate, ends it.

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use crate::{
    cli::{Command, Grpc},
    process::{Failure, Stop},
};

/// Ports on 127.0.0.1, unless told otherwise.
mod port {
    pub(super) const COORDINATOR: u16 = 7000;
    pub(super) const ORDER: u16 = 7100;
    pub(super) const STOCK: u16 = 7200;
    pub(super) const PAYMENT: u16 = 7300;
    pub(super) const HTTP: u16 = 8000;
}

/// Why a role is not run. A retry does not help.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// gRPC is not encrypted here.
    #[error(
        "{0} is reached from other machines, and gRPC on it is not encrypted: allow that with --insecure"
    )]
    Insecure(SocketAddr),
    /// The second signal, or the parent is gone.
    #[error("ended at once, as told")]
    Now,
}

/// Runs a role until it is told to end.
pub(crate) async fn run(command: Command, stop: Stop) -> Result<ExitCode, Failure> {
    match command {
        Command::Order(args) => {
            let addresses = closed(&args, port::ORDER)?;
            keep(&addresses, &stop, |on, end| order::run(args.role, on, end)).await
        }
        Command::Stock(args) => {
            let addresses = closed(&args, port::STOCK)?;
            keep(&addresses, &stop, |on, end| stock::run(args.role, on, end)).await
        }
        Command::Payment(args) => {
            let addresses = closed(&args, port::PAYMENT)?;
            keep(&addresses, &stop, |on, end| payment::run(args.role, on, end)).await
        }
        Command::Coordinator(args) => {
            let addresses = closed(&args, port::COORDINATOR)?;
            keep(&addresses, &stop, |on, end| coordinator::run(args.role, on, end)).await
        }
        Command::DevKv(args) => {
            let encrypted = args.role.tls_cert.is_some();
            let addresses = allowed(&[args.role.listen], args.insecure || encrypted)?;
            keep(&addresses, &stop, |on, end| dev_kv(args.role, on, end)).await
        }
        Command::HttpBridge(args) => {
            let addresses = or_default(&args.listen, &rpc::listen::everywhere(port::HTTP));
            keep(&addresses, &stop, |on, end| http_bridge::run(args.role, on, end)).await
        }
        Command::Up(_)
        | Command::Bench(_)
        | Command::Health(_)
        | Command::Audit(_)
        | Command::Tx(_)
        | Command::Participant(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Binds, runs, and ends when told.
async fn keep<Run, Ended, E>(
    addresses: &[SocketAddr],
    stop: &Stop,
    run: Run,
) -> Result<ExitCode, Failure>
where
    Run: FnOnce(Vec<TcpListener>, tokio_util::sync::WaitForCancellationFutureOwned) -> Ended,
    Ended: Future<Output = Result<(), E>>,
    E: Error + Send + Sync + 'static,
{
    let listeners = rpc::listen::tcp(addresses)?;
    let role = Box::pin(run(listeners, stop.gently.clone().cancelled_owned()));
    tokio::select! {
        ended = role => ended?,
        () = stop.now.cancelled() => return Err(Refused::Now.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// A dev-kv has one address, and a configuration that may be refused.
async fn dev_kv(
    args: dev_kv::Args,
    listeners: Vec<TcpListener>,
    end: impl Future<Output = ()>,
) -> Result<(), dev_kv::Error> {
    let config = dev_kv::Config::try_from(args)?;
    let nowhere = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    let listener = listeners.into_iter().next().ok_or_else(nowhere)?;
    dev_kv::run(config, tokio::net::TcpListener::from_std(listener)?, end).await
}

/// Where a gRPC role listens.
fn closed<A: clap::Args>(args: &Grpc<A>, port: u16) -> Result<Vec<SocketAddr>, Refused> {
    allowed(&or_default(&args.listen, &rpc::listen::loopback(port)), args.insecure)
}

/// These addresses, if other machines may reach them or cannot.
fn allowed(addresses: &[SocketAddr], open: bool) -> Result<Vec<SocketAddr>, Refused> {
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(reached) if !open => Err(Refused::Insecure(*reached)),
        _ => Ok(addresses.to_vec()),
    }
}

fn or_default(given: &[SocketAddr], usual: &[SocketAddr]) -> Vec<SocketAddr> {
    if given.is_empty() { usual.to_vec() } else { given.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, clap::Args)]
    struct Nothing {}

    fn listening_on(listen: &str, insecure: bool) -> Result<Vec<SocketAddr>, Refused> {
        let args = Grpc { listen: vec![listen.parse().unwrap()], insecure, role: Nothing {} };
        closed(&args, 7100)
    }

    #[test]
    fn plain_grpc_beyond_this_machine_needs_a_word() {
        assert!(listening_on("127.0.0.1:1", false).is_ok());
        assert!(listening_on("[::1]:1", false).is_ok());
        assert!(matches!(listening_on("0.0.0.0:1", false), Err(Refused::Insecure(_))));
        assert!(matches!(listening_on("10.1.2.3:1", false), Err(Refused::Insecure(_))));
        assert!(listening_on("0.0.0.0:1", true).is_ok());
    }
}
