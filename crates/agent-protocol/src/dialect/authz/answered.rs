//! From the answer over gRPC to a decision. Pure.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::Value as Json;

use super::messages::{
    APPEND_OR_ADD, Answer, CheckResponse, DeniedResponse, HeaderValueOption, Kind,
    OVERWRITE_OR_ADD, OkResponse, Struct, Value,
};
use crate::error::shown;
use crate::{CallError, Decision, HeaderOp, ProtocolError, Verdict};

/// Metadata may be so deep; what is deeper is left out.
const DEEPEST: usize = 32;

/// What an answer means.
///
/// One that says nothing at all lets pass, as with Envoy: 0 is what a code is when nobody has set it.
///
/// # Errors
/// The service says that it failed, or contradicts itself.
pub(super) fn decision(response: CheckResponse) -> Result<Decision, CallError> {
    let (code, message) = response
        .status
        .map(|status| (status.code, status.message))
        .unwrap_or_default();
    let mut decision = match (code, response.answer) {
        (0, Some(Answer::Ok(answer))) => allowed(answer)?,
        (0, None) => Decision::allow(),
        (0, Some(Answer::Denied(_) | Answer::Error(_))) => {
            let detail = "refuses with a status that lets pass".to_owned();
            return Err(malformed(detail));
        }
        (_, Some(Answer::Error(_))) => return Err(CallError::Agent(shown(&message))),
        (_, Some(Answer::Denied(answer))) => denied(answer)?,
        (_, _) => denied(DeniedResponse::default())?,
    };
    if code != 0 && !message.is_empty() {
        decision = decision.reason(message);
    }
    Ok(match response.dynamic_metadata {
        Some(metadata) => annotated(decision, metadata),
        None => decision,
    })
}

/// The request may not go on, without an answer of the service for the client.
pub(super) fn refused(status: u16, message: &str) -> Decision {
    let decision = Decision::block(status);
    match message {
        "" => decision,
        message => decision.reason(message),
    }
}

fn allowed(answer: OkResponse) -> Result<Decision, CallError> {
    let mut decision = Decision::allow();
    for option in answer.headers {
        let append = option.append.unwrap_or(false);
        decision.request_headers.extend(operation(option, append)?);
    }
    // Last, as Envoy has it: a name that is set and removed is not there afterwards.
    let removed = answer.headers_to_remove.into_iter();
    decision
        .request_headers
        .extend(removed.map(|name| HeaderOp::Remove { name }));
    for option in answer.response_headers_to_add {
        let append = match (option.append, option.append_action) {
            (Some(append), _) => append,
            (None, APPEND_OR_ADD) => true,
            (None, OVERWRITE_OR_ADD) => false,
            // That depends on what the upstream says, which nobody knows yet.
            (None, _) => {
                decision.response_headers.push(impossible("a condition"));
                continue;
            }
        };
        decision.response_headers.extend(operation(option, append)?);
    }
    let of_query = answer.query_parameters_to_set.len() + answer.query_parameters_to_remove.len();
    for _ in 0..of_query {
        decision.request_headers.push(impossible("the query"));
    }
    Ok(decision)
}

/// An operation that nobody may make. It stands for something that is not done, so that this is counted, or fails where the
/// configuration is strict, like everything else of the kind.
fn impossible(what: &str) -> HeaderOp {
    HeaderOp::Remove {
        name: format!(":{what}"),
    }
}

fn denied(answer: DeniedResponse) -> Result<Decision, CallError> {
    let status = answer.status.map_or(0, |status| status.code);
    let status = match u16::try_from(status) {
        Ok(0) => 403,
        Ok(status) => status,
        Err(_) => return Err(malformed(format!("has a status {status}"))),
    };
    let mut headers = Vec::with_capacity(answer.headers.len());
    for option in answer.headers {
        let append = option.append.unwrap_or(false);
        match operation(option, append)? {
            Some(HeaderOp::Add { name, value }) => headers.push((name, value)),
            Some(HeaderOp::Set { name, value }) => {
                headers.retain(|(known, _): &(String, String)| !known.eq_ignore_ascii_case(&name));
                headers.push((name, value));
            }
            _ => {}
        }
    }
    Ok(Verdict::Block {
        status,
        // Without one the service says nothing, and neither do we.
        body: Some(answer.body),
        headers,
    }
    .into())
}

/// Nothing when no header is named.
fn operation(option: HeaderValueOption, append: bool) -> Result<Option<HeaderOp>, CallError> {
    let Some(header) = option.header else {
        return Ok(None);
    };
    let name = header.key;
    let value = match header.raw_value.is_empty() {
        true => header.value,
        false => text(header.raw_value)?,
    };
    Ok(Some(match append {
        true => HeaderOp::Add { name, value },
        false => HeaderOp::Set { name, value },
    }))
}

fn text(bytes: Bytes) -> Result<String, CallError> {
    String::from_utf8(bytes.into()).map_err(|_| malformed("has a header that is no text".into()))
}

fn malformed(detail: String) -> CallError {
    ProtocolError::malformed("CheckResponse", detail).into()
}

/// What the service wants others to know: all of it as audit data, and what is simple as tags, which the log has.
fn annotated(mut decision: Decision, metadata: Struct) -> Decision {
    for (name, value) in metadata.fields {
        let value = json(value, 0);
        let mut tag = format!("{name}=");
        match &value {
            Json::String(text) => tag.push_str(text),
            Json::Bool(_) | Json::Number(_) => {
                let _ = write!(tag, "{value}");
            }
            Json::Null | Json::Array(_) | Json::Object(_) => tag.clear(),
        }
        if !tag.is_empty() {
            decision = decision.tag(tag);
        }
        decision = decision.custom(name, value);
    }
    decision
}

fn json(value: Value, depth: usize) -> Json {
    match value.kind {
        _ if depth > DEEPEST => Json::Null,
        None | Some(Kind::Null(_)) => Json::Null,
        // Every number is one of these; `2` is how people write it.
        Some(Kind::Number(number)) if number.fract() == 0.0 && number.abs() < 1e15 => {
            Json::from(number as i64)
        }
        Some(Kind::Number(number)) => Json::from(number),
        Some(Kind::Text(text)) => Json::String(text),
        Some(Kind::Bool(yes)) => Json::Bool(yes),
        Some(Kind::Struct(object)) => Json::Object(
            object
                .fields
                .into_iter()
                .map(|(name, value)| (name, json(value, depth + 1)))
                .collect(),
        ),
        Some(Kind::List(list)) => list
            .values
            .into_iter()
            .map(|value| json(value, depth + 1))
            .collect(),
    }
}
