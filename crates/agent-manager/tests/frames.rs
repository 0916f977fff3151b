//! What the manager makes of answers to frames of WebSockets that cannot be carried out, and of agents that take none.
#![expect(clippy::unwrap_used, reason = "a panic in here is a test that fails")]

use bytes::Bytes;
use portcullis_agent_manager::{
    AgentManager, AgentSettings, AgentState, AgentUse, Answer, Ask, Conversation, FailureReason,
    Links, Phase, RecordedVerdict,
};
use portcullis_agent_protocol::{
    Capabilities, Decision, Event, EventKind, FrameOpcode, Target, WebSocketFrame,
    server::{self, Agent, AgentError, ServeOptions},
};
use portcullis_config::FailureMode;
use std::{future::Future, sync::Arc, time::Duration};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(10);

/// Answers as the frame says.
struct Guard(EventKind);

#[async_trait::async_trait]
impl Agent for Guard {
    fn name(&self) -> &str {
        "guard"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("guard", "1").with_events(&[self.0])
    }

    async fn websocket_frame(&self, event: &WebSocketFrame<'_>) -> Result<Decision, AgentError> {
        Ok(match &event.data[..] {
            b"code" => Decision::allow().close_websocket(1005, ""),
            b"reason" => Decision::allow().close_websocket(1008, "r".repeat(124)),
            b"headers" => Decision::allow().set_response_header("x", "1"),
            b"body" => Decision::allow().replace_request_body("x"),
            b"redirect" => Decision::redirect("/"),
            b"large" => Decision::allow().replace_frame(vec![0; 126]),
            _ => Decision::allow().tag("seen"),
        })
    }
}

struct Stage {
    manager: AgentManager,
    links: Links,
    _folder: TempDir,
}

impl Stage {
    /// An agent that takes events of this kind, and a manager that needs no others.
    async fn new(takes: EventKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = server::bind_socket(&socket).unwrap();
        tokio::spawn(server::serve(
            Arc::new(Guard(takes)),
            listener,
            ServeOptions::default(),
            std::future::pending(),
        ));
        let settings = AgentSettings {
            needs: vec![takes],
            ..AgentSettings::new("guard".into(), Target::UnixSocket(socket))
        };
        let manager = AgentManager::new(vec![settings], None, "test", |_| None);
        let links = manager.attach(None);
        within(async {
            while manager.status()[0].state != AgentState::Ready {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Self {
            manager,
            links,
            _folder: folder,
        }
    }

    async fn ask(
        &self,
        opcode: FrameOpcode,
        data: &'static str,
        failure_mode: FailureMode,
        conversation: &Conversation,
    ) -> Answer {
        let event = Event::WebSocketFrame(WebSocketFrame {
            correlation_id: "c",
            opcode,
            data: Bytes::from_static(data.as_bytes()),
            client_to_server: true,
            index: 0,
            fin: true,
            route_id: None,
            client_ip: [127, 0, 0, 1].into(),
            budget_left: None,
        });
        let used = AgentUse {
            agent: 0,
            timeout: DEADLINE,
            failure_mode,
        };
        let ask = Ask {
            used: &used,
            event: &event,
            more: false,
            streamed: true,
        };
        within(self.manager.ask(&self.links, &[ask], conversation)).await
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}

fn failed(reason: FailureReason, mode: FailureMode) -> RecordedVerdict {
    RecordedVerdict::Failed { reason, mode }
}

#[tokio::test]
async fn an_answer_that_cannot_be_carried_out_is_a_protocol_error() {
    for data in ["code", "reason", "headers", "body", "large"] {
        // Another agent each time, because the breaker would open.
        let stage = Stage::new(EventKind::WebSocketFrame).await;
        for mode in [FailureMode::Closed, FailureMode::Open] {
            let conversation = Conversation::with_budget(DEADLINE);
            let answer = stage
                .ask(FrameOpcode::Ping, data, mode, &conversation)
                .await;
            match (mode, answer) {
                (FailureMode::Closed, Answer::Refused(refusal)) => {
                    assert_eq!(refusal.reason, FailureReason::ProtocolError, "{data}");
                    assert_eq!(refusal.reason.close_code(), 1011);
                }
                (FailureMode::Open, Answer::Continue(changes)) => {
                    assert_eq!(changes, Default::default(), "{data}");
                }
                (mode, answer) => panic!("{data} {mode:?}: {answer:?}"),
            }
            let records = conversation.take_records();
            assert_eq!(records.len(), 1);
            assert_eq!(records[0].phase, Phase::WebSocketFrames);
            let expected = failed(FailureReason::ProtocolError, mode);
            assert_eq!(records[0].verdict, expected, "{data}");
        }
    }
    // In a frame that is not of control it has room.
    let stage = Stage::new(EventKind::WebSocketFrame).await;
    let conversation = Conversation::with_budget(DEADLINE);
    let mode = FailureMode::Closed;
    let answer = stage
        .ask(FrameOpcode::Binary, "large", mode, &conversation)
        .await;
    assert!(matches!(answer, Answer::Continue(_)), "{answer:?}");
}

#[tokio::test]
async fn the_frames_of_a_websocket_are_one_record() {
    let stage = Stage::new(EventKind::WebSocketFrame).await;
    let conversation = Conversation::with_budget(DEADLINE);
    for _ in 0..3 {
        let mode = FailureMode::Closed;
        let answer = stage
            .ask(FrameOpcode::Text, "hi", mode, &conversation)
            .await;
        assert!(matches!(answer, Answer::Continue(_)), "{answer:?}");
    }
    let records = conversation.take_records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].phase.name(), "websocket_frames");
    assert_eq!(records[0].verdict, RecordedVerdict::Allow);
    assert_eq!(
        (records[0].calls, &records[0].tags[..]),
        (3, &["seen".to_owned()][..])
    );
}

#[tokio::test]
async fn an_agent_that_takes_no_frames_is_unavailable() {
    let stage = Stage::new(EventKind::RequestHeaders).await;
    for mode in [FailureMode::Closed, FailureMode::Open] {
        let conversation = Conversation::with_budget(DEADLINE);
        let answer = stage
            .ask(FrameOpcode::Text, "hi", mode, &conversation)
            .await;
        assert_eq!(
            matches!(answer, Answer::Refused(_)),
            mode == FailureMode::Closed
        );
        let records = conversation.take_records();
        assert_eq!(records[0].verdict, failed(FailureReason::Unavailable, mode));
    }
}
