//! A REST connection: one request at a time, kept alive.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rpc::net::Endpoint;
use tokio::{net::TcpStream, time::timeout};

use crate::call::{Call, Outcome, Reply, Trouble};

/// A connection to one replica, opened when it is needed and again after a failure.
#[derive(Debug)]
pub(crate) struct Rest {
    target: Endpoint,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Rest {
    /// A client without a connection yet.
    pub(crate) const fn new(target: Endpoint) -> Self {
        Self { target, sender: None }
    }

    /// Makes one call.
    pub(crate) async fn call(&mut self, call: &Call) -> Outcome {
        let (method, path) = call.rest();
        let answer = match timeout(call.patience(), self.send(method, &path)).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".to_owned()),
        };
        match answer {
            Ok((status, body)) => judge(status, body),
            Err(problem) => {
                // A late answer must not be taken for the answer to the next call.
                self.sender = None;
                Err(Trouble::Failed(problem))
            }
        }
    }

    /// Sends one request without a body; returns the answer's status and body.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), String> {
        let open = self.sender.take().filter(|sender| !sender.is_closed());
        let mut sender = match open {
            Some(sender) => sender,
            None => connect(&self.target).await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.target.as_str())
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let gone = |error: hyper::Error| format!("connection lost: {error}");
        sender.ready().await.map_err(gone)?;
        let response = sender.send_request(request).await.map_err(gone)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(gone)?.to_bytes();
        self.sender = Some(sender);
        // A copy, because the body is part of the connection's buffer and would keep all of it
        // alive.
        Ok((status, Bytes::copy_from_slice(&body)))
    }
}

async fn connect(target: &Endpoint) -> Result<SendRequest<Empty<Bytes>>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot connect: {error}");
    let stream = TcpStream::connect(target.as_str()).await.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // The caller that waits for an answer gets the error.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// 2xx is a success, 429 is too much and nothing was begun, any other 4xx is a refusal. Everything
/// else is a failure.
fn judge(status: StatusCode, body: Bytes) -> Outcome {
    if status.is_success() {
        return Ok(Reply::Body(body));
    }
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let reason = problem["reason"].as_str().unwrap_or("without a reason");
    let said = || format!("{} {reason}", status.as_u16());
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Trouble::Shed(said()));
    }
    if status.is_client_error() {
        return Err(Trouble::Refused(reason.to_owned()));
    }
    Err(Trouble::Failed(said()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_definite_no_is_a_refusal() {
        let body = Bytes::from_static(br#"{"reason": "OUT_OF_STOCK"}"#);
        let refused = Err(Trouble::Refused("OUT_OF_STOCK".to_owned()));
        assert_eq!(judge(StatusCode::CONFLICT, body.clone()), refused);
        let later = judge(StatusCode::TOO_MANY_REQUESTS, body.clone());
        assert!(matches!(later, Err(Trouble::Shed(_))));
        let unknown = judge(StatusCode::SERVICE_UNAVAILABLE, body.clone());
        assert!(matches!(unknown, Err(Trouble::Failed(_))));
        assert_eq!(judge(StatusCode::OK, body.clone()), Ok(Reply::Body(body)));
    }
}
