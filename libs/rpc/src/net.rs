//! Connections, behind a seam. Production speaks HTTP/2; a simulation hands requests to another
//! role's routes in the same process. Generated clients run over either.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use measured::Measured;
use resending::Resending;
use tonic::{Status, transport::Channel};
use tower::{BoxError, Service, ServiceExt as _, util::BoxCloneSyncService};
use types::Role;

use crate::{
    access::Identity,
    bundle::Bundling,
    status::Failure,
    tls::{Connector, Tls},
};

mod measured;
mod resending;

/// The transport of a generated client. Cheap to clone; clones share the connection.
pub type Transport = BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    NetError,
>;

/// The connection did not carry the call through. It is unknown whether the callee got it. A retry
/// may help.
///
/// This is a separate type and not a bare box, because a future that holds a client over a boxed
/// error cannot be proved `Send` ("implementation of `From` is not general enough").
#[derive(Debug)]
pub struct NetError(BoxError);

impl NetError {
    /// Wraps the cause.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call did not go through")
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        Self::from_status(&Status::from_error(error.into()))
    }
}

/// A transport that hands requests to a service in this process, such as another role's `Routes`.
pub fn in_process<S>(service: S) -> Transport
where
    S: Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error: Into<BoxError>,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    BoxCloneSyncService::new(service.map_err(NetError::new))
}

/// The address of one replica, as `host:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(Arc<str>);

/// The text is not an endpoint. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not host:port")]
pub struct EndpointError(String);

impl Endpoint {
    /// The default address of a role, on this machine.
    pub fn usual(role: Role) -> Self {
        SocketAddr::from((Ipv4Addr::LOCALHOST, role.port())).into()
    }

    /// The address as text, `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Parses `host:port`, `[::1]:port`, or either after `http://`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let bare = text.trim();
        let bare = bare.strip_prefix("http://").unwrap_or(bare).trim_end_matches('/');
        let authority: http::uri::Authority =
            bare.parse().map_err(|_| EndpointError(text.to_owned()))?;
        let named = !authority.host().is_empty() && !authority.as_str().contains('@');
        match authority.port_u16() {
            Some(port) if port > 0 && named => Ok(Self(Arc::from(authority.as_str()))),
            _ => Err(EndpointError(text.to_owned())),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self(Arc::from(address.to_string()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Connects to endpoints.
pub trait Net: Send + Sync + fmt::Debug + 'static {
    /// A transport to this endpoint. Never blocks and never fails: it connects with the first
    /// request, and reconnects after a broken connection. A request without a connection fails as
    /// UNAVAILABLE.
    fn connect(&self, endpoint: &Endpoint) -> Transport;

    /// Like [`Net::connect`], but the peer must prove to be this callee, if connections can prove
    /// an identity.
    fn connect_to(&self, _callee: &Identity, endpoint: &Endpoint) -> Transport {
        self.connect(endpoint)
    }
}

/// Timeouts of connections.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Upper limit on making a connection.
    pub connect_timeout: Duration,
    /// How often a quiet connection is pinged, idle or not.
    pub keep_alive_interval: Duration,
    /// A connection counts as broken if a ping is not answered within this time.
    pub keep_alive_timeout: Duration,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// The real network: gRPC over HTTP/2 over TCP, encrypted or not. A callee may end a connection
/// gracefully at any time, by GOAWAY, without failing a call. Requests must not be streams, because
/// each is read whole before it is sent.
#[derive(Debug, Clone, Default)]
pub struct GrpcNet {
    options: NetOptions,
    tls: Option<Tls>,
    bundles: bool,
}

/// Flow-control windows, large enough that round trips do not cut up a batch of operations.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

impl GrpcNet {
    /// The network with these timeouts.
    pub const fn new(options: NetOptions) -> Self {
        Self { options, tls: None, bundles: false }
    }

    /// The network with default timeouts, encrypted if there are certificates.
    pub fn with_tls(tls: Option<Tls>) -> Self {
        Self { tls, ..Self::default() }
    }

    /// The same network, for a caller that makes many unary calls at once, and no streaming calls
    /// except health and reflection. Calls to one endpoint in one turn of the event loop share one
    /// request, but each succeeds or fails on its own. A callee without bundles gets them one by
    /// one.
    #[must_use]
    pub fn bundling(self) -> Self {
        Self { bundles: true, ..self }
    }

    /// A tonic channel to this endpoint, which connects with the first request. With TLS the
    /// endpoint must prove to be this callee or, if none is given, any service of the shop.
    pub fn channel(&self, callee: Option<&Identity>, endpoint: &Endpoint) -> Channel {
        let plain = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}"))
            .expect("an Endpoint holds a valid authority")
            .connect_timeout(self.options.connect_timeout)
            .http2_keep_alive_interval(self.options.keep_alive_interval)
            .keep_alive_timeout(self.options.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true);
        let Some(tls) = &self.tls else { return plain.connect_lazy() };
        let said = format!("https://{endpoint}").parse();
        plain
            .origin(said.expect("an Endpoint holds a valid authority"))
            .connect_with_connector_lazy(Connector::new(tls.clone(), callee.cloned()))
    }

    fn transport(&self, callee: Option<&Identity>, endpoint: &Endpoint) -> Transport {
        let channel = Resending(self.channel(callee, endpoint));
        if self.bundles {
            in_process(Measured(Bundling::new(channel)))
        } else {
            in_process(Measured(channel))
        }
    }
}

impl Net for GrpcNet {
    fn connect(&self, endpoint: &Endpoint) -> Transport {
        self.transport(None, endpoint)
    }

    fn connect_to(&self, callee: &Identity, endpoint: &Endpoint) -> Transport {
        self.transport(Some(callee), endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for (text, parsed) in [
            ("127.0.0.1:7100", "127.0.0.1:7100"),
            (" http://stock:7200/ ", "stock:7200"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().as_str(), parsed);
        }
        for text in
            ["", "stock", "stock:", "stock:0", ":80", "a b:1", "https://a:1", "u@a:1", "a:70000"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
    }
}
