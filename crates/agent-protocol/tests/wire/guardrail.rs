//! Texts for guardrails: what agents are told of them, and what they find,
//! also with peers that speak the legacy protocol.

use std::time::Duration;

use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::codec::{DecodedGuardrailInspect, json};
use portcullis_agent_protocol::server::{Agent, AgentError, ServeOptions};
use portcullis_agent_protocol::{
    CallError, CallGuard, Capabilities, Connection, Decision, Detection, Event, EventKind,
    Extensions, GuardrailInspect, GuardrailResult, InspectionType, Severity, TextSpan,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::codec::text;
use crate::support::{PEERS, RawListener, Served, connect, legacy_answer, within};

/// What may be found.
pub(crate) fn results() -> impl Strategy<Value = Option<Box<GuardrailResult>>> {
    let confidence = || (0_u16..=1000).prop_map(|thousandths| f32::from(thousandths) / 1000.0);
    let severity = prop::sample::select(&Severity::ALL[..]);
    let span = (any::<u64>(), any::<u64>()).prop_map(|(start, end)| TextSpan { start, end });
    let detection = (
        (text(), text()),
        severity,
        option::of(confidence()),
        option::of(span),
    )
        .prop_map(
            |((category, description), severity, confidence, span)| Detection {
                category,
                description,
                severity,
                confidence,
                span,
            },
        );
    let detections = vec(detection, 0..3);
    let result = (any::<bool>(), confidence(), detections, option::of(text())).prop_map(
        |(detected, confidence, detections, redacted_content)| GuardrailResult {
            detected,
            confidence,
            detections,
            redacted_content,
        },
    );
    option::of(result.prop_map(Box::new))
}

/// Texts that may be shown.
pub(crate) fn events() -> impl Strategy<Value = DecodedGuardrailInspect<'static>> {
    // JSON sorts the metadata.
    let metadata = btree_map(text().prop_map(|name| format!("x{name}")), text(), 0..3);
    (
        (
            text(),
            prop::sample::select(&InspectionType::ALL[..]),
            text(),
        ),
        (option::of(text()), vec(text(), 0..3), option::of(text())),
        (any::<bool>(), metadata, option::of(any::<u32>())),
    )
        .prop_map(
            |((id, inspection_type, content), (model, categories, route_id), rest)| {
                let (is_response, metadata, microseconds) = rest;
                let microseconds = microseconds.map(u64::from);
                DecodedGuardrailInspect {
                    correlation_id: id.into(),
                    inspection_type,
                    content: content.into(),
                    model: model.map(Into::into),
                    categories,
                    route_id: route_id.map(Into::into),
                    is_response,
                    metadata: metadata.into_iter().collect(),
                    budget_left: microseconds.map(Duration::from_micros),
                }
            },
        )
}

/// Finds the word `secret`.
pub(crate) struct Finder;

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
        if event.content == "describe" {
            return Ok(Decision::allow().tag(format!("{event:?}")));
        }
        let result = match event.content.find("secret") {
            None => GuardrailResult::clean(),
            Some(at) => GuardrailResult::found_at("secret", "the word", at..at + 6)
                .with_redacted_content(event.content.replace("secret", "***")),
        };
        Ok(Decision::allow().with_guardrail(result))
    }
}

pub(crate) fn inspect(content: &str) -> GuardrailInspect<'_> {
    GuardrailInspect {
        correlation_id: "c-1",
        inspection_type: InspectionType::PiiDetection,
        content,
        model: None,
        categories: &[],
        route_id: None,
        is_response: false,
        metadata: &[],
        budget_left: None,
    }
}

async fn ask(connection: &Connection, event: GuardrailInspect<'_>) -> Result<Decision, CallError> {
    let event = Event::GuardrailInspect(event);
    within(connection.send(&event, CallGuard::none()).unwrap()).await
}

fn served(extensions: Extensions) -> Served<Finder> {
    let options = ServeOptions {
        extensions,
        ..ServeOptions::default()
    };
    Served::with_agent(Finder, options)
}

#[tokio::test]
async fn an_agent_is_told_everything_about_a_text_and_what_it_finds_comes_back() {
    let categories = ["phone".to_owned(), "e\"mail".to_owned()];
    let metadata = [("pointer".to_owned(), "/messages/0/content".to_owned())];
    for extensions in PEERS {
        let served = served(extensions);
        let connection = connect(&served.path).await;
        assert!(connection.supports(EventKind::GuardrailInspect));
        assert!(connection.capabilities().features.guardrails);
        let event = GuardrailInspect {
            model: Some("gpt-4"),
            categories: &categories,
            route_id: Some("llm"),
            is_response: true,
            metadata: &metadata,
            budget_left: Some(Duration::from_millis(1500)),
            ..inspect("describe")
        };
        let told = GuardrailInspect {
            budget_left: event.budget_left.filter(|_| extensions.event_id),
            ..event.clone()
        };
        let expected = Decision::allow().tag(format!("{told:?}"));
        assert_eq!(ask(&connection, event).await, Ok(expected));
        let found =
            GuardrailResult::found_at("secret", "the word", 2..8).with_redacted_content("a ***\n");
        let answer = ask(&connection, inspect("a secret\n")).await.unwrap();
        assert_eq!(answer.guardrail.as_deref(), Some(&found));
        let answer = ask(&connection, inspect("")).await.unwrap();
        assert_eq!(answer.guardrail.as_deref(), Some(&GuardrailResult::clean()));
    }
}

#[tokio::test]
async fn an_agent_that_has_not_announced_it_is_not_asked_in_vain() {
    let served = Served::with_extensions(Extensions::ALL);
    let connection = connect(&served.path).await;
    assert!(!connection.supports(EventKind::GuardrailInspect));
    let message = "the agent does not support GuardrailInspect".to_owned();
    let answer = ask(&connection, inspect("x")).await;
    assert_eq!(answer, Err(CallError::Agent(message)));
}

#[tokio::test]
async fn an_agent_of_another_make_answers_in_text() {
    let listener = RawListener::new();
    let (connection, mut peer) = listener.connected(Extensions::NONE).await;
    let full = r#"{"detected":true,"confidence":0.5,"detections":[{"category":"x","description":"y","severity":"high","confidence":0.25,"span":{"start":0,"end":4}},{"category":"z","severity":"odd"}],"redacted_content":null}"#;
    let found = GuardrailResult {
        detected: true,
        confidence: 0.5,
        detections: vec![
            Detection {
                category: "x".to_owned(),
                description: "y".to_owned(),
                severity: Severity::High,
                confidence: Some(0.25),
                span: Some(TextSpan { start: 0, end: 4 }),
            },
            Detection {
                category: "z".to_owned(),
                description: String::new(),
                severity: Severity::Medium,
                confidence: None,
                span: None,
            },
        ],
        redacted_content: None,
    };
    for (routing, expected) in [
        (json!({ "guardrail_response": full }), Ok(Some(found))),
        (
            json!({"guardrail_response": r#"{"detected":false}"#}),
            Ok(Some(GuardrailResult::clean())),
        ),
        (json!({"guardrail_response": null}), Ok(None)),
        (json!({"upstream": "b"}), Ok(None)),
        (Value::Null, Ok(None)),
        (json!("what?"), Ok(None)),
        (json!({"guardrail_response": "{}"}), Err(())),
        (json!({"guardrail_response": {"detected": true}}), Err(())),
        (
            json!({"guardrail_response": r#"{"detected":true,"confidence":1e300}"#}),
            Err(()),
        ),
    ] {
        let event = Event::GuardrailInspect(inspect("seen"));
        let answer = connection.send(&event, CallGuard::none()).unwrap();
        let asked = peer.receive_json(MessageType::GuardrailInspect).await;
        assert_eq!(
            asked,
            json!({"correlation_id": "c-1", "inspection_type": "pii_detection", "content": "seen",
                "categories": [], "metadata": {"direction": "request"}})
        );
        let mut message = legacy_answer("c-1", &json!("allow"));
        message["routing_metadata"] = routing.clone();
        peer.send_json(MessageType::AgentResponse, &message).await;
        let answer = within(answer).await;
        let result = answer.map(|decision| decision.guardrail.map(|result| *result));
        match expected {
            Ok(expected) => assert_eq!(result, Ok(expected), "{routing}"),
            Err(()) => assert!(matches!(result, Err(CallError::Protocol(_))), "{routing}"),
        }
    }
}

#[test]
fn events_of_other_makes_may_leave_members_out() {
    let payload = br#"{"correlation_id":"c","inspection_type":"prompt_injection","content":"x"}"#;
    let (_, event) = json::decode_event(EventKind::GuardrailInspect, payload, false).unwrap();
    let expected = GuardrailInspect {
        correlation_id: "c",
        inspection_type: InspectionType::PromptInjection,
        ..inspect("x")
    };
    assert_eq!(event.view(), Event::GuardrailInspect(expected));
}
