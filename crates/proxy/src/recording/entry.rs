//! One question and its answer, as a line of a recording: the JSON of docs/protocol.md with what belongs to it around it.

use super::redact::Redaction;
use portcullis_agent_manager::FailureReason;
use portcullis_agent_protocol::{
    Decision, Event, Extensions,
    codec::{EventId, json},
};
use serde_json::json;
use std::time::Duration;

/// What is written down.
pub(super) struct Entry<'a> {
    pub(super) agent: &'a str,
    /// From 1, in the order in which answers came.
    pub(super) number: u64,
    pub(super) told: &'a Event<'a>,
    pub(super) answer: Result<&'a Decision, FailureReason>,
    pub(super) took: Duration,
}

impl Entry<'_> {
    /// Without the end of the line.
    pub(super) fn written(&self, redaction: &Redaction) -> Vec<u8> {
        let mut line = Vec::with_capacity(1024);
        let about = json!({
            "agent": self.agent,
            "type": self.told.kind().name(),
            "took_us": u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
            "failure": self.answer.err().map(FailureReason::name),
        });
        line.extend_from_slice(about.to_string().as_bytes());
        // More members follow.
        line.pop();
        let told = redaction.event(self.told, |event, left_out| {
            line.extend_from_slice(b",\"event\":");
            json::encode_event(&mut line, Some(self.number), event);
            left_out
        });
        let answer = self.answer.ok().map(|answer| redaction.decision(answer));
        let left_out = told + answer.as_ref().map_or(0, |(_, left_out)| *left_out);
        line.extend_from_slice(format!(",\"left_out_bytes\":{left_out},\"answer\":").as_bytes());
        let written = answer.and_then(|(decision, _)| {
            let decision = Ok(decision);
            let (id, start) = (EventId::Number(self.number), line.len());
            let encoded = json::encode_answer(&mut line, &id, 0, &decision, Extensions::ALL);
            encoded.map_err(|_| line.truncate(start)).ok()
        });
        if written.is_none() {
            line.extend_from_slice(b"null");
        }
        line.push(b'}');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderMap;
    use portcullis_agent_protocol::{BodyChunk, EventKind, RequestHeaders, RequestMetadata};
    use serde_json::Value;
    use std::time::SystemTime;

    fn line(told: &Event<'_>, answer: Result<&Decision, FailureReason>) -> Value {
        let entry = Entry {
            agent: "w\"af",
            number: 7,
            told,
            answer,
            took: Duration::from_micros(351),
        };
        let redaction = Redaction::new(&[], 3);
        serde_json::from_slice(&entry.written(&redaction)).unwrap()
    }

    #[test]
    fn a_line_is_what_the_protocol_says_and_can_be_told_again() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "sesame".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", "2".parse().unwrap());
        let told = Event::RequestHeaders(RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: "c",
                request_id: "r",
                client_ip: [192, 0, 2, 1].into(),
                client_port: 1,
                server_name: None,
                protocol: "HTTP/1.1",
                tls_version: None,
                tls_cipher: None,
                client_certificate: None,
                route_id: Some("all"),
                upstream_id: None,
                timestamp: SystemTime::UNIX_EPOCH,
                traceparent: None,
            },
            method: "GET",
            uri: "/a?b",
            headers: &headers,
            budget_left: Some(Duration::from_secs(1)),
        });
        let line = line(&told, Ok(&Decision::block(403).reason("r")));
        assert!(!line.to_string().contains("sesame"));
        assert_eq!(line["agent"], "w\"af");
        assert_eq!(line["type"], "request_headers");
        assert_eq!(line["took_us"], 351);
        assert_eq!(line["answer"]["decision"]["block"]["status"], 403);
        let event = line["event"].to_string();
        let kind = EventKind::RequestHeaders;
        let (id, decoded) = json::decode_event(kind, event.as_bytes(), true).unwrap();
        assert_eq!(id, EventId::Number(7));
        let Event::RequestHeaders(head) = decoded.view() else {
            panic!("another event");
        };
        assert_eq!((head.uri, head.budget_left), ("/a?b", None));
        assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn bodies_are_left_out_beyond_the_limit() {
        let chunk = |data: &'static [u8]| {
            Event::RequestBodyChunk(BodyChunk {
                correlation_id: "c",
                index: 0,
                data: Bytes::from_static(data),
                is_last: true,
                total_size: None,
                transferred: 4,
                truncated: false,
                trailers: None,
                budget_left: None,
            })
        };
        let short = line(&chunk(b"abc"), Err(FailureReason::Timeout));
        assert_eq!(short["event"]["data"], "YWJj");
        assert_eq!(short["left_out_bytes"], 0);
        assert_eq!(short["failure"], "timeout");
        assert_eq!(short["answer"], Value::Null);
        let other = Decision::allow().replace_request_body("other");
        assert_eq!(line(&chunk(b"abc"), Ok(&other))["left_out_bytes"], 5);
        let long = line(&chunk(b"abcd"), Ok(&Decision::allow()));
        assert_eq!(long["event"]["data"], "");
        assert_eq!(long["left_out_bytes"], 4);
    }
}
