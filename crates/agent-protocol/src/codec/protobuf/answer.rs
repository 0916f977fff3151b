//! Answers in protobuf.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::header;
use super::messages::{
    AgentDecision, AgentResponse, AllowDecision, AuditMetadata, BlockDecision, ChallengeDecision,
    CloseWebSocket, DropFrame, ErrorDecision, FrameChange, Header, HeaderChange,
    HeaderOp as WireOp, OverloadedDecision, RedirectDecision, VerdictTtl as WireTtl,
    WebSocketDecision,
};
use crate::codec::answer::{in_words_of, whole_milliseconds};
use crate::codec::{Answer, BadMessage, EventId, NoDecision, json};
use crate::{
    Audit, Decision, Extensions, FrameDecision, HeaderOp, ProtocolError, Verdict, VerdictTtl,
};

/// An answer as a message. What the peer does not know is said in other
/// words: a failure, an overload, and whatever else of an answer the published
/// protocol has no field for, is a block 500 for it; see [`NoDecision`].
#[must_use]
pub fn encode_answer(id: &EventId, answer: &Answer, extensions: Extensions) -> AgentResponse {
    let said = match answer {
        Ok(decision) if !extensions.event_id && needs_extensions(decision) => {
            let reason = "the proxy cannot change bodies or frames over gRPC";
            in_words_of(extensions, &Err(NoDecision::Failed(reason.to_owned()))).into_owned()
        }
        answer => in_words_of(extensions, answer).into_owned(),
    };
    let mut response = match said {
        Ok(decision) => encode_decision(decision, extensions),
        Err(NoDecision::Failed(message)) => AgentResponse {
            decision: Some(AgentDecision::Error(ErrorDecision { message })),
            ..AgentResponse::default()
        },
        Err(NoDecision::Overloaded { retry_after }) => {
            let retry_after_ms = retry_after.map(whole_milliseconds);
            let overloaded = OverloadedDecision { retry_after_ms };
            AgentResponse {
                decision: Some(AgentDecision::Overloaded(overloaded)),
                ..AgentResponse::default()
            }
        }
    };
    match id {
        EventId::Number(number) => response.event_id = Some(*number),
        EventId::Correlation(id) => response.correlation_id.clone_from(id),
    }
    response
}

// Whether it decides something that the published protocol has no field for.
fn needs_extensions(decision: &Decision) -> bool {
    decision.request_body.is_some()
        || decision.response_body.is_some()
        || decision.websocket.is_some()
}

fn encode_decision(decision: Decision, extensions: Extensions) -> AgentResponse {
    let ttl = decision.ttl.filter(|_| extensions.verdict_ttl);
    // What cannot be written is no JSON, which the proxy refuses.
    let guardrail = |it| json::write_guardrail_result(it).unwrap_or_default();
    AgentResponse {
        decision: Some(encode_verdict(decision.verdict)),
        request_headers: decision
            .request_headers
            .into_iter()
            .map(encode_op)
            .collect(),
        response_headers: decision
            .response_headers
            .into_iter()
            .map(encode_op)
            .collect(),
        audit: decision.audit.map(|audit| encode_audit(*audit)),
        needs_more: decision.needs_more,
        request_body: decision.request_body,
        response_body: decision.response_body,
        websocket: decision.websocket.map(|frame| WebSocketDecision {
            decision: Some(encode_frame(*frame)),
        }),
        guardrail_response: decision.guardrail.as_deref().map(guardrail),
        ttl: ttl.and_then(|ttl| {
            let names = ttl.vary_ignores.iter().map(|part| part.name().to_owned());
            Some(WireTtl {
                milliseconds: ttl.milliseconds()?,
                vary_ignores: names.collect(),
            })
        }),
        ..AgentResponse::default()
    }
}

fn encode_verdict(verdict: Verdict) -> AgentDecision {
    match verdict {
        Verdict::Allow => AgentDecision::Allow(AllowDecision {}),
        Verdict::Block {
            status,
            body,
            headers,
        } => {
            let text = body.as_deref().map(String::from_utf8_lossy);
            let is_text = !matches!(text, Some(std::borrow::Cow::Owned(_)));
            AgentDecision::Block(BlockDecision {
                status: status.into(),
                body: text.map(Into::into),
                headers: headers
                    .into_iter()
                    .map(|(name, value)| header(name, &value))
                    .collect(),
                raw_body: body.filter(|_| !is_text),
            })
        }
        Verdict::Redirect { url, status } => AgentDecision::Redirect(RedirectDecision {
            url,
            status: status.into(),
        }),
        Verdict::Challenge {
            challenge_type,
            params,
        } => AgentDecision::Challenge(ChallengeDecision {
            challenge_type,
            params: params.into_iter().collect(),
        }),
    }
}

fn encode_op(op: HeaderOp) -> WireOp {
    WireOp {
        operation: Some(match op {
            HeaderOp::Set { name, value } => HeaderChange::Set(header(name, &value)),
            HeaderOp::Add { name, value } => HeaderChange::Add(header(name, &value)),
            HeaderOp::Remove { name } => HeaderChange::Remove(name),
        }),
    }
}

fn encode_audit(audit: Audit) -> AuditMetadata {
    let custom = audit.custom.into_iter();
    let custom = custom.filter(|(key, _)| key != "correlation_id");
    AuditMetadata {
        tags: audit.tags,
        rule_ids: audit.rule_ids,
        confidence: audit.confidence,
        reason_codes: audit.reason_codes,
        custom: custom
            .map(|(key, value)| (key, value.to_string()))
            .collect(),
    }
}

fn encode_frame(frame: FrameDecision) -> FrameChange {
    match frame {
        FrameDecision::Drop => FrameChange::Drop(DropFrame {}),
        FrameDecision::Replace(data) => FrameChange::Replace(data),
        FrameDecision::Close { code, reason } => FrameChange::Close(CloseWebSocket {
            code: code.into(),
            reason,
        }),
    }
}

/// Reads an answer, legacy or extended. One that has no decision is malformed,
/// never an allow.
///
/// # Errors
/// What is wrong, with the id of the event when there is one.
pub fn decode_answer(
    response: AgentResponse,
    extensions: Extensions,
) -> Result<(EventId, Answer), BadMessage> {
    let id = match extensions.event_id {
        true => response.event_id.map(EventId::Number),
        false => Some(EventId::Correlation(response.correlation_id.clone())),
    };
    let bad = |id, detail: String| BadMessage {
        id,
        error: ProtocolError::malformed("answer", detail),
    };
    let Some(id) = id else {
        return Err(bad(
            None,
            "it does not say which event it answers".to_owned(),
        ));
    };
    match read(response, extensions) {
        Ok(answer) => Ok((id, answer)),
        Err(detail) => Err(bad(Some(id), detail)),
    }
}

fn read(response: AgentResponse, extensions: Extensions) -> Result<Answer, String> {
    let decision = response.decision.ok_or("it has no decision")?;
    let verdict = match decision {
        AgentDecision::Allow(_) => Verdict::Allow,
        AgentDecision::Block(block) => read_block(block)?,
        AgentDecision::Redirect(redirect) => Verdict::Redirect {
            url: redirect.url,
            status: match redirect.status {
                0 => 302,
                number => status(number)?,
            },
        },
        AgentDecision::Challenge(challenge) => Verdict::Challenge {
            challenge_type: challenge.challenge_type,
            params: challenge.params.into_iter().collect(),
        },
        AgentDecision::Error(error) if extensions.error => {
            return Ok(Err(NoDecision::Failed(error.message)));
        }
        AgentDecision::Error(_) => {
            return Err("the decision `error` was not negotiated".to_owned());
        }
        AgentDecision::Overloaded(overloaded) if extensions.overloaded => {
            return Ok(Err(NoDecision::overloaded(overloaded.retry_after_ms)));
        }
        AgentDecision::Overloaded(_) => {
            return Err("the decision `overloaded` was not negotiated".to_owned());
        }
    };
    let audit = response.audit.map(read_audit).transpose()?;
    let websocket = response.websocket.map(read_frame).transpose()?;
    let guardrail = response.guardrail_response.as_deref();
    let guardrail = guardrail.map(json::read_guardrail_result).transpose()?;
    let ttl = response.ttl.filter(|_| extensions.verdict_ttl);
    let ttl = ttl.and_then(|ttl| {
        VerdictTtl::read(
            ttl.milliseconds,
            ttl.vary_ignores.iter().map(String::as_str),
        )
    });
    Ok(Ok(Decision {
        verdict,
        request_headers: read_ops(response.request_headers)?,
        response_headers: read_ops(response.response_headers)?,
        audit: audit.filter(|audit| !audit.is_empty()).map(Box::new),
        needs_more: response.needs_more,
        request_body: response.request_body,
        response_body: response.response_body,
        websocket: websocket.map(Box::new),
        guardrail: guardrail.map(Box::new),
        ttl: ttl.map(Box::new),
    }))
}

fn status(number: u32) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{number} is not a status"))
}

fn read_block(block: BlockDecision) -> Result<Verdict, String> {
    let text = block.body.map(Bytes::from);
    let headers = block.headers.into_iter();
    Ok(Verdict::Block {
        status: status(block.status)?,
        body: block.raw_body.or(text),
        headers: headers.map(|it| (it.name, it.value)).collect(),
    })
}

fn read_ops(ops: Vec<WireOp>) -> Result<Vec<HeaderOp>, String> {
    let read = |op: WireOp| {
        let set = |Header { name, value, .. }| (name, value);
        match op.operation {
            Some(HeaderChange::Set(header)) => {
                let (name, value) = set(header);
                Ok(HeaderOp::Set { name, value })
            }
            Some(HeaderChange::Add(header)) => {
                let (name, value) = set(header);
                Ok(HeaderOp::Add { name, value })
            }
            Some(HeaderChange::Remove(name)) => Ok(HeaderOp::Remove { name }),
            None => Err("a header operation is of an unknown kind".to_owned()),
        }
    };
    ops.into_iter().map(read).collect()
}

// Published agents write each value as JSON; what is not JSON is text.
fn read_audit(audit: AuditMetadata) -> Result<Audit, String> {
    if audit.confidence.is_some_and(|it| !it.is_finite()) {
        return Err("the confidence is out of range".to_owned());
    }
    let mut custom = Map::new();
    for (key, text) in audit.custom {
        if key != "correlation_id" {
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            custom.insert(key, value);
        }
    }
    Ok(Audit {
        tags: audit.tags,
        rule_ids: audit.rule_ids,
        confidence: audit.confidence,
        reason_codes: audit.reason_codes,
        custom,
    })
}

fn read_frame(frame: WebSocketDecision) -> Result<FrameDecision, String> {
    match frame.decision {
        Some(FrameChange::Drop(_)) => Ok(FrameDecision::Drop),
        Some(FrameChange::Replace(data)) => Ok(FrameDecision::Replace(data)),
        Some(FrameChange::Close(close)) => Ok(FrameDecision::Close {
            code: u16::try_from(close.code).map_err(|_| "the close code is out of range")?,
            reason: close.reason,
        }),
        None => Err("the decision about the frame is of an unknown kind".to_owned()),
    }
}
