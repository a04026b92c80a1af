//! `dev-kv` alone: the same server as `till dev-kv`, for other projects.

use clap::Parser;
use dev_kv::{Args, Config, run};
use std::process::ExitCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
#[command(version, about = "PD's and TiKV's wire protocol in one durable process")]
struct Cli {
    #[command(flatten)]
    args: Args,
}

const EXIT_USAGE: u8 = 64;
/// The storage engine's own messages are hidden below warnings.
const DEFAULT_LOG: &str = "info,fjall=warn,lsm_tree=warn";

/// One thread serves, and another one writes to the disk. Handing calls between threads costs more
/// than a second serving thread would gain.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(DEFAULT_LOG)),
        )
        .init();
    let listen = cli.args.listen;
    let config = match Config::try_from(cli.args) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = %error, "not started");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match serve(config, listen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "stopped");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config, listen: std::net::SocketAddr) -> Result<(), dev_kv::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(listen).await?;
    run(config, listener, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}
