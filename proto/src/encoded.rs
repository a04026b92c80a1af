//! Operations of an Apply call, encoded once and sent as often as needed.
//!
//! On the wire, a field of a message type looks like a `bytes` field that holds the encoded
//! message. So the parts that all operations of a transaction share (its `TxMeta`, its branches)
//! are encoded once. Each operation is assembled from them, and a batch is assembled from
//! operations. A participant sees what the generated types would have sent.

use bytes::Bytes;
use prost::{DecodeError, Message};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::{Grpc, GrpcService},
    codegen::{Body as HttpBody, GrpcMethod, StdError, http::uri::PathAndQuery},
};
use types::TxMeta;

use crate::{
    participant::v1::{self as wire, operation::Operation as Op},
    types::v1 as shared,
};

/// An encoded `Operation`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded(Bytes);

impl From<Op> for Encoded {
    fn from(operation: Op) -> Self {
        encode(&wire::Operation { operation: Some(operation) })
    }
}

impl Encoded {
    /// Decodes the operation; none for an unknown kind of operation.
    ///
    /// # Errors
    /// [`DecodeError`]; never for a value that this module made.
    pub fn decode(&self) -> Result<Option<Op>, DecodeError> {
        wire::Operation::decode(self.0.clone()).map(|operation| operation.operation)
    }
}

fn encode(operation: &impl Message) -> Encoded {
    Encoded(operation.encode_to_vec().into())
}

/// The operations of one transaction. An *index* is the position of a branch among its branches.
/// The methods return none for an index that does not exist.
#[derive(Debug, Clone)]
pub struct Operations {
    tx_id: Bytes,
    tx: Bytes,
    branches: Vec<Bytes>,
}

impl Operations {
    /// Encodes what all operations of this transaction share.
    pub fn new(meta: &TxMeta) -> Self {
        let tx = shared::TxMeta::from(meta);
        let branches = tx.branches.iter().map(|branch| branch.encode_to_vec().into()).collect();
        Self { tx_id: tx.tx_id.clone(), branches, tx: tx.encode_to_vec().into() }
    }

    /// Asks a branch for its vote. Only the service understands the payload.
    pub fn prepare(&self, index: usize, payload: Bytes) -> Option<Encoded> {
        let prepare = Prepare { tx: self.tx.clone(), branch: self.branch(index)?, payload };
        Some(encode(&Operation { prepare: Some(prepare), ..Operation::default() }))
    }

    /// Commits the transaction. `receipts` go to the primary only, one for each index.
    pub fn commit(
        &self,
        index: usize,
        receipts: impl IntoIterator<Item = Vec<u8>>,
    ) -> Option<Encoded> {
        let receipts = self.branches.iter().zip(receipts);
        let receipts = receipts
            .map(|(branch, receipt)| Receipt { branch: branch.clone(), receipt: receipt.into() });
        let receipts = receipts.collect();
        let commit = Commit { tx: self.tx.clone(), branch: self.branch(index)?, receipts };
        Some(encode(&Operation { commit: Some(commit), ..Operation::default() }))
    }

    /// Aborts the transaction. To the primary only: `evidence` is the index at which a NO, a
    /// CONTENDED or a fence was seen, and `refusal` is what the client will be told.
    pub fn abort(
        &self,
        index: usize,
        evidence: Option<usize>,
        refusal: Option<wire::vote::No>,
    ) -> Option<Encoded> {
        let evidence = evidence.and_then(|index| self.branch(index));
        let (tx, branch) = (self.tx.clone(), self.branch(index)?);
        let abort = Abort { tx, branch, evidence, refusal };
        Some(encode(&Operation { abort: Some(abort), ..Operation::default() }))
    }

    /// Asks what a branch knows. With `fence`, a branch that knows nothing leaves a fence.
    pub fn query(&self, index: usize, fence: bool) -> Option<Encoded> {
        let query = Query { tx: self.tx.clone(), branch: self.branch(index)?, fence };
        Some(encode(&Operation { query: Some(query), ..Operation::default() }))
    }

    /// Tells the primary that it may forget the transaction.
    pub fn forget(&self, index: usize) -> Option<Encoded> {
        let forget = Forget { tx_id: self.tx_id.clone(), branch: self.branch(index)? };
        Some(encode(&Operation { forget: Some(forget), ..Operation::default() }))
    }

    fn branch(&self, index: usize) -> Option<Bytes> {
        self.branches.get(index).cloned()
    }
}

/// An `ApplyRequest` of encoded operations.
#[derive(Clone, PartialEq, Message)]
pub struct ApplyRequest {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    operations: Vec<Bytes>,
}

impl FromIterator<Encoded> for ApplyRequest {
    fn from_iter<I: IntoIterator<Item = Encoded>>(operations: I) -> Self {
        Self { operations: operations.into_iter().map(|Encoded(bytes)| bytes).collect() }
    }
}

/// Calls Apply, as the generated client would. Accepts answers of up to `answer_bytes_max` bytes.
///
/// # Errors
/// The status of the call, or of the transport.
pub async fn apply<T>(
    transport: T,
    mut request: Request<ApplyRequest>,
    answer_bytes_max: usize,
) -> Result<Response<wire::ApplyResponse>, Status>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    const SERVICE: &str = "till.participant.v1.ParticipantService";
    let path = PathAndQuery::from_static("/till.participant.v1.ParticipantService/Apply");
    let mut grpc = Grpc::new(transport).max_decoding_message_size(answer_bytes_max);
    grpc.ready().await.map_err(|error| {
        let error: StdError = error.into();
        Status::from_error(error)
    })?;
    request.extensions_mut().insert(GrpcMethod::new(SERVICE, "Apply"));
    grpc.unary(request, path, tonic_prost::ProstCodec::default()).await
}

// The messages of participant.proto, with bytes in place of the parts that are already encoded. At
// most one field of an Operation is set.

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(message, optional, tag = "1")]
    prepare: Option<Prepare>,
    #[prost(message, optional, tag = "2")]
    commit: Option<Commit>,
    #[prost(message, optional, tag = "3")]
    abort: Option<Abort>,
    #[prost(message, optional, tag = "4")]
    query: Option<Query>,
    #[prost(message, optional, tag = "5")]
    forget: Option<Forget>,
}

#[derive(Clone, PartialEq, Message)]
struct Prepare {
    #[prost(bytes = "bytes", tag = "1")]
    tx: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    branch: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Commit {
    #[prost(bytes = "bytes", tag = "1")]
    tx: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    branch: Bytes,
    #[prost(message, repeated, tag = "3")]
    receipts: Vec<Receipt>,
}

#[derive(Clone, PartialEq, Message)]
struct Receipt {
    #[prost(bytes = "bytes", tag = "1")]
    branch: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    receipt: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Abort {
    #[prost(bytes = "bytes", tag = "1")]
    tx: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    branch: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    evidence: Option<Bytes>,
    #[prost(message, optional, tag = "4")]
    refusal: Option<wire::vote::No>,
}

#[derive(Clone, PartialEq, Message)]
struct Query {
    #[prost(bytes = "bytes", tag = "1")]
    tx: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    branch: Bytes,
    #[prost(bool, tag = "3")]
    fence: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Forget {
    #[prost(bytes = "bytes", tag = "1")]
    tx_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    branch: Bytes,
}

#[cfg(test)]
mod tests {
    use types::{Branch, ClientCall, Priority, RequestId, Service, ShardId, TxId, UnixMillis};

    use super::*;

    fn meta() -> TxMeta {
        let branch =
            |name, shard| Branch { service: Service::new(name).unwrap(), shard: ShardId(shard) };
        TxMeta {
            tx_id: TxId([7; 16]),
            priority: Priority { begin_ts: 11, nonce: 12 },
            deadline: UnixMillis(13),
            branches: [branch("order", 0), branch("stock", 300)].into(),
            call: Some(ClientCall::new(RequestId::new("client-1").unwrap(), "what")),
        }
    }

    #[test]
    fn a_participant_sees_what_the_generated_types_would_have_sent() {
        let (meta, index) = (meta(), 1);
        let operations = Operations::new(&meta);
        let tx = Some(shared::TxMeta::from(&meta));
        let branch = Some(shared::Branch::from(&meta.branches[index]));
        let payload = Bytes::from_static(b"payload");
        let receipts = vec![vec![1], Vec::new()];
        let named = meta.branches.iter().zip(&receipts).map(|(branch, receipt)| wire::Receipt {
            branch: Some(branch.into()),
            receipt: receipt.clone().into(),
        });
        let no = wire::vote::No { reason: "OUT_OF_STOCK".to_owned(), ..Default::default() };
        let evidence = Some(shared::Branch::from(&meta.branches[0]));
        let pairs = [
            (
                operations.prepare(index, payload.clone()),
                Op::Prepare(wire::PrepareRequest {
                    tx: tx.clone(),
                    branch: branch.clone(),
                    payload,
                }),
            ),
            (
                operations.commit(index, receipts.clone()),
                Op::Commit(wire::CommitRequest {
                    tx: tx.clone(),
                    branch: branch.clone(),
                    receipts: named.collect(),
                }),
            ),
            (
                operations.commit(index, []),
                Op::Commit(wire::CommitRequest {
                    tx: tx.clone(),
                    branch: branch.clone(),
                    receipts: Vec::new(),
                }),
            ),
            (
                operations.abort(index, Some(0), Some(no.clone())),
                Op::Abort(wire::AbortRequest {
                    tx: tx.clone(),
                    branch: branch.clone(),
                    evidence,
                    refusal: Some(no),
                }),
            ),
            (
                operations.abort(index, None, None),
                Op::Abort(wire::AbortRequest {
                    tx: tx.clone(),
                    branch: branch.clone(),
                    evidence: None,
                    refusal: None,
                }),
            ),
            (
                operations.query(index, true),
                Op::Query(wire::QueryRequest { tx, branch: branch.clone(), fence: true }),
            ),
            (
                operations.forget(index),
                Op::Forget(wire::ForgetRequest { tx_id: vec![7; 16].into(), branch }),
            ),
        ];
        let mut generated = wire::ApplyRequest::default();
        let mut ours = Vec::new();
        for (encoded, operation) in pairs {
            let encoded = encoded.unwrap();
            assert_eq!(encoded, Encoded::from(operation.clone()));
            assert_eq!(encoded.decode().unwrap(), Some(operation.clone()));
            generated.operations.push(wire::Operation { operation: Some(operation) });
            ours.push(encoded);
        }
        let ours: ApplyRequest = ours.into_iter().collect();
        assert_eq!(ours.encode_to_vec(), generated.encode_to_vec());
    }

    #[test]
    fn there_is_no_operation_for_a_branch_that_does_not_exist() {
        assert_eq!(Operations::new(&meta()).query(2, false), None);
    }
}
