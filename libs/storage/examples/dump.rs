//! Prints every key and value that the store holds now, in hex, one pair per line. The output is
//! used as a sample of what a release stores, which later releases must read.
//!
//! ```text
//! cargo run -p storage --example dump -- 127.0.0.1:2379 > store.hex
//! ```

#![allow(clippy::print_stdout, reason = "this is what it is for")]

use clap::Parser as _;
use storage::{args::StoreArgs, codec::hex};

/// Keys in one page.
const PAGE: u32 = 1_000;

#[derive(clap::Parser)]
struct Args {
    /// The store.
    #[command(flatten)]
    store: StoreArgs,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kv = Args::parse().store.connect().await?;
    let now = loop {
        match kv.timestamp().await {
            Ok(now) => break now,
            Err(error) => eprintln!("waiting for the store: {error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    println!("at {}", now.0);
    let mut snapshot = kv.snapshot(now);
    let mut range = vec![0]..vec![0xff];
    loop {
        let page = snapshot.scan(range.clone(), PAGE).await?;
        for (key, value) in &page {
            println!("{} {}", hex(key), hex(value));
        }
        match page.last() {
            Some((last, _)) => range.start = [last.as_slice(), &[0]].concat(),
            None => return Ok(()),
        }
    }
}
