//! Resends a request that the callee did not look at because it was ending the connection.
//!
//! A callee ends a connection gracefully when the connection is old or the callee shuts down: it
//! answers what it has begun, and sends GOAWAY. A request that came too late has certainly had no
//! effect, so it is sent again over a new connection to the same callee. Any other end of a
//! connection proves nothing and is left to the caller.

use std::{
    error::Error,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use h2::Reason;
use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt as _};

use crate::bundle::FullBody;

/// Upper limit on the connections that may end under one request. A callee that ends each of them
/// has no time for it.
const CONNECTIONS_MAX: usize = 8;

/// Sends requests over a connection. Each is read whole first, so streaming requests do not work.
#[derive(Debug, Clone)]
pub(super) struct Resending<S>(pub(super) S);

impl<S> Service<http::Request<Body>> for Resending<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let connection = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let data = FullBody::read(body).await?.data;
            for _ in 1..CONNECTIONS_MAX {
                let body = Body::new(FullBody::new(data.clone()));
                let request = http::Request::from_parts(parts.clone(), body);
                match connection.clone().oneshot(request).await.map_err(Into::into) {
                    Err(error) if was_not_begun(&*error) => {
                        tracing::debug!(%error, "the connection ended, sending again");
                    }
                    other => return other,
                }
            }
            let request = http::Request::from_parts(parts, Body::new(FullBody::new(data)));
            connection.oneshot(request).await.map_err(Into::into)
        })
    }
}

/// True if the callee has certainly not begun the request.
fn was_not_begun(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // The connection ended while the request was queued.
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        // RFC 9113, section 6.8: a stream that GOAWAY ends has a number above the last one that the
        // callee looked at. The other streams continue after it.
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_go_away()
                && error.is_remote()
                && error.reason() == Some(Reason::NO_ERROR);
        }
        next = error.source();
    }
    false
}
