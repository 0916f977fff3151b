//! Frames of WebSockets between our library and the published one, in both directions.

use async_trait::async_trait;
use portcullis_agent_protocol::{
    CallGuard, Capabilities, ConnectOptions, Connection, Decision, Event, EventKind, FrameOpcode,
    WebSocketFrame,
    server::{self, Agent, AgentError, ServeOptions},
};
use std::{path::Path, sync::Arc, time::Duration};
use zentinel_agent_protocol::{
    AgentResponse, AuditMetadata, EventType, WebSocketDecision, WebSocketFrameEvent,
    v2::{AgentCapabilities, AgentClientV2Uds, AgentHandlerV2, UdsAgentServerV2},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Made with their library: says in its answers what it was told, drops what is binary and closes at a ping.
struct TheirAgent;

#[async_trait]
impl AgentHandlerV2 for TheirAgent {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::new("theirs", "Theirs", "1.0.0").with_event(EventType::WebSocketFrame)
    }

    async fn on_websocket_frame(&self, event: WebSocketFrameEvent) -> AgentResponse {
        let answer = match event.opcode.as_str() {
            "binary" => AgentResponse::websocket_drop(),
            "ping" => AgentResponse::websocket_close(1008, "policy".to_owned()),
            _ => AgentResponse::websocket_allow(),
        };
        AgentResponse {
            audit: AuditMetadata {
                tags: vec![format!("{event:?}")],
                ..AuditMetadata::default()
            },
            ..answer
        }
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

#[tokio::test]
async fn their_agent_judges_our_frames() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("theirs.sock");
    let server = UdsAgentServerV2::new("theirs", &socket, Box::new(TheirAgent));
    tokio::spawn(async move { server.run().await });
    bound(&socket).await;
    let options = ConnectOptions::new("theirs");
    let (connection, driver) = Connection::connect(&socket, &options).await.unwrap();
    tokio::spawn(driver);
    assert!(connection.supports(EventKind::WebSocketFrame));

    let table = [
        (FrameOpcode::Text, "text", Decision::allow()),
        (FrameOpcode::Continuation, "continuation", Decision::allow()),
        (
            FrameOpcode::Binary,
            "binary",
            Decision::allow().drop_frame(),
        ),
        (
            FrameOpcode::Ping,
            "ping",
            Decision::allow().close_websocket(1008, "policy"),
        ),
        (FrameOpcode::Pong, "pong", Decision::allow()),
        (FrameOpcode::Close, "close", Decision::allow()),
    ];
    for (index, (opcode, name, expected)) in (0..).zip(table) {
        let event = Event::WebSocketFrame(WebSocketFrame {
            correlation_id: "c-1",
            opcode,
            data: "hi".into(),
            client_to_server: true,
            index,
            fin: true,
            route_id: Some("ws"),
            client_ip: [203, 0, 113, 7].into(),
            budget_left: Some(TIMEOUT),
        });
        let answer = connection.send(&event, CallGuard::none()).unwrap();
        let answer = tokio::time::timeout(TIMEOUT, answer).await.unwrap();
        let told = format!(
            r#"WebSocketFrameEvent {{ correlation_id: "c-1", opcode: "{name}", data: "aGk=", client_to_server: true, frame_index: {index}, fin: true, route_id: Some("ws"), client_ip: "203.0.113.7" }}"#
        );
        assert_eq!(answer, Ok(expected.tag(told)));
    }
}

/// Made with our library: decides by what is in a frame.
struct OurAgent;

#[async_trait]
impl Agent for OurAgent {
    fn name(&self) -> &str {
        "ours"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("ours", "1").with_events(&[EventKind::WebSocketFrame])
    }

    async fn websocket_frame(&self, event: &WebSocketFrame<'_>) -> Result<Decision, AgentError> {
        Ok(match &event.data[..] {
            b"drop" => Decision::allow().drop_frame(),
            b"close" => Decision::allow().close_websocket(1008, "policy"),
            b"hi" => Decision::allow().replace_frame("HI"),
            _ => Decision::allow().tag(format!("{event:?}")),
        })
    }
}

#[tokio::test]
async fn our_agent_judges_their_frames() {
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
    assert!(capabilities.features.websocket);

    let close = WebSocketDecision::Close {
        code: 1008,
        reason: "policy".to_owned(),
    };
    // keep, drop and close.
    for (data, expected) in [
        ("a2VlcA==", None),
        ("ZHJvcA==", Some(WebSocketDecision::Drop)),
        ("Y2xvc2U=", Some(close)),
    ] {
        let event = frame(data);
        let answer = client.send_websocket_frame("c-1", &event).await.unwrap();
        assert_eq!(answer.websocket_decision, expected);
        assert_eq!(format!("{:?}", answer.decision), "Allow");
    }
    // What their proxies cannot do is a failure, and not a frame that passes.
    let event = frame("aGk=");
    let answer = client.send_websocket_frame("c-1", &event).await.unwrap();
    assert_eq!(answer.websocket_decision, None);
    let blocked = format!("{:?}", answer.decision);
    assert!(blocked.contains("500"), "{blocked}");
}

fn frame(data: &str) -> WebSocketFrameEvent {
    WebSocketFrameEvent {
        correlation_id: "c-1".to_owned(),
        opcode: "text".to_owned(),
        data: data.to_owned(),
        client_to_server: false,
        frame_index: 7,
        fin: true,
        route_id: None,
        client_ip: "203.0.113.7".to_owned(),
    }
}
