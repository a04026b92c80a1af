//! A service to call, a server for it, and clients.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use rpc::{
    deadline, listen,
    net::{GrpcNet, Net as _, Transport},
    server::{self, Options, Readiness, ServeError},
    status::Failure,
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http::uri::PathAndQuery,
    server::{NamedService, UnaryService},
    service::Routes,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;

/// A text, both as the request and as the response.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

/// A service that echoes, waits for a permit, reports how it was called, or panics.
#[derive(Clone)]
pub(crate) struct Echo {
    go: Arc<Semaphore>,
    begun: Arc<Semaphore>,
}

impl Default for Echo {
    fn default() -> Self {
        Self { go: Arc::new(Semaphore::new(0)), begun: Arc::new(Semaphore::new(0)) }
    }
}

pub(crate) const NAME: &str = "test.v1.EchoService";

impl NamedService for Echo {
    const NAME: &'static str = NAME;
}

/// A call of one method.
struct Call {
    echo: Echo,
    method: String,
}

impl UnaryService<Text> for Call {
    type Response = Text;
    type Future = BoxFuture<'static, Result<Response<Text>, Status>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let (echo, method) = (self.echo.clone(), self.method.clone());
        async move {
            assert_ne!(method, "Panic", "as asked");
            if method == "Wait" {
                echo.begun.add_permits(1);
                echo.go.acquire().await.unwrap().forget();
            }
            // A call sent alone carries the connection's user agent.
            let alone = request.metadata().contains_key("user-agent");
            let mut text = request.into_inner();
            if method == "Way" {
                text.text.push_str(if alone { " alone" } else { " bundled" });
            }
            Ok(Response::new(text))
        }
        .boxed()
    }
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let echo = self.clone();
        async move {
            let codec = ProstCodec::<Text, Text>::default();
            let call = Call { echo, method };
            Ok(rpc::served!(tonic::server::Grpc::new(codec)).unary(call, request).await)
        }
        .boxed()
    }
}

/// A running server.
pub(crate) struct Shop {
    pub(crate) address: SocketAddr,
    pub(crate) readiness: Readiness,
    /// Tells the server to shut down.
    pub(crate) end: oneshot::Sender<()>,
    pub(crate) served: JoinHandle<Result<(), ServeError>>,
    /// Each permit lets one waiting call finish.
    pub(crate) go: Arc<Semaphore>,
    begun: Arc<Semaphore>,
}

pub(crate) fn options() -> Options {
    Options {
        lame_duck: Duration::from_millis(200),
        ..Options::new(vec![NAME], tonic_types::pb::FILE_DESCRIPTOR_SET)
    }
}

impl Shop {
    pub(crate) fn open(options: Options) -> Self {
        let listeners = listen::tcp(&listen::loopback(0)).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let echo = Echo::default();
        let (go, begun) = (Arc::clone(&echo.go), Arc::clone(&echo.begun));
        let (end, ended) = oneshot::channel();
        let readiness = Readiness::new();
        let served = tokio::spawn(server::serve(
            Routes::new(echo),
            listeners,
            options,
            readiness.clone(),
            ended.map(|_| ()),
        ));
        Self { address, readiness, end, served, go, begun }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Transport {
        GrpcNet::default().connect(&self.address.into())
    }

    /// A new connection that bundles its calls.
    pub(crate) fn connect_bundling(&self) -> Transport {
        GrpcNet::default().bundling().connect(&self.address.into())
    }

    /// Returns once this many more calls have begun.
    pub(crate) async fn until_begun(&self, calls: u32) {
        let begun = tokio::time::timeout(PATIENCE, self.begun.acquire_many(calls));
        begun.await.expect("they begin in time").unwrap().forget();
    }

    /// Starts a call that waits for a permit. Returns once it is in the handler.
    pub(crate) async fn begin_waiting(
        &self,
        transport: &Transport,
    ) -> JoinHandle<Result<Text, Failure>> {
        let transport = transport.clone();
        let call = tokio::spawn(async move { call(&transport, "Wait", PATIENCE).await });
        self.until_begun(1).await;
        call
    }

    /// The health of a service now, over a new connection: 1 SERVING, 2 NOT_SERVING.
    pub(crate) async fn health(&self, service: &str) -> Result<i32, Status> {
        self.health_over(self.connect(), service).await
    }

    /// The health of a service now, over this connection.
    pub(crate) async fn health_over(
        &self,
        transport: Transport,
        service: &str,
    ) -> Result<i32, Status> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(transport).check(request).await?;
        Ok(answer.into_inner().status)
    }

    /// Waits until health reports this status.
    pub(crate) async fn until_health(&self, service: &str, status: i32) {
        tokio::time::timeout(PATIENCE, async {
            while self.health(service).await.ok() != Some(status) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("health says so in time");
    }
}

/// Upper limit on any step of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const SERVING: i32 = 1;
pub(crate) const NOT_SERVING: i32 = 2;
pub(crate) const SERVICE_UNKNOWN: i32 = 3;

pub(crate) async fn call(
    transport: &Transport,
    method: &str,
    timeout: Duration,
) -> Result<Text, Failure> {
    call_path(transport, &format!("/{NAME}/{method}"), timeout).await
}

pub(crate) async fn call_path(
    transport: &Transport,
    path: &str,
    timeout: Duration,
) -> Result<Text, Failure> {
    say(transport, path, "hello", timeout).await
}

pub(crate) async fn say(
    transport: &Transport,
    path: &str,
    text: &str,
    timeout: Duration,
) -> Result<Text, Failure> {
    let mut client = tonic::client::Grpc::new(transport.clone());
    client.ready().await?;
    let mut request = Request::new(Text { text: text.to_owned() });
    deadline::set(&mut request, timeout);
    let path = PathAndQuery::try_from(path).unwrap();
    let codec = ProstCodec::<Text, Text>::default();
    Ok(client.unary(request, path, codec).await?.into_inner())
}
