//! An OTLP collector in this process, which keeps everything that it receives.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    routing::{MethodRouter, post},
};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::Metric,
    trace::v1::span::SpanKind,
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, ServerTlsConfig, server::TcpIncoming},
};

/// The parts of a span that tests look at.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    /// Ids of the linked spans.
    pub(crate) links: Vec<Vec<u8>>,
    attributes: Vec<KeyValue>,
}

impl Span {
    /// The value of an attribute; "" if there is none.
    pub(crate) fn told(&self, key: &str) -> String {
        told(&self.attributes, key)
    }
}

/// Everything that was received.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) spans: Vec<Span>,
    /// Metrics with their service.
    pub(crate) metrics: Vec<(String, Metric)>,
    /// Texts of log records with their service.
    pub(crate) logs: Vec<(String, String)>,
    /// Values of the header `x-key`, one for each export.
    pub(crate) keys: Vec<String>,
    /// The attributes of each resource.
    pub(crate) resources: Vec<BTreeMap<String, String>>,
}

/// A collector, which runs until the test's runtime ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Sent>>);

impl Collector {
    /// Starts a collector that speaks gRPC, over TLS if `tls` is given; returns it and its
    /// endpoint.
    pub(crate) async fn grpc(tls: Option<ServerTlsConfig>) -> (Self, String) {
        let this = Self::default();
        let (listener, address) = listen().await;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let server = server
            .add_service(TraceServiceServer::new(this.clone()))
            .add_service(MetricsServiceServer::new(this.clone()))
            .add_service(LogsServiceServer::new(this.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        (this, format!("{scheme}://{address}"))
    }

    /// Starts a collector that speaks protobuf over HTTP; returns it and its endpoint.
    pub(crate) async fn http() -> (Self, String) {
        let this = Self::default();
        let (listener, address) = listen().await;
        let app = Router::new()
            .route("/v1/traces", kept(Self::traces))
            .route("/v1/metrics", kept(Self::measured))
            .route("/v1/logs", kept(Self::logged))
            .with_state(this.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (this, format!("http://{address}"))
    }

    /// Looks at what was received.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Sent) -> T) -> T {
        look(&self.0.lock().unwrap())
    }

    fn key(&self, key: Option<&str>) {
        self.0.lock().unwrap().keys.push(key.unwrap_or_default().to_owned());
    }

    fn traces(&self, request: ExportTraceServiceRequest) {
        let mut sent = self.0.lock().unwrap();
        for resource in request.resource_spans {
            let about = resource.resource.unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                sent.spans.push(Span {
                    service: told(&about.attributes, "service.name"),
                    kind: span.kind(),
                    name: span.name,
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    links: span.links.into_iter().map(|link| link.span_id).collect(),
                    attributes: span.attributes,
                });
            }
            let attributes = about.attributes.into_iter();
            let attributes = attributes.map(|it| (it.key, text(it.value.as_ref())));
            sent.resources.push(attributes.collect());
        }
    }

    fn measured(&self, request: ExportMetricsServiceRequest) {
        let mut sent = self.0.lock().unwrap();
        for resource in request.resource_metrics {
            let service = told(&resource.resource.unwrap_or_default().attributes, "service.name");
            let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            sent.metrics.extend(metrics.map(|metric| (service.clone(), metric)));
        }
    }

    fn logged(&self, request: ExportLogsServiceRequest) {
        let mut sent = self.0.lock().unwrap();
        for resource in request.resource_logs {
            let service = told(&resource.resource.unwrap_or_default().attributes, "service.name");
            let records = resource.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            sent.logs.extend(records.map(|record| (service.clone(), text(record.body.as_ref()))));
        }
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Receives one signal over HTTP.
fn kept<T: prost::Message + Default + 'static>(keep: fn(&Collector, T)) -> MethodRouter<Collector> {
    post(move |State(collector): State<Collector>, headers: HeaderMap, body: Bytes| async move {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        collector.key(headers.get("x-key").and_then(|key| key.to_str().ok()));
        keep(&collector, T::decode(body).unwrap());
    })
}

fn told(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.map(|attribute| text(attribute.value.as_ref())).unwrap_or_default()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

macro_rules! service {
    ($service:ident, $request:ty, $response:ident, $keep:ident) => {
        #[tonic::async_trait]
        impl $service for Collector {
            async fn export(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                self.key(request.metadata().get("x-key").and_then(|key| key.to_str().ok()));
                self.$keep(request.into_inner());
                Ok(Response::new($response::default()))
            }
        }
    };
}

service!(TraceService, ExportTraceServiceRequest, ExportTraceServiceResponse, traces);
service!(MetricsService, ExportMetricsServiceRequest, ExportMetricsServiceResponse, measured);
service!(LogsService, ExportLogsServiceRequest, ExportLogsServiceResponse, logged);
