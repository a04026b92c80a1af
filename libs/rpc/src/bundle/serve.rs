//! The callee's side: each call of a bundle is handled as if it had come alone.

use std::{
    convert::Infallible,
    future,
    task::{Context, Poll},
};

use admission::Messages;
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use http::{HeaderMap, Method, Uri, Version};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Status, body::Body, server::ServerStreamingService, service::Routes};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{
    BundledAnswer, CALLS_MAX, Call, CallRequest, CallResponse, FullBody, PATH, STATUS, STATUS_OK,
    pack, split, unpack_head,
};
use crate::{
    BUNDLE_BYTES_MAX, COMPRESSION, deadline,
    guard::Guard,
    status::{expired, invalid_field, overloaded, unreadable},
    tls::Connection,
};

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Upper limit on the bytes before each answer in a list.
const LISTED_BYTES: usize = 8;

/// Splits bundles into their calls, and passes every other request on.
#[derive(Debug, Clone)]
pub(crate) struct Unbundling {
    guard: Guard<Routes>,
}

impl Unbundling {
    /// Puts this in front of a guard. The guard sees each call of a bundle; for the bundle itself
    /// it only checks whether the caller may send any.
    pub(crate) const fn new(guard: Guard<Routes>) -> Self {
        Self { guard }
    }
}

impl Service<Request> for Unbundling {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.guard.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.uri().path() != PATH {
            return self.guard.call(request);
        }
        if let Some(refused) = self.guard.refusal(&request) {
            return future::ready(Ok(refused)).boxed();
        }
        let connection: Option<Connection> = request.extensions().get().cloned();
        let untaken = connection.as_ref().map(|of| of.untaken.clone()).unwrap_or_default();
        let unpacking = Unpacking { guard: self.guard.clone(), connection };
        let Some((request, kept)) = self.guard.bundles().admit(request, Messages::One) else {
            let refused = overloaded().into_http();
            return future::ready(Ok(refused)).boxed();
        };
        async move {
            let codec = ProstCodec::<CallResponse, CallRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .max_decoding_message_size(BUNDLE_BYTES_MAX)
                .accept_compressed(COMPRESSION);
            let answer = grpc.server_streaming(unpacking, request).await;
            let answer = unreadable(&answer).map_or(answer, Status::into_http);
            Ok(answer.map(|body| kept.until_taken(body, untaken)))
        }
        .boxed()
    }
}

/// Makes the calls of one bundle.
struct Unpacking {
    guard: Guard<Routes>,
    /// The bundle's connection, which counts as that of its calls.
    connection: Option<Connection>,
}

impl ServerStreamingService<CallRequest> for Unpacking {
    type Response = CallResponse;
    type ResponseStream = BoxStream<'static, Result<CallResponse, Status>>;
    type Future = future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<CallRequest>) -> Self::Future {
        let calls = request.into_inner().calls;
        if calls.len() > CALLS_MAX {
            let problem = format!("must be at most {CALLS_MAX}, not {}", calls.len());
            return future::ready(Err(invalid_field("calls", problem)));
        }
        let answers: FuturesUnordered<_> = (0..)
            .zip(calls)
            .map(|(index, call)| answer(self.guard.clone(), self.connection.clone(), index, call))
            .collect();
        // Answers that are ready together are sent together, without delaying others.
        let together = answers.ready_chunks(CALLS_MAX).flat_map(|answers| {
            let shares = split(answers, |answer| answer.encoded_len() + LISTED_BYTES);
            stream::iter(shares.map(|answers| Ok(CallResponse { answers })))
        });
        future::ready(Ok(tonic::Response::new(together.boxed())))
    }
}

async fn answer(
    guard: Guard<Routes>,
    connection: Option<Connection>,
    index: u32,
    call: Call,
) -> BundledAnswer {
    let answered = match request(index, call, connection) {
        Ok(request) => carry_out(guard, request).await,
        Err(refused) => Err(refused),
    };
    let (headers, body) = answered.unwrap_or_else(|status| {
        (status.into_http::<Body>().into_parts().0.headers, FullBody::default())
    });
    let trailers = body.trailers.unwrap_or_default();
    let is_ok = trailers.len() == 1 && trailers.get(STATUS) == Some(&STATUS_OK);
    BundledAnswer {
        index,
        headers: pack(&headers),
        body: body.data,
        trailers: if is_ok { Vec::new() } else { pack(&trailers) },
    }
}

/// Does what [`Guard`] does for a single request. The deadline covers the answer's body as well.
async fn carry_out(
    mut guard: Guard<Routes>,
    request: Request,
) -> Result<(HeaderMap, FullBody), Status> {
    let left = deadline::of_headers(request.headers());
    let carried = async {
        let Ok(response) = guard.call(request).await;
        let (parts, body) = response.into_parts();
        Ok((parts.headers, FullBody::read(body).await?))
    };
    match left {
        Some(left) => timeout(left, carried).await.unwrap_or_else(|_| Err(expired())),
        None => carried.await,
    }
}

fn request(index: u32, call: Call, connection: Option<Connection>) -> Result<Request, Status> {
    let refused =
        |field: &str, problem: &str| invalid_field(format!("calls[{index}].{field}"), problem);
    if call.path == PATH {
        return Err(refused("path", "must not be a bundle: bundles do not nest"));
    }
    if !call.path.starts_with('/') {
        return Err(refused("path", "must begin with '/'"));
    }
    let uri = Uri::try_from(call.path).map_err(|_| refused("path", "is not a path"))?;
    let headers = unpack_head(call.headers).map_err(|problem| refused("headers", &problem))?;
    let mut request = http::Request::new(Body::new(FullBody::new(call.body)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    if let Some(connection) = connection {
        request.extensions_mut().insert(connection);
    }
    Ok(request)
}
