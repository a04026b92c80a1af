//! A network in one process: a function carries each request to its endpoint. Also requests as
//! short texts.

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body_util::BodyExt as _;
use rpc::{
    net::{Endpoint, Net, Transport, in_process},
    routing::Target,
};
use tonic::body::Body;
use tower::{BoxError, service_fn};

/// What became of a request: the answer, or why there is none.
pub type Carried = Result<Response<Body>, BoxError>;

/// A network over which this function carries each request.
pub fn carried_by<F, A>(carry: F) -> Arc<dyn Net>
where
    F: Fn(Endpoint, Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Carried> + Send + 'static,
{
    Arc::new(Carrier(carry))
}

struct Carrier<F>(F);

impl<F> fmt::Debug for Carrier<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier")
    }
}

impl<F, A> Net for Carrier<F>
where
    F: Fn(Endpoint, Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Carried> + Send + 'static,
{
    fn connect(&self, endpoint: &Endpoint) -> Transport {
        let (carry, endpoint) = (self.0.clone(), endpoint.clone());
        in_process(service_fn(move |request| carry(endpoint.clone(), request)))
    }
}

/// A request without a body. The call has the form `METHOD path`.
pub fn request<B: Default>(call: &str, headers: &[(&str, &str)]) -> Request<B> {
    let (method, path) = call.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(B::default()).unwrap()
}

/// The head and the whole body of an answer.
pub async fn read<B: http_body::Body<Error: fmt::Debug>>(response: Response<B>) -> (Parts, Bytes) {
    let (parts, body) = response.into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}

/// The two replicas of a service: `name-0:1` and `name-1:1`.
pub fn replicas(name: &str) -> Target {
    format!("{name}-0:1,{name}-1:1").parse().unwrap()
}

/// The service that a replica belongs to.
pub fn service_of(endpoint: &Endpoint) -> &str {
    let text = endpoint.as_str();
    text.split_once('-').map_or(text, |(service, _)| service)
}
