//! A collector of traces: takes OTLP over HTTP and keeps what came.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use forebay_shared::ids::hex;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

/// A span, and who sent it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub resource: HashMap<String, String>,
    pub span: Span,
}

impl Seen {
    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// Empty for a root.
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub fn attributes(&self) -> HashMap<String, String> {
        attributes(&self.span.attributes)
    }

    pub fn links(&self) -> Vec<String> {
        self.span.links.iter().map(|link| hex(&link.span_id)).collect()
    }
}

fn attributes(pairs: &[KeyValue]) -> HashMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// What came so far.
#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Seen>,
    bodies: Vec<Bytes>,
}

#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Collector {
    /// Listens as long as the test's runtime lives.
    pub async fn start() -> Self {
        let taken = Arc::<Mutex<Taken>>::default();
        let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&taken));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { addr, taken }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn spans(&self) -> Vec<Seen> {
        self.taken.lock().unwrap().spans.clone()
    }

    /// Spans of one trace, by name.
    pub fn trace(&self, trace: &str) -> HashMap<String, Seen> {
        let spans = self.spans().into_iter().filter(|seen| seen.trace() == trace);
        spans.map(|seen| (seen.span.name.clone(), seen)).collect()
    }

    /// Whether this text came anywhere, in whatever field.
    pub fn has_heard(&self, text: &str) -> bool {
        let heard = |body: &Bytes| body.windows(text.len()).any(|part| part == text.as_bytes());
        self.taken.lock().unwrap().bodies.iter().any(heard)
    }
}

async fn take(State(taken): State<Arc<Mutex<Taken>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if headers["content-type"] != "application/x-protobuf" {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else { return StatusCode::BAD_REQUEST };
    let mut taken = taken.lock().unwrap();
    for of_process in request.resource_spans {
        let resource = attributes(&of_process.resource.unwrap_or_default().attributes);
        let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
        taken.spans.extend(spans.map(|span| Seen { resource: resource.clone(), span }));
    }
    taken.bodies.push(body);
    StatusCode::OK
}
