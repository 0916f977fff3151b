//! What is taken out of a recording: values of headers and parameters that are secrets, and bodies.
//!
//! In place of a value stands a hash of it, so that it can be seen whether two are the same. The key of the hash is made for
//! one recording and never leaves the process: without it nobody can try out which value it was.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use portcullis_agent_protocol::{
    Audit, BodyChunk, Decision, Detection, Event, FrameDecision, GuardrailInspect, GuardrailResult,
    HeaderOp, RequestHeaders, ResponseHeaders, Verdict, WebSocketFrame, header_name::folded,
};
use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    hash::{BuildHasher, RandomState},
};

/// Headers whose values are never recorded.
const ALWAYS: [&str; 4] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
];

/// What is replaced in one recording.
pub(super) struct Redaction {
    /// Lower case, with hyphens.
    names: HashSet<String>,
    body_bytes: usize,
    key: RandomState,
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Redaction {
    pub(super) fn new(names: &[String], body_bytes: u32) -> Self {
        let always = ALWAYS.into_iter().map(str::to_owned);
        Self {
            names: always
                .chain(names.iter().map(|name| folded(name).into_owned()))
                .collect(),
            body_bytes: body_bytes as usize,
            key: RandomState::new(),
        }
    }

    fn is_secret(&self, name: &str) -> bool {
        self.names.contains(&*folded(name))
    }

    /// What stands in place of a value.
    fn mark(&self, value: &[u8]) -> String {
        format!("[redacted:{:016x}]", self.key.hash_one(value))
    }

    fn text(&self, name: &str, value: &str) -> String {
        match self.is_secret(name) {
            true => self.mark(value.as_bytes()),
            false => value.to_owned(),
        }
    }

    fn headers(&self, headers: &HeaderMap) -> HeaderMap {
        let mut shown = HeaderMap::with_capacity(headers.len());
        for (name, value) in headers {
            let value = match self.is_secret(name.as_str()) {
                false => value.clone(),
                true => HeaderValue::from_str(&self.mark(value.as_bytes()))
                    .unwrap_or(HeaderValue::from_static("[redacted]")),
            };
            shown.append(name, value);
        }
        shown
    }

    /// A path or URL with its query.
    fn uri<'a>(&self, uri: &'a str) -> Cow<'a, str> {
        let Some((path, query)) = uri.split_once('?') else {
            return Cow::Borrowed(uri);
        };
        let (query, fragment) = match query.split_once('#') {
            Some((query, fragment)) => (query, Some(fragment)),
            None => (query, None),
        };
        let parameters: Vec<Cow<'_, str>> = query
            .split('&')
            .map(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                let decoded = percent_decode_str(name).decode_utf8_lossy();
                match self.is_secret(&decoded) {
                    true => Cow::Owned(format!("{name}={}", self.mark(value.as_bytes()))),
                    false => Cow::Borrowed(parameter),
                }
            })
            .collect();
        let mut shown = format!("{path}?{}", parameters.join("&"));
        if let Some(fragment) = fragment {
            shown.push('#');
            shown.push_str(fragment);
        }
        Cow::Owned(shown)
    }

    /// Data of a body or of a frame as far as it is recorded.
    fn is_shown(&self, data: &[u8]) -> bool {
        data.is_empty() || data.len() <= self.body_bytes
    }

    /// Calls `show` with the event as it may be seen. The second value is how many bytes were left out.
    pub(super) fn event<T>(
        &self,
        told: &Event<'_>,
        show: impl FnOnce(&Event<'_>, usize) -> T,
    ) -> T {
        match told.clone().with_budget_left(None) {
            Event::RequestHeaders(head) => {
                let headers = self.headers(head.headers);
                let uri = self.uri(head.uri);
                let head = RequestHeaders {
                    headers: &headers,
                    uri: &uri,
                    ..head
                };
                show(&Event::RequestHeaders(head), 0)
            }
            Event::ResponseHeaders(head) => {
                let headers = self.headers(head.headers);
                let head = ResponseHeaders {
                    headers: &headers,
                    ..head
                };
                show(&Event::ResponseHeaders(head), 0)
            }
            Event::RequestBodyChunk(chunk) => self.chunk(chunk, false, show),
            Event::ResponseBodyChunk(chunk) => self.chunk(chunk, true, show),
            Event::WebSocketFrame(frame) => {
                let (data, left_out) = self.data(frame.data);
                let frame = WebSocketFrame { data, ..frame };
                show(&Event::WebSocketFrame(frame), left_out)
            }
            Event::GuardrailInspect(text) => {
                let (content, left_out) = match self.is_shown(text.content.as_bytes()) {
                    true => (text.content, 0),
                    false => ("", text.content.len()),
                };
                let text = GuardrailInspect { content, ..text };
                show(&Event::GuardrailInspect(text), left_out)
            }
            event @ Event::RequestComplete(_) => show(&event, 0),
        }
    }

    fn chunk<T>(
        &self,
        chunk: BodyChunk<'_>,
        is_response: bool,
        show: impl FnOnce(&Event<'_>, usize) -> T,
    ) -> T {
        let trailers = chunk.trailers.map(|trailers| self.headers(trailers));
        let (data, left_out) = self.data(chunk.data);
        let chunk = BodyChunk {
            correlation_id: chunk.correlation_id,
            index: chunk.index,
            data,
            is_last: chunk.is_last,
            total_size: chunk.total_size,
            transferred: chunk.transferred,
            truncated: chunk.truncated,
            trailers: trailers.as_ref(),
            budget_left: None,
        };
        let event = match is_response {
            true => Event::ResponseBodyChunk(chunk),
            false => Event::RequestBodyChunk(chunk),
        };
        show(&event, left_out)
    }

    fn data(&self, data: Bytes) -> (Bytes, usize) {
        match self.is_shown(&data) {
            true => (data, 0),
            false => (Bytes::new(), data.len()),
        }
    }

    /// A decision as it may be seen, and how many bytes of bodies and frames were left out. What else an agent says about a
    /// request may hold anything of it, and is left out too.
    pub(super) fn decision(&self, decision: &Decision) -> (Decision, usize) {
        let operations = |operations: &[HeaderOp]| {
            let shown = operations.iter().map(|operation| self.operation(operation));
            shown.collect()
        };
        let mut left_out = 0;
        let mut shown = |data: &Option<Bytes>| {
            let data = data.clone()?;
            let (data, hidden) = self.data(data);
            left_out += hidden;
            (hidden == 0).then_some(data)
        };
        let request_body = shown(&decision.request_body);
        let response_body = shown(&decision.response_body);
        let websocket = match decision.websocket.as_deref() {
            Some(FrameDecision::Replace(data)) => {
                shown(&Some(data.clone())).map(|data| Box::new(FrameDecision::Replace(data)))
            }
            other => other.cloned().map(Box::new),
        };
        let guardrail = decision.guardrail.as_deref().map(|found| {
            let redacted = found.redacted_content.clone().map(Bytes::from);
            let redacted = shown(&redacted);
            Box::new(GuardrailResult {
                redacted_content: redacted
                    .and_then(|redacted| String::from_utf8(redacted.into()).ok()),
                detections: found.detections.iter().map(undescribed).collect(),
                ..found.clone()
            })
        });
        let audit = decision.audit.as_deref().map(|audit| {
            Box::new(Audit {
                custom: serde_json::Map::new(),
                ..audit.clone()
            })
        });
        let decision = Decision {
            verdict: self.verdict(&decision.verdict),
            request_headers: operations(&decision.request_headers),
            response_headers: operations(&decision.response_headers),
            audit,
            needs_more: decision.needs_more,
            request_body,
            response_body,
            websocket,
            guardrail,
            ttl: decision.ttl.clone(),
        };
        (decision, left_out)
    }

    fn operation(&self, operation: &HeaderOp) -> HeaderOp {
        let shown = |name: &str, value: &str| self.text(name, value);
        match operation {
            HeaderOp::Set { name, value } => HeaderOp::Set {
                value: shown(name, value),
                name: name.clone(),
            },
            HeaderOp::Add { name, value } => HeaderOp::Add {
                value: shown(name, value),
                name: name.clone(),
            },
            HeaderOp::Remove { name } => HeaderOp::Remove { name: name.clone() },
        }
    }

    fn verdict(&self, verdict: &Verdict) -> Verdict {
        let pairs = |pairs: &[(String, String)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.clone(), self.text(name, value)))
                .collect()
        };
        match verdict {
            Verdict::Allow => Verdict::Allow,
            Verdict::Block {
                status,
                body,
                headers,
            } => Verdict::Block {
                status: *status,
                body: body.clone().filter(|body| self.is_shown(body)),
                headers: pairs(headers),
            },
            Verdict::Redirect { url, status } => Verdict::Redirect {
                url: self.uri(url).into_owned(),
                status: *status,
            },
            Verdict::Challenge {
                challenge_type,
                params,
            } => Verdict::Challenge {
                challenge_type: challenge_type.clone(),
                params: pairs(params),
            },
        }
    }
}

/// What was found, without the words that may repeat it.
fn undescribed(found: &Detection) -> Detection {
    Detection {
        description: String::new(),
        ..found.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_has_the_same_mark_in_one_recording() {
        let [one, other] = [(); 2].map(|()| Redaction::new(&[], 0));
        assert_eq!(one.mark(b"secret"), one.mark(b"secret"));
        assert_ne!(one.mark(b"secret"), one.mark(b"secrets"));
        assert_ne!(one.mark(b"secret"), other.mark(b"secret"));
    }

    #[test]
    fn named_parameters_of_queries_are_replaced() {
        let redaction = Redaction::new(&["Token".to_owned(), "x_key".to_owned()], 0);
        let shown = |uri| redaction.uri(uri).into_owned();
        for kept in ["/a", "/a?", "/a?b=token&c", "/token=1?a", "/a?tokens=1#b"] {
            assert_eq!(shown(kept), kept);
        }
        for secret in [
            "/?token=sesame",
            "/?a=1&TOKEN=sesame&b=2",
            "/?t%6Fken=sesame#f",
            "/?X-Key=sesame",
            "https://h/?x_key=sesame",
        ] {
            let shown = shown(secret);
            assert!(!shown.contains("sesame"), "{shown}");
            assert!(shown.contains("=[redacted:"), "{shown}");
        }
        assert!(shown("/?a=1&token=x&b=2").ends_with("]&b=2"));
        assert!(shown("/?token=x#f").ends_with("]#f"));
    }

    #[test]
    fn of_answers_no_secret_is_left() {
        let redaction = Redaction::new(&["x-key".to_owned()], 4);
        let decision = Decision::block(403)
            .with_header("Set-Cookie", "sesame")
            .with_body("sesame")
            .custom("match", "sesame")
            .reason("rule-7")
            .set_request_header("X_Key", "sesame")
            .set_request_header("x-user", "ann")
            .add_response_header("set-cookie", "sesame")
            .replace_request_body("sesame");
        let (shown, left_out) = redaction.decision(&decision);
        assert_eq!(left_out, 6, "the piece that takes the place of another");
        let text = format!("{shown:?}");
        assert!(!text.contains("sesame"), "{text}");
        for part in ["ann", "rule-7", "403", "X_Key"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let frame = Decision::allow().replace_frame("sesame");
        let (shown, left_out) = redaction.decision(&frame);
        assert_eq!((shown.websocket, left_out), (None, 6));
        for short in [
            Decision::allow().replace_response_body("four"),
            Decision::allow().replace_request_body(""),
            Decision::allow().replace_frame("four"),
            Decision::allow().drop_frame(),
        ] {
            assert_eq!(redaction.decision(&short), (short, 0));
        }
    }
}
