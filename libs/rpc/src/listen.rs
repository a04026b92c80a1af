//! Binds the sockets of a role before anything heavy begins, with errors that say what to do.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted. The kernel may allow fewer.
const BACKLOG: i32 = 4096;

/// The bound sockets of one role.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For the role's work.
    pub work: Vec<TcpListener>,
    /// For the admin listener ([`crate::admin`]); may be empty.
    pub admin: Vec<TcpListener>,
}

/// Why a socket could not be bound. The caller chooses another port, or ends the process that holds
/// it.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("port {} is taken: another process listens on {address}", address.port())]
    Taken {
        /// The requested address.
        address: SocketAddr,
    },
    /// Not allowed: ports below 1024 usually need a privilege.
    #[error("not allowed to listen on {address}")]
    NotAllowed {
        /// The requested address.
        address: SocketAddr,
    },
    /// Any other error.
    #[error("cannot listen on {address}")]
    Failed {
        /// The requested address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// No address was given, or none of them exists on this host.
    #[error("no address to listen on")]
    Nothing,
}

/// Every address of this host: `[::]` and `0.0.0.0`.
pub fn everywhere(port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
    ]
}

/// This host only: `127.0.0.1` and `[::1]`, because a caller's `localhost` may be either.
pub fn loopback(port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
    ]
}

/// Binds every address. Each socket serves its own family only, so that `[::]` and `0.0.0.0` can
/// both be bound. `[::]` and `[::1]` are silently left out if the host has no IPv6 and another
/// address is bound. For port 0, the first socket chooses a port and the others take the same.
///
/// The sockets are non-blocking, as tokio requires.
///
/// # Errors
/// [`ListenError`]; nothing stays bound. A retry helps once the other process is gone.
pub fn tcp(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ListenError> {
    let mut bound: Vec<TcpListener> = Vec::new();
    let mut chosen = None;
    let mut left_out = None;
    for &wanted in addresses {
        let mut address = wanted;
        if let (0, Some(port)) = (address.port(), chosen) {
            address.set_port(port);
        }
        match bind(address) {
            Ok(listener) => {
                if wanted.port() == 0 {
                    chosen = listener.local_addr().ok().map(|address| address.port());
                }
                bound.push(listener);
            }
            Err(source) if is_of_every_host(address) && is_no_ipv6(&source) => {
                left_out = Some(ListenError::Failed { address, source });
            }
            Err(source) => return Err(explain(address, source)),
        }
    }
    if bound.is_empty() {
        return Err(left_out.unwrap_or(ListenError::Nothing));
    }
    Ok(bound)
}

/// The addresses of these listeners, for people.
pub fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

/// Bytes of unread answers that the kernel keeps for each connection. Linux doubles it. If unset,
/// it may grow to 4 MiB.
const SEND_BUFFER: usize = 64 * 1024;

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Lets a restarted process reuse its port while old connections linger. Two listeners at once
    // stay impossible.
    socket.set_reuse_address(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// True for addresses that every host with IPv6 has. If another address is missing, that is a
/// mistake.
fn is_of_every_host(address: SocketAddr) -> bool {
    address.is_ipv6() && (address.ip().is_unspecified() || address.ip().is_loopback())
}

/// EAFNOSUPPORT if the kernel has no IPv6, EADDRNOTAVAIL if no interface has it.
fn is_no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn explain(address: SocketAddr, source: io::Error) -> ListenError {
    if source.kind() == io::ErrorKind::AddrInUse {
        ListenError::Taken { address }
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        ListenError::NotAllowed { address }
    } else {
        ListenError::Failed { address, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_in_either_family_is_named() {
        for taken in loopback(0) {
            // On a host without IPv6 nobody can take the port there.
            let Ok(first) = tcp(&[taken]) else { continue };
            let taken = addresses(&first)[0];
            let error = tcp(&loopback(taken.port())).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("port {} is taken: another process listens on {taken}", taken.port())
            );
        }
    }

    #[test]
    fn the_kernel_keeps_little_of_what_a_client_does_not_take() {
        let listener = tcp(&[(Ipv4Addr::LOCALHOST, 0).into()]).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let sent = std::iter::from_fn(|| io::Write::write(&mut &server, &[0; 4_096]).ok());
        let sent: usize = sent.sum();
        // The client's own buffer takes some of it.
        let kept = sent - socket2::SockRef::from(&client).recv_buffer_size().unwrap().min(sent);
        assert!(kept <= 4 * SEND_BUFFER, "{kept} of {sent} bytes");
        assert_eq!(socket2::SockRef::from(&server).send_buffer_size().unwrap(), 2 * SEND_BUFFER);
    }

    #[test]
    fn both_families_share_one_port() {
        for wanted in [everywhere(0), loopback(0)] {
            let bound = addresses(&tcp(&wanted).unwrap());
            assert!(bound.iter().all(|address| address.port() == bound[0].port()));
            assert!(bound[0].port() > 0);
            // A host without IPv6 has the IPv4 socket only.
            assert!(bound.iter().any(SocketAddr::is_ipv4));
            let has_ipv6 = tcp(&[(Ipv6Addr::LOCALHOST, 0).into()]).is_ok();
            assert_eq!(bound.iter().any(SocketAddr::is_ipv6), has_ipv6);
        }
    }

    #[test]
    fn an_address_that_is_not_of_every_host_is_not_left_out() {
        // An address for documentation, which no host has.
        let lacking: SocketAddr = "[2001:db8::1]:0".parse().unwrap();
        let error = tcp(&[loopback(0)[0], lacking]).unwrap_err();
        let is_named =
            matches!(&error, ListenError::Failed { address, .. } if address.ip() == lacking.ip());
        assert!(is_named, "{error}");
    }

    #[test]
    fn no_address_is_an_error() {
        assert!(matches!(tcp(&[]), Err(ListenError::Nothing)));
    }
}
