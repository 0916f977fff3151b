//! Answers in the binary encoding.

use bytes::Bytes;
use serde_json::Map;

use super::read::{Malformed, Reader};
use super::{guardrail, write};
use crate::codec::answer::{in_words_of, whole_milliseconds};
use crate::codec::{Answer, BadMessage, EventId, NoDecision};
use crate::{
    Audit, Decision, Extensions, FrameDecision, HeaderOp, ProtocolError, Verdict, VerdictTtl,
};

const DETAILS: u8 = 1;
const REQUEST_OPS: u8 = 2;
const RESPONSE_OPS: u8 = 3;
const AUDIT: u8 = 4;
const REQUEST_BODY: u8 = 5;
const RESPONSE_BODY: u8 = 6;
const FRAME: u8 = 7;
const TTL: u8 = 8;
const GUARDRAIL: u8 = 9;

const ALLOW: u8 = 0;
const BLOCK: u8 = 1;
const REDIRECT: u8 = 2;
const CHALLENGE: u8 = 3;
const ERROR: u8 = 4;
const OVERLOADED: u8 = 5;

const NEEDS_MORE: u8 = 1;

const SET: u8 = 1;
const ADD: u8 = 2;
const REMOVE: u8 = 3;

const DROP: u8 = 1;
const REPLACE: u8 = 2;
const CLOSE: u8 = 3;

/// Appends the payload of an answer. What the peer does not know, a failure
/// or an overload, is a block 500 for it; see [`NoDecision`].
///
/// # Errors
/// When the audit data cannot be written as JSON.
pub fn encode_answer(
    out: &mut Vec<u8>,
    event_id: u64,
    answer: &Answer,
    extensions: Extensions,
) -> Result<(), serde_json::Error> {
    out.extend_from_slice(&event_id.to_be_bytes());
    let answer = in_words_of(extensions, answer);
    let decision = match &*answer {
        Ok(decision) => decision,
        Err(reason) => {
            encode_reason(out, reason);
            return Ok(());
        }
    };
    out.extend_from_slice(&[
        verdict_number(&decision.verdict),
        if decision.needs_more { NEEDS_MORE } else { 0 },
    ]);
    encode_details(out, &decision.verdict);
    encode_ops(out, REQUEST_OPS, &decision.request_headers);
    encode_ops(out, RESPONSE_OPS, &decision.response_headers);
    match decision.audit.as_deref() {
        Some(audit) if !audit.is_empty() => encode_audit(out, audit)?,
        _ => {}
    }
    for (tag, body) in [
        (REQUEST_BODY, &decision.request_body),
        (RESPONSE_BODY, &decision.response_body),
    ] {
        if let Some(body) = body {
            write::section(out, tag, |out| write::bytes(out, body));
        }
    }
    if let Some(frame) = &decision.websocket {
        encode_frame(out, frame);
    }
    if extensions.verdict_ttl
        && let Some(ttl) = &decision.ttl
    {
        encode_ttl(out, ttl);
    }
    if let Some(result) = &decision.guardrail {
        write::section(out, GUARDRAIL, |out| guardrail::encode_result(out, result));
    }
    Ok(())
}

fn encode_frame(out: &mut Vec<u8>, frame: &FrameDecision) {
    write::section(out, FRAME, |out| match frame {
        FrameDecision::Drop => out.push(DROP),
        FrameDecision::Replace(data) => {
            out.push(REPLACE);
            write::bytes(out, data);
        }
        FrameDecision::Close { code, reason } => {
            out.push(CLOSE);
            out.extend_from_slice(&code.to_be_bytes());
            write::string(out, reason);
        }
    });
}

fn encode_ttl(out: &mut Vec<u8>, ttl: &VerdictTtl) {
    let Some(milliseconds) = ttl.milliseconds() else {
        return;
    };
    write::section(out, TTL, |out| {
        out.extend_from_slice(&milliseconds.to_be_bytes());
        write::count(out, ttl.vary_ignores.len());
        for part in &ttl.vary_ignores {
            write::string(out, part.name());
        }
    });
}

fn encode_reason(out: &mut Vec<u8>, reason: &NoDecision) {
    match reason {
        NoDecision::Failed(message) => {
            out.extend_from_slice(&[ERROR, 0]);
            write::section(out, DETAILS, |out| write::string(out, message));
        }
        NoDecision::Overloaded { retry_after } => {
            out.extend_from_slice(&[OVERLOADED, 0]);
            write::section(out, DETAILS, |out| {
                write::present_u64(out, retry_after.map(whole_milliseconds));
            });
        }
    }
}

fn verdict_number(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Allow => ALLOW,
        Verdict::Block { .. } => BLOCK,
        Verdict::Redirect { .. } => REDIRECT,
        Verdict::Challenge { .. } => CHALLENGE,
    }
}

fn encode_details(out: &mut Vec<u8>, verdict: &Verdict) {
    if *verdict == Verdict::Allow {
        return;
    }
    write::section(out, DETAILS, |out| match verdict {
        Verdict::Allow => {}
        Verdict::Block {
            status,
            body,
            headers,
        } => {
            out.extend_from_slice(&status.to_be_bytes());
            out.push(body.is_some().into());
            if let Some(body) = body {
                write::bytes(out, body);
            }
            write::pairs(out, headers);
        }
        Verdict::Redirect { url, status } => {
            out.extend_from_slice(&status.to_be_bytes());
            write::string(out, url);
        }
        Verdict::Challenge {
            challenge_type,
            params,
        } => {
            write::string(out, challenge_type);
            write::pairs(out, params);
        }
    });
}

fn encode_ops(out: &mut Vec<u8>, tag: u8, ops: &[HeaderOp]) {
    if ops.is_empty() {
        return;
    }
    write::section(out, tag, |out| {
        write::count(out, ops.len());
        for op in ops {
            let (kind, name, value) = match op {
                HeaderOp::Set { name, value } => (SET, name, Some(value)),
                HeaderOp::Add { name, value } => (ADD, name, Some(value)),
                HeaderOp::Remove { name } => (REMOVE, name, None),
            };
            out.push(kind);
            write::string(out, name);
            if let Some(value) = value {
                write::string(out, value);
            }
        }
    });
}

fn encode_audit(out: &mut Vec<u8>, audit: &Audit) -> Result<(), serde_json::Error> {
    let custom = match audit.custom.is_empty() {
        true => String::new(),
        false => serde_json::to_string(&audit.custom)?,
    };
    write::section(out, AUDIT, |out| {
        write::strings(out, &audit.tags);
        write::strings(out, &audit.rule_ids);
        write::strings(out, &audit.reason_codes);
        out.push(audit.confidence.is_some().into());
        if let Some(confidence) = audit.confidence {
            out.extend_from_slice(&confidence.to_bits().to_be_bytes());
        }
        write::string(out, &custom);
    });
    Ok(())
}

/// Reads the payload of an answer. Whether the peer may answer that it failed
/// or is overloaded depends on what has been negotiated.
///
/// # Errors
/// What is wrong, with the id of the event when that can be read.
pub fn decode_answer(
    payload: &[u8],
    extensions: Extensions,
) -> Result<(EventId, Answer), BadMessage> {
    read(payload, extensions, &Bytes::copy_from_slice)
}

/// The same, but bodies share the memory of the payload. This is worth it for
/// a payload of some size, since it keeps all of the buffer that it is in.
///
/// # Errors
/// As [`decode_answer`].
pub fn decode_shared_answer(
    payload: &Bytes,
    extensions: Extensions,
) -> Result<(EventId, Answer), BadMessage> {
    read(payload, extensions, &|body| payload.slice_ref(body))
}

fn read(
    payload: &[u8],
    extensions: Extensions,
    body: Body<'_>,
) -> Result<(EventId, Answer), BadMessage> {
    let bad = |detail| BadMessage {
        id: super::event_id(payload),
        error: ProtocolError::malformed("answer", detail),
    };
    let id = super::event_id(payload).ok_or_else(|| bad("it ends too early"))?;
    let answer = decode(payload, extensions, body).map_err(bad)?;
    Ok((id, answer))
}

/// Keeps a body of the payload.
type Body<'a> = &'a dyn Fn(&[u8]) -> Bytes;

fn decode(payload: &[u8], extensions: Extensions, body: Body<'_>) -> Result<Answer, Malformed> {
    let mut reader = Reader::new(payload);
    reader.u64()?;
    let verdict = reader.u8()?;
    let flags = reader.u8()?;
    let [
        details,
        request_ops,
        response_ops,
        audit,
        request_body,
        response_body,
        frame,
        ttl,
        guardrail,
    ] = reader.sections()?;
    let details = details.ok_or("the details of the verdict are missing");
    let verdict = match verdict {
        ALLOW => Verdict::Allow,
        BLOCK => decode_block(details?, body)?,
        REDIRECT => decode_redirect(details?)?,
        CHALLENGE => decode_challenge(details?)?,
        ERROR if extensions.error => {
            let message = details?.string()?.to_owned();
            return Ok(Err(NoDecision::Failed(message)));
        }
        ERROR => return Err("the verdict `error` was not negotiated"),
        OVERLOADED if extensions.overloaded => {
            let retry_after_ms = details?.present_u64()?;
            return Ok(Err(NoDecision::overloaded(retry_after_ms)));
        }
        OVERLOADED => return Err("the verdict `overloaded` was not negotiated"),
        _ => return Err("the verdict is of an unknown kind"),
    };
    let audit = audit.map(decode_audit).transpose()?;
    let kept = |section: Option<Reader<'_>>| match section {
        Some(mut section) => section.bytes().map(body).map(Some),
        None => Ok(None),
    };
    Ok(Ok(Decision {
        verdict,
        request_headers: request_ops.map_or(Ok(Vec::new()), decode_ops)?,
        response_headers: response_ops.map_or(Ok(Vec::new()), decode_ops)?,
        audit: audit.filter(|audit| !audit.is_empty()).map(Box::new),
        needs_more: flags & NEEDS_MORE != 0,
        request_body: kept(request_body)?,
        response_body: kept(response_body)?,
        websocket: match frame {
            Some(frame) => Some(Box::new(decode_frame(frame, extensions, body)?)),
            None => None,
        },
        guardrail: guardrail
            .map(|section| guardrail::decode_result(section).map(Box::new))
            .transpose()?,
        ttl: match ttl.filter(|_| extensions.verdict_ttl) {
            Some(ttl) => decode_ttl(ttl)?.map(Box::new),
            None => None,
        },
    }))
}

fn decode_frame(
    mut reader: Reader<'_>,
    extensions: Extensions,
    body: Body<'_>,
) -> Result<FrameDecision, Malformed> {
    match reader.u8()? {
        DROP => Ok(FrameDecision::Drop),
        REPLACE if extensions.event_id => Ok(FrameDecision::Replace(body(reader.bytes()?))),
        REPLACE => Err("the decision `replace` about a frame was not negotiated"),
        CLOSE => Ok(FrameDecision::Close {
            code: reader.u16()?,
            reason: reader.string()?.to_owned(),
        }),
        _ => Err("the decision about the frame is of an unknown kind"),
    }
}

fn decode_ttl(mut reader: Reader<'_>) -> Result<Option<VerdictTtl>, Malformed> {
    let milliseconds = reader.u64()?;
    let names = reader.list(4, Reader::string)?;
    Ok(VerdictTtl::read(milliseconds, names))
}

fn decode_block(mut reader: Reader<'_>, body: Body<'_>) -> Result<Verdict, Malformed> {
    Ok(Verdict::Block {
        status: reader.u16()?,
        body: match reader.present()? {
            true => Some(body(reader.bytes()?)),
            false => None,
        },
        headers: reader.pairs()?,
    })
}

fn decode_redirect(mut reader: Reader<'_>) -> Result<Verdict, Malformed> {
    let status = reader.u16()?;
    Ok(Verdict::Redirect {
        url: reader.string()?.to_owned(),
        status,
    })
}

fn decode_challenge(mut reader: Reader<'_>) -> Result<Verdict, Malformed> {
    let challenge_type = reader.string()?.to_owned();
    Ok(Verdict::Challenge {
        challenge_type,
        params: reader.pairs()?,
    })
}

fn decode_ops(mut reader: Reader<'_>) -> Result<Vec<HeaderOp>, Malformed> {
    reader.list(5, |reader| {
        let kind = reader.u8()?;
        let name = reader.string()?.to_owned();
        match kind {
            SET => Ok(HeaderOp::Set {
                name,
                value: reader.string()?.to_owned(),
            }),
            ADD => Ok(HeaderOp::Add {
                name,
                value: reader.string()?.to_owned(),
            }),
            REMOVE => Ok(HeaderOp::Remove { name }),
            _ => Err("a header operation is of an unknown kind"),
        }
    })
}

pub(super) fn decode_confidence(bits: u32) -> Result<f32, Malformed> {
    let confidence = f32::from_bits(bits);
    match confidence.is_finite() {
        true => Ok(confidence),
        false => Err("the confidence is out of range"),
    }
}

fn decode_audit(mut reader: Reader<'_>) -> Result<Audit, Malformed> {
    Ok(Audit {
        tags: reader.strings()?,
        rule_ids: reader.strings()?,
        reason_codes: reader.strings()?,
        confidence: match reader.present()? {
            true => Some(decode_confidence(reader.u32()?)?),
            false => None,
        },
        custom: match reader.string()? {
            "" => Map::new(),
            text => serde_json::from_str(text).map_err(|_| "the audit data are not an object")?,
        },
    })
}
