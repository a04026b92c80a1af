//! A client that knows only what reflection tells it: JSON in, JSON out.

use std::collections::BTreeSet;

use futures::stream;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor,
    prost_types::FileDescriptorProto,
};
use serde_json::Value;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// One role, as reflection describes it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    pool: DescriptorPool,
    services: BTreeSet<String>,
}

impl Client {
    /// Connects, and reads everything that the role describes.
    pub(crate) async fn connect(address: String) -> Self {
        let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
        let listed = ask(&channel, MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(listed) = listed else {
            panic!("not a list of services: {listed:?}");
        };
        let services: BTreeSet<String> =
            listed.service.into_iter().map(|service| service.name).collect();
        let mut files = Vec::new();
        for service in &services {
            let symbol = MessageRequest::FileContainingSymbol(service.clone());
            files.extend(described(&channel, symbol).await);
        }
        // Two services may be in one file.
        files.sort_by(|left, right| left.name().cmp(right.name()));
        files.dedup_by(|left, right| left.name() == right.name());
        // Fetches imports one by one, like a client that has only names.
        let mut pool = DescriptorPool::new();
        let mut known: BTreeSet<String> = files.iter().map(|file| file.name().to_owned()).collect();
        let mut wanted: Vec<String> =
            files.iter().flat_map(|file| file.dependency.clone()).collect();
        while let Some(name) = wanted.pop() {
            if known.insert(name.clone()) {
                for file in described(&channel, MessageRequest::FileByFilename(name)).await {
                    wanted.extend(file.dependency.clone());
                    files.push(file);
                }
            }
        }
        pool.add_file_descriptor_protos(files).unwrap();
        Self { channel, pool, services }
    }

    /// The connection to the role.
    pub(crate) const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Full names of the role's services.
    pub(crate) const fn services(&self) -> &BTreeSet<String> {
        &self.services
    }

    /// Names of a service's methods.
    pub(crate) fn methods(&self, service: &str) -> BTreeSet<String> {
        let service = self.pool.get_service_by_name(service).unwrap();
        service.methods().map(|method| method.name().to_owned()).collect()
    }

    /// Calls `package.Service/Method`.
    pub(crate) async fn call(&self, path: &str, request: Value) -> Result<Value, Status> {
        let (service, name) = path.split_once('/').unwrap();
        let service = self.pool.get_service_by_name(service).unwrap();
        let method = service.methods().find(|method| method.name() == name).unwrap();
        let request = DynamicMessage::deserialize(method.input(), request).unwrap();
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = format!("/{path}").parse().unwrap();
        let answer = grpc.unary(Request::new(request), path, Dynamic(method)).await?;
        Ok(serde_json::to_value(answer.into_inner()).unwrap())
    }
}

async fn ask(channel: &Channel, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(stream::iter([request])).await.unwrap();
    answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
}

async fn described(channel: &Channel, question: MessageRequest) -> Vec<FileDescriptorProto> {
    let answer = ask(channel, question.clone()).await;
    let MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{question:?} is answered with {answer:?}");
    };
    let decode = |file: &Vec<u8>| FileDescriptorProto::decode(&**file).unwrap();
    files.file_descriptor_proto.iter().map(decode).collect()
}

/// Encodes and decodes messages by their descriptors.
#[derive(Debug)]
struct Dynamic(MethodDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = DynamicDecoder;

    fn encoder(&mut self) -> DynamicEncoder {
        DynamicEncoder
    }

    fn decoder(&mut self) -> DynamicDecoder {
        DynamicDecoder(self.0.output())
    }
}

#[derive(Debug)]
struct DynamicEncoder;

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

#[derive(Debug)]
struct DynamicDecoder(MessageDescriptor);

impl Decoder for DynamicDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
