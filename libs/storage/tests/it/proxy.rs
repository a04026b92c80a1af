//! A TCP proxy on loopback that can hold back or cut its connections.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What happens to the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They pass.
    Pass,
    /// They wait, and the connection stays open.
    Hold,
    /// The connection is closed.
    Cut,
}

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    connections: Arc<Mutex<Vec<watch::Sender<Flow>>>>,
    accept: JoinHandle<()>,
}

impl Proxy {
    /// Listens on this socket and forwards to `target`.
    pub(crate) fn start(listener: TcpListener, target: SocketAddr) -> Self {
        let addr = listener.local_addr().unwrap();
        let connections: Arc<Mutex<Vec<watch::Sender<Flow>>>> = Arc::default();
        let known = Arc::clone(&connections);
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (sender, flow) = watch::channel(Flow::Pass);
                known.lock().unwrap().push(sender);
                tokio::spawn(forward(client, target, flow));
            }
        });
        Self { addr, connections, accept }
    }

    /// The address on which it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the flow of all present connections. Later ones pass.
    pub(crate) fn existing(&self, flow: Flow) {
        for connection in self.connections.lock().unwrap().iter() {
            connection.send_replace(flow);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.existing(Flow::Cut);
    }
}

async fn forward(client: TcpStream, target: SocketAddr, flow: watch::Receiver<Flow>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(pump(from_client, to_server, flow.clone()), pump(from_server, to_client, flow),);
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flow: watch::Receiver<Flow>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let now = *flow.borrow_and_update();
        let held = match now {
            Flow::Pass => false,
            Flow::Hold => true,
            Flow::Cut => return,
        };
        tokio::select! {
            changed = flow.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer), if !held => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => if to.write_all(&buffer[..count]).await.is_err() { return },
            },
        }
    }
}
