//! What the manager makes of answers to texts.
#![expect(clippy::unwrap_used, reason = "a panic in here is a test that fails")]

use portcullis_agent_manager::{
    AgentManager, AgentSettings, AgentState, AgentUse, Answer, Ask, Changes, Conversation,
    FailureReason, Links, Phase, RecordedVerdict,
};
use portcullis_agent_protocol::{
    Capabilities, Decision, Event, EventKind, GuardrailInspect, GuardrailResult, InspectionType,
    Target,
    server::{self, Agent, AgentError, ServeOptions},
};
use portcullis_config::FailureMode;
use std::{future::Future, sync::Arc, time::Duration};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(10);

/// Answers as the text says.
struct Finder;

#[async_trait::async_trait]
impl Agent for Finder {
    fn name(&self) -> &str {
        "finder"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("finder", "1").with_events(&[EventKind::GuardrailInspect])
    }

    async fn guardrail_inspect(
        &self,
        event: &GuardrailInspect<'_>,
    ) -> Result<Decision, AgentError> {
        let found =
            |span| Decision::allow().with_guardrail(GuardrailResult::found_at("x", "", span));
        Ok(match event.content {
            "found" => found(0..5),
            "beyond" => found(0..7),
            "within é" => found(0..8),
            "clean" => Decision::allow().with_guardrail(GuardrailResult::clean()),
            "block" => Decision::block(403).reason("r"),
            "redirect" => Decision::redirect("/"),
            "contrary" => Decision::block(403).with_guardrail(GuardrailResult::clean()),
            "headers" => Decision::allow().set_request_header("x", "1"),
            "body" => Decision::allow().replace_request_body("x"),
            _ => Decision::allow(),
        })
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}

async fn stage() -> (AgentManager, Links, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let listener = server::bind_socket(&socket).unwrap();
    let options = ServeOptions::default();
    tokio::spawn(server::serve(
        Arc::new(Finder),
        listener,
        options,
        std::future::pending(),
    ));
    let settings = AgentSettings {
        needs: vec![EventKind::GuardrailInspect],
        ..AgentSettings::new("finder".into(), Target::UnixSocket(socket))
    };
    let manager = AgentManager::new(vec![settings], None, "test", |_| None);
    let links = manager.attach(None);
    within(async {
        while manager.status()[0].state != AgentState::Ready {
            tokio::task::yield_now().await;
        }
    })
    .await;
    (manager, links, folder)
}

/// A text of a response, whose failures are passed over.
async fn ask(
    manager: &AgentManager,
    links: &Links,
    content: &str,
    conversation: &Conversation,
) -> Answer {
    let used = AgentUse {
        agent: 0,
        timeout: DEADLINE,
        failure_mode: FailureMode::Open,
    };
    let event = Event::GuardrailInspect(GuardrailInspect {
        correlation_id: "c",
        inspection_type: InspectionType::PiiDetection,
        content,
        model: None,
        categories: &[],
        route_id: None,
        is_response: true,
        metadata: &[],
        budget_left: None,
    });
    let ask = Ask {
        used: &used,
        event: &event,
        more: false,
        streamed: false,
    };
    within(manager.ask(links, &[ask], conversation)).await
}

#[tokio::test]
async fn what_is_found_is_told_and_what_cannot_be_is_a_failure() {
    let (manager, links, _folder) = stage().await;
    let failed = RecordedVerdict::Failed {
        reason: FailureReason::ProtocolError,
        mode: FailureMode::Open,
    };
    use RecordedVerdict::{Allow, Detected};
    for (content, verdict, reason) in [
        ("found", Detected, Some("x")),
        ("clean", Allow, None),
        ("nothing", Allow, None),
        ("block", Detected, Some("r")),
        ("redirect", Detected, None),
        ("contrary", Detected, None),
        (
            "beyond",
            failed,
            Some("a detection from 0 to 7, which is no part of the text"),
        ),
        (
            "within é",
            failed,
            Some("a detection from 0 to 8, which is no part of the text"),
        ),
        (
            "headers",
            failed,
            Some("a change of headers in the answer to a text"),
        ),
        (
            "body",
            failed,
            Some("a change of the request's body, which was not asked about"),
        ),
    ] {
        let conversation = Conversation::default();
        let answer = ask(&manager, &links, content, &conversation).await;
        let Answer::Continue(Changes { found, .. }) = answer else {
            panic!("{content}: {answer:?}");
        };
        assert_eq!(found.is_some(), verdict == Detected, "{content}");
        let records = conversation.take_records();
        assert_eq!(records[0].phase, Phase::ResponseGuardrail);
        assert_eq!(records[0].verdict, verdict, "{content}");
        assert_eq!(records[0].reason.as_deref(), reason, "{content}");
    }
}
