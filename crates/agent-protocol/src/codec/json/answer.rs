//! Answers in JSON.

use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::base64::{AsBase64, Base64};
use super::find_event_id;
use super::frame_decision::{self, WireFrameDecision, WireFrameDecisionOut};
use super::guardrail;
use crate::codec::answer::{in_words_of, whole_milliseconds};
use crate::codec::{Answer, BadMessage, EventId, NoDecision};
use crate::{Audit, Decision, Extensions, HeaderOp, ProtocolError, Verdict, VerdictTtl};

const VERSION: u32 = 2;

/// Where an answer has what a guardrail found.
const GUARDRAIL: &str = "guardrail_response";

/// Reads the payload of an answer, legacy or extended.
///
/// # Errors
/// What is wrong, with the id of the event when that can be read.
pub fn decode_answer(
    payload: &[u8],
    extensions: Extensions,
) -> Result<(EventId, Answer), BadMessage> {
    let bad = |error| BadMessage {
        id: find_event_id(payload, extensions.event_id),
        error,
    };
    let mut wire = read(payload).map_err(bad)?;
    let in_custom = wire.audit.custom.remove("correlation_id");
    let id = match (
        extensions.event_id,
        std::mem::take(&mut wire.event_id),
        wire.correlation_id.take(),
        in_custom,
    ) {
        (true, Value::Number(number), ..) => number.as_u64().map(EventId::Number),
        (true, ..) => None,
        (false, _, Some(id), _) | (false, _, None, Some(Value::String(id))) => {
            Some(EventId::Correlation(id))
        }
        (false, ..) => None,
    };
    let Some(id) = id else {
        return Err(bad(malformed("it does not say which event it answers")));
    };
    let answer = wire.answer(extensions).map_err(bad)?;
    Ok((id, answer))
}

/// Reads the payload of an answer of whose event nothing but the connection
/// tells which it is, as in version 1. Nothing is negotiated there.
///
/// # Errors
/// What is wrong with it.
pub fn decode_answer_without_id(payload: &[u8]) -> Result<Decision, ProtocolError> {
    let answer = read(payload)?.answer(Extensions::NONE)?;
    // What is beside a decision has to be negotiated.
    answer.map_err(malformed)
}

fn malformed(detail: impl fmt::Display) -> ProtocolError {
    ProtocolError::malformed("answer", detail)
}

fn read(payload: &[u8]) -> Result<WireAnswer, ProtocolError> {
    let wire: WireAnswer = serde_json::from_slice(payload).map_err(malformed)?;
    // Answers of older peers carry the version of their message library.
    if !(1..=VERSION).contains(&wire.version) {
        return Err(malformed(format_args!("version {}", wire.version)));
    }
    Ok(wire)
}

impl WireAnswer {
    fn answer(self, extensions: Extensions) -> Result<Answer, ProtocolError> {
        let verdict = match read_verdict(self.decision, extensions).map_err(malformed)? {
            Ok(verdict) => verdict,
            Err(reason) => return Ok(Err(reason)),
        };
        let websocket =
            frame_decision::read(self.websocket_decision, extensions).map_err(malformed)?;
        let ttl = self.ttl_ms.filter(|_| extensions.verdict_ttl);
        let ignored = self.vary_ignores.iter().map(String::as_str);
        let ttl = ttl.and_then(|milliseconds| VerdictTtl::read(milliseconds, ignored));
        let guardrail = match self.routing_metadata.get(GUARDRAIL) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(guardrail::read_result(text).map_err(malformed)?),
            Some(_) => return Err(malformed("guardrail_response is no text")),
        };
        let audit = Audit::from(self.audit);
        // Numbers beyond 32 bits of floating point are read as infinite.
        if audit.confidence.is_some_and(|it| !it.is_finite()) {
            return Err(malformed("the confidence is out of range"));
        }
        Ok(Ok(Decision {
            verdict,
            request_headers: self.request_headers,
            response_headers: self.response_headers,
            audit: (!audit.is_empty()).then(|| Box::new(audit)),
            needs_more: self.needs_more,
            request_body: self.request_body_mutation.and_then(WireMutation::body),
            response_body: self.response_body_mutation.and_then(WireMutation::body),
            websocket,
            guardrail: guardrail.map(Box::new),
            ttl: ttl.map(Box::new),
        }))
    }
}

// Why there is none, if that may be said to this peer.
fn read_verdict(
    wire: WireVerdict,
    extensions: Extensions,
) -> Result<Result<Verdict, NoDecision>, &'static str> {
    Ok(Ok(match wire {
        WireVerdict::Allow => Verdict::Allow,
        WireVerdict::Block {
            status,
            body,
            headers,
        } => Verdict::Block {
            status,
            body: body.map(Into::into),
            headers: headers.0,
        },
        WireVerdict::Redirect { url, status } => Verdict::Redirect { url, status },
        WireVerdict::Challenge {
            challenge_type,
            params,
        } => Verdict::Challenge {
            challenge_type,
            params: params.0,
        },
        WireVerdict::Error { message } if extensions.error => {
            return Ok(Err(NoDecision::Failed(message)));
        }
        WireVerdict::Error { .. } => return Err("the decision `error` was not negotiated"),
        WireVerdict::Overloaded { retry_after_ms } if extensions.overloaded => {
            return Ok(Err(NoDecision::overloaded(retry_after_ms)));
        }
        WireVerdict::Overloaded { .. } => {
            return Err("the decision `overloaded` was not negotiated");
        }
    }))
}

/// Appends the payload of an answer. For a legacy peer the id is in
/// `audit.custom`, where legacy proxies look for it. What the peer does not
/// know, a failure or an overload, is a block 500 for it; see [`NoDecision`].
/// What takes the place of a piece of a body names the piece by `chunk_index`.
///
/// # Errors
/// When the answer cannot be written as JSON.
pub fn encode_answer(
    out: &mut Vec<u8>,
    id: &EventId,
    chunk_index: u32,
    answer: &Answer,
    extensions: Extensions,
) -> Result<(), serde_json::Error> {
    let answer = in_words_of(extensions, answer);
    // The other members of an answer without a decision.
    let empty = Decision::allow();
    let (decision, wire_verdict) = match &*answer {
        Ok(decision) => (decision, WireVerdictOut::from(&decision.verdict)),
        Err(NoDecision::Failed(message)) => (&empty, WireVerdictOut::Error { message }),
        Err(NoDecision::Overloaded { retry_after }) => {
            let retry_after_ms = retry_after.map(whole_milliseconds);
            (&empty, WireVerdictOut::Overloaded { retry_after_ms })
        }
    };
    let (event_id, correlation_id) = match id {
        EventId::Number(number) => (Some(*number), None),
        EventId::Correlation(id) => (None, Some(id.as_str())),
    };
    let ttl = decision.ttl.as_deref().filter(|_| extensions.verdict_ttl);
    let ttl = ttl.and_then(|ttl| Some((ttl.milliseconds()?, ttl)));
    let guardrail = decision.guardrail.as_deref();
    let guardrail_response = guardrail.map(guardrail::write_result).transpose()?;
    let nothing = Audit::default();
    let audit = decision.audit.as_deref().unwrap_or(&nothing);
    serde_json::to_writer(
        out,
        &WireAnswerOut {
            version: VERSION,
            event_id,
            decision: wire_verdict,
            request_headers: &decision.request_headers,
            response_headers: &decision.response_headers,
            routing_metadata: WireRoutingOut { guardrail_response },
            audit: WireAuditOut {
                tags: &audit.tags,
                rule_ids: &audit.rule_ids,
                confidence: audit.confidence,
                reason_codes: &audit.reason_codes,
                custom: Custom {
                    members: &audit.custom,
                    correlation_id,
                },
            },
            needs_more: decision.needs_more,
            request_body_mutation: mutation(decision.request_body.as_deref(), chunk_index),
            response_body_mutation: mutation(decision.response_body.as_deref(), chunk_index),
            websocket_decision: decision.websocket.as_deref().map(Into::into),
            ttl_ms: ttl.map(|(milliseconds, _)| milliseconds),
            vary_ignores: ttl.map_or_else(Vec::new, |(_, ttl)| {
                ttl.vary_ignores.iter().map(|part| part.name()).collect()
            }),
        },
    )
}

// Members that are not named here are passed over.
#[derive(Deserialize)]
struct WireAnswer {
    version: u32,
    decision: WireVerdict,
    #[serde(default)]
    event_id: Value,
    #[serde(default)]
    correlation_id: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    request_headers: Vec<HeaderOp>,
    #[serde(default, deserialize_with = "null_as_default")]
    response_headers: Vec<HeaderOp>,
    #[serde(default)]
    routing_metadata: Value,
    #[serde(default, deserialize_with = "null_as_default")]
    audit: WireAudit,
    #[serde(default, deserialize_with = "null_as_default")]
    needs_more: bool,
    #[serde(default)]
    request_body_mutation: Option<WireMutation>,
    #[serde(default)]
    response_body_mutation: Option<WireMutation>,
    #[serde(default)]
    websocket_decision: Option<WireFrameDecision>,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    vary_ignores: Vec<String>,
}

// It also has a `chunk_index`, which is passed over: an agent has one event of
// a request to answer at a time, so there is only one piece that it can mean.
// Agents that gather a body and answer to its last piece write 0 there, or the
// number of that piece.
#[derive(Deserialize)]
struct WireMutation {
    #[serde(default)]
    data: Option<Base64>,
}

impl WireMutation {
    fn body(self) -> Option<Bytes> {
        self.data.map(|data| data.0)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireVerdict {
    Allow,
    Block {
        status: u16,
        #[serde(default)]
        body: Option<String>,
        #[serde(default, deserialize_with = "null_as_default")]
        headers: Pairs,
    },
    Redirect {
        url: String,
        #[serde(default = "found")]
        status: u16,
    },
    Challenge {
        challenge_type: String,
        #[serde(default, deserialize_with = "null_as_default")]
        params: Pairs,
    },
    Error {
        message: String,
    },
    Overloaded {
        #[serde(default)]
        retry_after_ms: Option<u64>,
    },
}

fn found() -> u16 {
    302
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireAudit {
    #[serde(deserialize_with = "null_as_default")]
    tags: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    rule_ids: Vec<String>,
    confidence: Option<f32>,
    #[serde(deserialize_with = "null_as_default")]
    reason_codes: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    custom: Map<String, Value>,
}

impl From<WireAudit> for Audit {
    fn from(wire: WireAudit) -> Self {
        Self {
            tags: wire.tags,
            rule_ids: wire.rule_ids,
            confidence: wire.confidence,
            reason_codes: wire.reason_codes,
            custom: wire.custom,
        }
    }
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An object of strings whose order and repeated names are kept.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor).map(Self)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

#[derive(Serialize)]
struct WireAnswerOut<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<u64>,
    decision: WireVerdictOut<'a>,
    request_headers: &'a [HeaderOp],
    response_headers: &'a [HeaderOp],
    routing_metadata: WireRoutingOut,
    audit: WireAuditOut<'a>,
    needs_more: bool,
    request_body_mutation: Option<WireMutationOut<'a>>,
    response_body_mutation: Option<WireMutationOut<'a>>,
    websocket_decision: Option<WireFrameDecisionOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vary_ignores: Vec<&'static str>,
}

#[derive(Serialize)]
struct WireRoutingOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    guardrail_response: Option<String>,
}

#[derive(Serialize)]
struct WireMutationOut<'a> {
    data: AsBase64<'a>,
    chunk_index: u32,
}

fn mutation(body: Option<&[u8]>, chunk_index: u32) -> Option<WireMutationOut<'_>> {
    let data = AsBase64(body?);
    Some(WireMutationOut { data, chunk_index })
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum WireVerdictOut<'a> {
    Allow,
    Block {
        status: u16,
        body: Option<std::borrow::Cow<'a, str>>,
        #[serde(serialize_with = "as_object")]
        headers: &'a [(String, String)],
    },
    Redirect {
        url: &'a str,
        status: u16,
    },
    Challenge {
        challenge_type: &'a str,
        #[serde(serialize_with = "as_object")]
        params: &'a [(String, String)],
    },
    Error {
        message: &'a str,
    },
    Overloaded {
        retry_after_ms: Option<u64>,
    },
}

impl<'a> From<&'a Verdict> for WireVerdictOut<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Block {
                status,
                body,
                headers,
            } => Self::Block {
                status: *status,
                body: body.as_deref().map(String::from_utf8_lossy),
                headers,
            },
            Verdict::Redirect { url, status } => Self::Redirect {
                url,
                status: *status,
            },
            Verdict::Challenge {
                challenge_type,
                params,
            } => Self::Challenge {
                challenge_type,
                params,
            },
        }
    }
}

pub(super) fn as_object<S: Serializer>(
    pairs: &&[(String, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

#[derive(Serialize)]
struct WireAuditOut<'a> {
    tags: &'a [String],
    rule_ids: &'a [String],
    confidence: Option<f32>,
    reason_codes: &'a [String],
    custom: Custom<'a>,
}

struct Custom<'a> {
    members: &'a Map<String, Value>,
    correlation_id: Option<&'a str>,
}

impl Serialize for Custom<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self
            .members
            .iter()
            .filter(|(key, _)| *key != "correlation_id")
        {
            map.serialize_entry(key, value)?;
        }
        if let Some(id) = self.correlation_id {
            map.serialize_entry("correlation_id", id)?;
        }
        map.end()
    }
}
