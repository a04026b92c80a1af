//! The caller's side: calls made in one turn of the event loop share a bundle.
//!
//! The first call to an empty queue starts a task, which runs after the tasks that were ready
//! before it and takes all calls that these made. So there is no timer, bundles grow with the load,
//! and a bundle never waits for another one's answers.

use std::{
    error, fmt, iter, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::request::Parts;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tonic::{
    Code, Status, TimeoutExpired, body::Body, client::Grpc, codegen::http::uri::PathAndQuery,
};
use tonic_prost::ProstCodec;
use tower::{BoxError, Service, ServiceExt as _};

use super::{
    BundledAnswer, Call, CallRequest, CallResponse, FullBody, STATUS, STATUS_OK, pack, split,
    unpack, unpack_head,
};
use crate::{BUNDLE_BYTES_MAX, MESSAGE_BYTES_MAX, access, deadline};

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Calls with a larger body are sent alone, because a bundle would save them nothing.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long no bundles are sent to a callee that does not know them.
const PLAIN_FOR: Duration = Duration::from_mins(1);
/// Upper limit on what encoding adds to a call, and to each of its headers.
const FRAMES_BYTES: usize = 24;

/// A connection whose unary calls are bundled when there are several at once; a single call is sent
/// as it is. It carries unary calls only.
#[derive(Clone)]
pub(crate) struct Bundling<S> {
    plain: S,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    plain_until: Option<Instant>,
}

/// A call, and the sender for its answer.
struct Waiting {
    parts: Parts,
    body: bytes::Bytes,
    answer: oneshot::Sender<Result<Response, BoxError>>,
}

/// The error that failed all calls of a bundle.
#[derive(Debug, Clone)]
struct Together(Arc<dyn error::Error + Send + Sync>);

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bundle did not go through")
    }
}

impl error::Error for Together {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// The stream of answers ended too early. It holds a text instead of the error, because a status
/// among the causes could be taken for an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer came before the stream of answers ended: {0}")]
struct Unanswered(String);

impl<S> Bundling<S> {
    pub(crate) fn new(plain: S) -> Self {
        Self { plain, queue: Arc::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No change under this lock is left half-done, so a panic elsewhere does not matter.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_plainly(&self, path: &str) -> bool {
        let mut queue = self.queue();
        if queue.plain_until.is_some_and(|until| until <= Instant::now()) {
            queue.plain_until = None;
        }
        queue.plain_until.is_some() || access::is_free(path)
    }
}

impl<S> Service<Request> for Bundling<S>
where
    S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let this = self.clone();
        if self.goes_plainly(request.uri().path()) {
            return this.plain(request).boxed();
        }
        this.gather(request).boxed()
    }
}

impl<S> Bundling<S>
where
    S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    async fn plain(self, request: Request) -> Result<Response, BoxError> {
        self.plain.oneshot(request).await.map_err(Into::into)
    }

    async fn gather(self, request: Request) -> Result<Response, BoxError> {
        let (parts, body) = request.into_parts();
        let body = FullBody::read(body).await?.data;
        if body.len() > BODY_BYTES_MAX {
            return self.plain(http::Request::from_parts(parts, full_body(body))).await;
        }
        let left = deadline::of_headers(&parts.headers);
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut queue = self.queue();
            queue.waiting.push(Waiting { parts, body, answer });
            queue.waiting.len() == 1
        };
        if first {
            tokio::spawn(self.send());
        }
        let answered = match left {
            Some(left) => timeout(left, answered).await.map_err(|_| TimeoutExpired(()))?,
            None => answered.await,
        };
        // The sender is dropped without an answer only when the runtime ends.
        answered?
    }

    async fn send(self) {
        // Other ready tasks and the sockets get a turn first, which makes bundles larger.
        tokio::task::yield_now().await;
        let mut waiting = mem::take(&mut self.queue().waiting);
        waiting.retain(|waiting| !waiting.answer.is_closed());
        let mut bundles = split(waiting, Waiting::bytes);
        let first = bundles.next();
        for bundle in bundles {
            tokio::spawn(self.clone().carry(bundle));
        }
        if let Some(bundle) = first {
            self.carry(bundle).await;
        }
    }

    async fn carry(self, mut bundle: Vec<Waiting>) {
        match bundle.pop() {
            Some(alone) if bundle.is_empty() => self.carry_alone(alone).await,
            Some(last) => {
                bundle.push(last);
                self.carry_together(bundle).await;
            }
            None => {}
        }
    }

    /// Sends one call. Ends early if nobody waits for the answer.
    async fn carry_alone(self, waiting: Waiting) {
        let Waiting { parts, body, mut answer } = waiting;
        let call = self.plain(http::Request::from_parts(parts, full_body(body)));
        let answered = tokio::select! {
            biased;
            answered = call => answered,
            () = answer.closed() => return,
        };
        let _gone = answer.send(answered);
    }

    async fn carry_together(self, bundle: Vec<Waiting>) {
        let calls = bundle.iter().map(Waiting::packed).collect();
        let mut client = Grpc::new(self.plain.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX + BUNDLE_BYTES_MAX);
        let codec = ProstCodec::<CallRequest, CallResponse>::default();
        let sent = async {
            client.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let request = tonic::Request::new(CallRequest { calls });
            client.server_streaming(request, PathAndQuery::from_static(super::PATH), codec).await
        };
        let refused = match sent.await {
            Ok(answers) => return deliver(bundle, answers.into_inner()).await,
            Err(refused) => refused,
        };
        if error::Error::source(&refused).is_some() {
            // No callee sent this: the connection broke, or there was none.
            let together = Together(Arc::new(refused));
            return fail(bundle, || together.clone().into());
        }
        // The callee is older than bundles. If it checks its callers, it forbids unknown calls.
        if matches!(refused.code(), Code::Unimplemented | Code::PermissionDenied) {
            self.queue().plain_until = Some(Instant::now() + PLAIN_FOR);
            let alone = bundle.into_iter().map(|waiting| self.clone().carry_alone(waiting));
            alone.collect::<FuturesUnordered<_>>().collect::<()>().await;
            return;
        }
        for waiting in bundle {
            let _gone = waiting.answer.send(Ok(refused.clone().into_http()));
        }
    }
}

impl Waiting {
    /// Upper bound on its length in a bundle, in bytes.
    fn bytes(&self) -> usize {
        let headers = self.parts.headers.iter();
        let headers: usize =
            headers.map(|(name, value)| name.as_str().len() + value.len() + FRAMES_BYTES).sum();
        headers + self.parts.uri.path().len() + self.body.len() + FRAMES_BYTES
    }

    fn packed(&self) -> Call {
        Call {
            path: self.parts.uri.path().to_owned(),
            headers: pack(&self.parts.headers),
            body: self.body.clone(),
        }
    }
}

fn full_body(data: bytes::Bytes) -> Body {
    Body::new(FullBody::new(data))
}

/// Delivers answers as they arrive, and fails the remaining calls when the stream ends.
async fn deliver(bundle: Vec<Waiting>, mut answers: tonic::Streaming<CallResponse>) {
    let mut waiting: Vec<_> = bundle.into_iter().map(|waiting| Some(waiting.answer)).collect();
    let ended = loop {
        match answers.message().await {
            Ok(Some(response)) => {
                for answer in response.answers {
                    let whose = usize::try_from(answer.index).ok();
                    let whose = whose.and_then(|index| waiting.get_mut(index)?.take());
                    if let Some(whose) = whose {
                        let _gone = whose.send(read(answer).map_err(Into::into));
                    }
                }
            }
            Ok(None) => break "it was complete".to_owned(),
            Err(status) => break status.to_string(),
        }
    };
    for unanswered in waiting.into_iter().flatten() {
        let _gone = unanswered.send(Err(Unanswered(ended.clone()).into()));
    }
}

fn fail(bundle: Vec<Waiting>, why: impl Fn() -> BoxError) {
    for waiting in bundle {
        let _gone = waiting.answer.send(Err(why()));
    }
}

fn read(answer: BundledAnswer) -> Result<Response, Unanswered> {
    let headers = unpack_head(answer.headers).map_err(Unanswered)?;
    let trailers = if !answer.trailers.is_empty() {
        Some(unpack(answer.trailers).map_err(Unanswered)?)
    } else if headers.contains_key(STATUS) {
        None
    } else {
        Some(iter::once((STATUS, STATUS_OK)).collect())
    };
    let mut response = http::Response::new(Body::new(FullBody { data: answer.body, trailers }));
    *response.headers_mut() = headers;
    Ok(response)
}
