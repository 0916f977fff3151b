//! Decisions as the protocol writes them in JSON, for scripts of agents.

use super::frame_decision;
use portcullis_agent_protocol::{Audit, Decision, GuardrailResult, KeyPart, Verdict, VerdictTtl};
use serde_json::{Value, json};
use std::time::Duration;

/// A decision as an answer of the protocol in JSON, without the ids.
pub(super) fn to_json(decision: &Decision) -> Value {
    let verdict = match &decision.verdict {
        Verdict::Allow => json!("allow"),
        Verdict::Block {
            status,
            body,
            headers,
        } => {
            let body = body.as_ref().map(|body| String::from_utf8_lossy(body));
            let headers: serde_json::Map<_, _> = headers
                .iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect();
            json!({"block": {"status": status, "body": body, "headers": headers}})
        }
        Verdict::Redirect { url, status } => json!({"redirect": {"url": url, "status": status}}),
        Verdict::Challenge {
            challenge_type,
            params,
        } => {
            let params: serde_json::Map<_, _> = params
                .iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect();
            json!({"challenge": {"challenge_type": challenge_type, "params": params}})
        }
    };
    let audit = decision.audit.as_deref().cloned().unwrap_or_default();
    json!({
        "version": 2,
        "decision": verdict,
        "request_headers": decision.request_headers,
        "response_headers": decision.response_headers,
        "routing_metadata": {"guardrail_response": decision.guardrail.as_deref().map(found_to_json)},
        "needs_more": decision.needs_more,
        "websocket_decision": frame_decision::to_json(decision.websocket.as_deref()),
        "ttl_ms": decision.ttl.as_ref().map(|held| held.ttl.as_millis() as u64),
        "vary_ignores": decision.ttl.as_ref().map(|held| {
            held.vary_ignores.iter().map(|part| part.name()).collect::<Vec<_>>()
        }),
        "audit": {"tags": audit.tags, "rule_ids": audit.rule_ids, "reason_codes": audit.reason_codes, "custom": audit.custom},
    })
}

/// The way back.
pub(super) fn from_json(answer: &Value) -> Decision {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pairs = |value: &Value| {
        let object = value.as_object().unwrap();
        object
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect()
    };
    let status = |value: &Value| u16::try_from(value.as_u64().unwrap()).unwrap();
    let verdict = &answer["decision"];
    let verdict = if let Some(block) = verdict.get("block") {
        Verdict::Block {
            status: status(&block["status"]),
            body: block["body"].as_str().map(|body| body.to_owned().into()),
            headers: pairs(&block["headers"]),
        }
    } else if let Some(redirect) = verdict.get("redirect") {
        Verdict::Redirect {
            url: text(&redirect["url"]),
            status: status(&redirect["status"]),
        }
    } else if let Some(challenge) = verdict.get("challenge") {
        Verdict::Challenge {
            challenge_type: text(&challenge["challenge_type"]),
            params: pairs(&challenge["params"]),
        }
    } else {
        Verdict::Allow
    };
    let list = |name: &str| serde_json::from_value(answer["audit"][name].clone()).unwrap();
    let held = answer["ttl_ms"].as_u64().map(|milliseconds| {
        let ignored = answer["vary_ignores"].as_array().into_iter().flatten();
        let parts = ignored.filter_map(|name| KeyPart::from_name(name.as_str()?));
        Box::new(VerdictTtl {
            ttl: Duration::from_millis(milliseconds),
            vary_ignores: parts.collect(),
        })
    });
    Decision {
        ttl: held,
        guardrail: found_from_json(&answer["routing_metadata"]["guardrail_response"]),
        request_headers: serde_json::from_value(answer["request_headers"].clone()).unwrap(),
        response_headers: serde_json::from_value(answer["response_headers"].clone()).unwrap(),
        audit: Some(Box::new(Audit {
            tags: list("tags"),
            rule_ids: list("rule_ids"),
            reason_codes: list("reason_codes"),
            ..Audit::default()
        })),
        needs_more: answer["needs_more"] == true,
        websocket: frame_decision::from_json(&answer["websocket_decision"]),
        ..verdict.into()
    }
}

/// What was found in a text: JSON within a string.
fn found_to_json(found: &GuardrailResult) -> Value {
    let detections: Vec<Value> = found
        .detections
        .iter()
        .map(|it| {
            let span = it
                .span
                .map(|span| json!({"start": span.start, "end": span.end}));
            json!({"category": it.category, "description": it.description, "span": span})
        })
        .collect();
    let text = json!({
        "detected": found.detected,
        "confidence": found.confidence,
        "detections": detections,
        "redacted_content": found.redacted_content,
    });
    text.to_string().into()
}

/// The way back.
fn found_from_json(text: &Value) -> Option<Box<GuardrailResult>> {
    let found: Value = serde_json::from_str(text.as_str()?).unwrap();
    let mut result = GuardrailResult {
        redacted_content: found["redacted_content"].as_str().map(str::to_owned),
        ..GuardrailResult::clean()
    };
    for it in found["detections"].as_array().unwrap() {
        let at = |name: &str| usize::try_from(it["span"][name].as_u64()?).ok();
        let span = at("start").zip(at("end")).map(|(start, end)| start..end);
        result = result.and(it["category"].as_str().unwrap(), "", span);
    }
    result.detected = found["detected"] == true;
    Some(Box::new(result))
}
