//! Many unary calls in one request. The caller gathers them and the callee splits them; neither the
//! generated clients nor the services notice.
//!
//! The contract is `till.bundle.v1.BundleService` (`proto/till/bundle/v1/bundle.proto`). This crate
//! knows no contracts, so it repeats the messages by their field numbers; a test compares the two.

use std::{
    convert::Infallible,
    future::poll_fn,
    iter, mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::BUNDLE_BYTES_MAX;

mod send;
mod serve;
#[cfg(test)]
mod tests;

pub(crate) use send::Bundling;
pub(crate) use serve::Unbundling;

/// Path of the only method.
pub(crate) const PATH: &str = "/till.bundle.v1.BundleService/Call";

/// Upper limit on the headers, and on the trailers, of one call in a bundle.
const HEADERS_MAX: usize = 256;
/// Upper limit on the calls in a bundle.
const CALLS_MAX: usize = 256;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const STATUS_OK: HeaderValue = HeaderValue::from_static("0");

/// `till.bundle.v1.Header`.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `till.bundle.v1.BundledCall`.
#[derive(Clone, PartialEq, prost::Message)]
struct Call {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Header>,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
}

/// `till.bundle.v1.CallRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct CallRequest {
    #[prost(message, repeated, tag = "1")]
    calls: Vec<Call>,
}

/// `till.bundle.v1.Answer`.
#[derive(Clone, PartialEq, prost::Message)]
struct BundledAnswer {
    #[prost(uint32, tag = "1")]
    index: u32,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Header>,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
    #[prost(message, repeated, tag = "4")]
    trailers: Vec<Header>,
}

/// `till.bundle.v1.CallResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct CallResponse {
    #[prost(message, repeated, tag = "1")]
    answers: Vec<BundledAnswer>,
}

/// Packs all headers, except those that every call has.
fn pack(headers: &HeaderMap) -> Vec<Header> {
    let said = headers.iter().filter(|(name, value)| {
        **name != http::header::TE && (**name != CONTENT_TYPE || **value != GRPC)
    });
    said.map(|(name, value)| Header {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    })
    .collect()
}

/// Reverses [`pack`], or says what is wrong with the headers.
fn unpack(packed: Vec<Header>) -> Result<HeaderMap, String> {
    if packed.len() > HEADERS_MAX {
        return Err(format!("must be at most {HEADERS_MAX}, not {}", packed.len()));
    }
    let mut headers = HeaderMap::with_capacity(packed.len() + 1);
    for Header { name, value } in packed {
        let known = HeaderName::from_bytes(name.as_bytes());
        let known = known.map_err(|_| format!("{name:?} is not a header name"))?;
        let value = HeaderValue::from_maybe_shared(value);
        let value = value.map_err(|_| format!("{known} has an invalid value"))?;
        headers.append(known, value);
    }
    Ok(headers)
}

/// Like [`unpack`], and adds the headers that every call has.
fn unpack_head(packed: Vec<Header>) -> Result<HeaderMap, String> {
    let mut headers = unpack(packed)?;
    headers.entry(CONTENT_TYPE).or_insert(GRPC);
    Ok(headers)
}

/// Splits the items, in order, into shares of at most [`CALLS_MAX`] items and [`BUNDLE_BYTES_MAX`]
/// bytes. A larger item gets its own share.
fn split<T>(items: Vec<T>, bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = Vec<T>> {
    let mut rest = items.into_iter().peekable();
    iter::from_fn(move || {
        let mut share = Vec::with_capacity(rest.len().min(CALLS_MAX));
        let mut left = BUNDLE_BYTES_MAX;
        while share.len() < CALLS_MAX
            && let Some(next) = rest.next_if(|next| {
                let fits = left.checked_sub(bytes(next));
                left = fits.unwrap_or_default();
                fits.is_some() || share.is_empty()
            })
        {
            share.push(next);
        }
        (!share.is_empty()).then_some(share)
    })
}

/// A body that is complete in memory.
#[derive(Debug, Default)]
pub(crate) struct FullBody {
    pub(crate) data: Bytes,
    trailers: Option<HeaderMap>,
}

impl FullBody {
    pub(crate) const fn new(data: Bytes) -> Self {
        Self { data, trailers: None }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// The error that the body ends with.
    pub(crate) async fn read(mut body: Body) -> Result<Self, Status> {
        let mut whole = Self::default();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame?.into_data() {
                Ok(data) if whole.data.is_empty() => whole.data = data,
                Ok(data) => {
                    let mut both = BytesMut::from(mem::take(&mut whole.data));
                    both.extend_from_slice(&data);
                    whole.data = both.freeze();
                }
                Err(frame) => whole.trailers = frame.into_trailers().ok(),
            }
        }
        Ok(whole)
    }
}

impl http_body::Body for FullBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = if self.data.is_empty() {
            self.trailers.take().map(Frame::trailers)
        } else {
            Some(Frame::data(mem::take(&mut self.data)))
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len().try_into().unwrap_or(u64::MAX))
    }
}
