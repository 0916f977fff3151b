//! Bodies, responses and the end of requests between our library and the published one, in both directions.

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_protocol::{
    BodyChunk, CallGuard, Capabilities, ConnectOptions, Connection, Decision, Event, EventKind,
    RequestComplete, ResponseHeaders,
    server::{self, Agent, AgentError, ServeOptions},
};
use std::{collections::HashMap, fmt::Debug, path::Path, sync::Arc, time::Duration};
use zentinel_agent_protocol::{
    AgentResponse, AuditMetadata, BodyMutation, EventType, RequestBodyChunkEvent,
    RequestCompleteEvent, ResponseBodyChunkEvent, ResponseHeadersEvent,
    v2::{AgentCapabilities, AgentClientV2Uds, AgentHandlerV2, UdsAgentServerV2},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Made with their library: says in its answers what it was told, and replaces `world`.
struct TheirAgent;

fn told(event: impl Debug) -> AgentResponse {
    AgentResponse {
        audit: AuditMetadata {
            tags: vec![format!("{event:?}")],
            ..AuditMetadata::default()
        },
        ..AgentResponse::default_allow()
    }
}

fn mutation(data: &str, chunk_index: u32) -> BodyMutation {
    match data {
        "d29ybGQ=" => BodyMutation::replace(chunk_index, "V09STEQ=".to_owned()),
        "" => BodyMutation::pass_through(chunk_index),
        _ => BodyMutation::drop_chunk(chunk_index),
    }
}

#[async_trait]
impl AgentHandlerV2 for TheirAgent {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::new("theirs", "Theirs", "1.0.0")
            .with_event(EventType::RequestBodyChunk)
            .with_event(EventType::ResponseHeaders)
            .with_event(EventType::ResponseBodyChunk)
            .with_event(EventType::RequestComplete)
    }

    async fn on_request_body_chunk(&self, event: RequestBodyChunkEvent) -> AgentResponse {
        let mutation = mutation(&event.data, event.chunk_index);
        told(event).with_request_body_mutation(mutation)
    }

    async fn on_response_headers(&self, event: ResponseHeadersEvent) -> AgentResponse {
        told(event)
    }

    async fn on_response_body_chunk(&self, event: ResponseBodyChunkEvent) -> AgentResponse {
        let mutation = mutation(&event.data, event.chunk_index);
        told(event).with_response_body_mutation(mutation)
    }

    async fn on_request_complete(&self, event: RequestCompleteEvent) -> AgentResponse {
        told(event)
    }
}

/// Waits until somebody listens there.
async fn bound(socket: &Path) {
    let listening = async {
        while tokio::net::UnixStream::connect(socket).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, listening).await.unwrap();
}

fn chunk(data: &'static [u8], index: u32) -> BodyChunk<'static> {
    BodyChunk {
        correlation_id: "c-1",
        index,
        data: Bytes::from_static(data),
        is_last: index > 0,
        total_size: Some(11),
        transferred: 11,
        truncated: index > 0,
        trailers: None,
        budget_left: Some(TIMEOUT),
    }
}

#[tokio::test]
async fn their_agent_understands_our_events() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("theirs.sock");
    let server = UdsAgentServerV2::new("theirs", &socket, Box::new(TheirAgent));
    tokio::spawn(async move { server.run().await });
    bound(&socket).await;
    let options = ConnectOptions::new("theirs");
    let (connection, driver) = Connection::connect(&socket, &options).await.unwrap();
    tokio::spawn(driver);
    assert!(connection.supports(EventKind::ResponseBodyChunk));

    let mut headers = HeaderMap::new();
    headers.insert("content-type", "text/html".parse().unwrap());
    let response = ResponseHeaders {
        correlation_id: "c-1",
        status: 404,
        headers: &headers,
        budget_left: Some(TIMEOUT),
    };
    let complete = RequestComplete {
        correlation_id: "c-1",
        status: 404,
        duration: Duration::from_millis(12),
        request_body_size: 11,
        response_body_size: 11,
        upstream_attempts: 1,
        error: Some("late"),
    };
    let told = |text: &str| Decision::allow().tag(text);
    let table = [
        (
            Event::RequestBodyChunk(chunk(b"world", 1)),
            told(
                r#"RequestBodyChunkEvent { correlation_id: "c-1", data: "d29ybGQ=", is_last: true, total_size: Some(11), chunk_index: 1, bytes_received: 11 }"#,
            )
            .replace_request_body("WORLD"),
        ),
        (
            Event::RequestBodyChunk(chunk(b"", 0)),
            told(
                r#"RequestBodyChunkEvent { correlation_id: "c-1", data: "", is_last: false, total_size: Some(11), chunk_index: 0, bytes_received: 11 }"#,
            ),
        ),
        (
            Event::ResponseHeaders(response),
            told(
                r#"ResponseHeadersEvent { correlation_id: "c-1", status: 404, headers: {"content-type": ["text/html"]} }"#,
            ),
        ),
        (
            Event::ResponseBodyChunk(chunk(b"\xff\xfe", 1)),
            told(
                r#"ResponseBodyChunkEvent { correlation_id: "c-1", data: "//4=", is_last: true, total_size: Some(11), chunk_index: 1, bytes_sent: 11 }"#,
            )
            .replace_response_body(""),
        ),
        (
            Event::RequestComplete(complete),
            told(
                r#"RequestCompleteEvent { correlation_id: "c-1", status: 404, duration_ms: 12, request_body_size: 11, response_body_size: 11, upstream_attempts: 1, error: Some("late") }"#,
            ),
        ),
    ];
    for (event, expected) in table {
        let answer = connection.send(&event, CallGuard::none()).unwrap();
        let answer = tokio::time::timeout(TIMEOUT, answer).await.unwrap();
        assert_eq!(answer, Ok(expected));
    }
}

/// Made with our library: writes bodies in capitals, and drops what is empty already.
struct OurAgent;

#[async_trait]
impl Agent for OurAgent {
    fn name(&self) -> &str {
        "ours"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("ours", "1").with_events(&[
            EventKind::RequestBodyChunk,
            EventKind::ResponseHeaders,
            EventKind::ResponseBodyChunk,
            EventKind::RequestComplete,
        ])
    }

    async fn request_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        Ok(Decision::allow().replace_request_body(event.data.to_ascii_uppercase()))
    }

    async fn response_headers(&self, event: &ResponseHeaders<'_>) -> Result<Decision, AgentError> {
        Ok(Decision::allow().tag(format!("{} {:?}", event.status, event.headers)))
    }

    async fn response_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        if event.is_last {
            return Err(AgentError::new("no idea"));
        }
        Ok(Decision::allow().replace_response_body(event.data.to_ascii_uppercase()))
    }
}

#[tokio::test]
async fn our_agent_understands_their_events() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ours.sock");
    let listener = server::bind_socket(&socket).unwrap();
    let serving = server::serve(
        Arc::new(OurAgent),
        listener,
        ServeOptions::default(),
        std::future::pending(),
    );
    tokio::spawn(serving);
    let client = AgentClientV2Uds::new("ours", socket.to_str().unwrap(), TIMEOUT)
        .await
        .unwrap();
    client.connect().await.unwrap();
    let capabilities = client.capabilities().await.unwrap();
    assert!(capabilities.features.streaming_body);

    let event = RequestBodyChunkEvent {
        correlation_id: "c-1".to_owned(),
        data: "d29ybGQ=".to_owned(),
        is_last: true,
        total_size: None,
        chunk_index: 3,
        bytes_received: 5,
    };
    let answer = client.send_request_body_chunk("c-1", &event).await.unwrap();
    let mutation = answer.request_body_mutation.unwrap();
    assert_eq!(mutation.data.as_deref(), Some("V09STEQ="));
    assert_eq!(mutation.chunk_index, 3);

    let event = ResponseHeadersEvent {
        correlation_id: "c-1".to_owned(),
        status: 204,
        headers: HashMap::from([("etag".to_owned(), vec!["1".to_owned()])]),
    };
    let answer = client.send_response_headers("c-1", &event).await.unwrap();
    assert_eq!(answer.audit.tags, [r#"204 {"etag": "1"}"#]);

    let mut event = ResponseBodyChunkEvent {
        correlation_id: "c-1".to_owned(),
        data: String::new(),
        is_last: false,
        total_size: None,
        chunk_index: 0,
        bytes_sent: 0,
    };
    let answer = client
        .send_response_body_chunk("c-1", &event)
        .await
        .unwrap();
    assert!(answer.response_body_mutation.unwrap().is_drop());
    event.is_last = true;
    let answer = client
        .send_response_body_chunk("c-1", &event)
        .await
        .unwrap();
    let blocked = format!("{:?}", answer.decision);
    assert!(
        blocked.contains("500"),
        "a failure is not an allow: {blocked}"
    );

    let event = RequestCompleteEvent {
        correlation_id: "c-1".to_owned(),
        status: 204,
        duration_ms: 1,
        request_body_size: 5,
        response_body_size: 0,
        upstream_attempts: 1,
        error: None,
    };
    let answer = client.send_request_complete("c-1", &event).await.unwrap();
    assert_eq!(format!("{:?}", answer.decision), "Allow");
}
