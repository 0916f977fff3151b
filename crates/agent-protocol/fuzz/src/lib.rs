//! What has to hold for each decoder, whatever the bytes: it does not panic,
//! and what it accepts is the same after it has been written and read again.
//!
//! The fuzz targets call these functions with what the fuzzer invents, and
//! tests/corpus.rs of the crate with what is in the corpora.

use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use portcullis_agent_protocol::codec::frame::{self, HEADER_BYTES, MessageType};
use portcullis_agent_protocol::codec::handshake::{self, Agreement};
use portcullis_agent_protocol::codec::protobuf::messages::{AgentToProxy, FromAgent, ProxyToAgent};
use portcullis_agent_protocol::codec::protobuf::{self, Message};
use portcullis_agent_protocol::codec::registration;
use portcullis_agent_protocol::codec::{Answer, EventId, binary, json, v1};
use portcullis_agent_protocol::{
    BodyChunk, ControlMessage, Event, EventKind, Extensions, Metric, MetricValue, MetricsReport,
};
use serde_json::Value;

/// The kinds of events that can be decoded.
const EVENTS: [EventKind; 7] = [
    EventKind::RequestHeaders,
    EventKind::RequestBodyChunk,
    EventKind::ResponseHeaders,
    EventKind::ResponseBodyChunk,
    EventKind::WebSocketFrame,
    EventKind::GuardrailInspect,
    EventKind::RequestComplete,
];

const BY_NUMBER: Extensions = Extensions {
    binary: false,
    ..Extensions::ALL
};

/// Frames, one after the other, as both ends take them off a socket.
pub fn frame(bytes: &[u8]) {
    for limit in [1, 16, 1 << 20, usize::MAX] {
        let mut rest = bytes;
        let mut buffer = BytesMut::from(bytes);
        while let Ok(Some((kind, total))) = frame::peek(rest, limit) {
            let taken = frame::take(&mut buffer, limit);
            let payload = Bytes::copy_from_slice(&rest[HEADER_BYTES..total]);
            assert_eq!(taken, Ok(Some((kind, payload.clone()))));
            let mut again = Vec::new();
            let appended = frame::append(&mut again, kind, limit, |out| {
                out.extend_from_slice(&payload);
            });
            assert_eq!((appended, &again[..]), (Ok(()), &rest[..total]));
            rest = &rest[total..];
        }
        assert_eq!(
            frame::peek(rest, limit).is_err(),
            frame::take(&mut buffer, limit).is_err()
        );
        assert_eq!(&buffer[..], rest);
    }
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(payload)) = v1::take(&mut buffer) {
        let start = bytes.len() - buffer.len() - payload.len() - 4;
        let mut again = Vec::new();
        let appended = v1::append(&mut again, |out| out.extend_from_slice(&payload));
        let whole = &bytes[start..bytes.len() - buffer.len()];
        assert_eq!((appended, &again[..]), (Ok(()), whole));
    }
}

/// What a proxy says before there are events, and an agent that dials it.
pub fn handshake_request(bytes: &[u8]) {
    if let Ok(request) = handshake::decode_request(bytes) {
        let mut out = Vec::new();
        handshake::encode(&mut out, &request).expect("what was read can be written");
        let again = handshake::decode_request(&out).expect("what was written can be read");
        assert_eq!(again.supported_versions, request.supported_versions);
        assert_eq!(again.proxy_id, request.proxy_id);
        assert_eq!(again.supported_encodings, request.supported_encodings);
        assert_eq!(again.extensions, request.extensions);
    }
    if let Ok(registration) = registration::decode_registration(bytes) {
        let mut out = Vec::new();
        handshake::encode(&mut out, &registration).expect("what was read can be written");
        let again = registration::decode_registration(&out).expect("what was written can be read");
        assert_eq!(again.agent_id, registration.agent_id);
        assert_eq!(again.capabilities, registration.capabilities);
        assert_eq!(again.auth_token, registration.auth_token);
        assert_eq!(again.extensions, registration.extensions);
    }
    if let Ok(message) = handshake::decode_configure(bytes) {
        let mut out = Vec::new();
        handshake::encode(&mut out, &message).expect("what was read can be written");
        let again = handshake::decode_configure(&out).expect("what was written can be read");
        assert_eq!(again.correlation_id, message.correlation_id);
        assert_eq!(again.event_id, message.event_id);
    }
}

/// What an agent answers to it, and a proxy to an agent that dials it.
pub fn handshake_response(bytes: &[u8]) {
    for offered in [Extensions::ALL, BY_NUMBER, Extensions::NONE] {
        if let Ok(Ok(chosen)) = registration::decode_reply(bytes, offered) {
            assert!(chosen.is_within(offered));
        }
    }
    let accepted = |offered| match handshake::decode_response(bytes, offered) {
        Ok(Agreement::Accepted(_, chosen)) => Some(chosen),
        Ok(Agreement::Refused(_)) | Err(_) => None,
    };
    for offered in [Extensions::ALL, BY_NUMBER, Extensions::NONE] {
        let Some(chosen) = accepted(offered) else {
            continue;
        };
        assert!(chosen.is_within(offered));
        assert!(chosen.event_id || !chosen.binary);
        // Who offers more is not refused.
        assert_eq!(accepted(Extensions::ALL), Some(chosen));
    }
}

/// Events of all kinds in JSON.
pub fn json_event(bytes: &[u8]) {
    for (kind, by_number) in EVENTS
        .into_iter()
        .flat_map(|kind| [(kind, true), (kind, false)])
    {
        let found = json::find_event_id(bytes, by_number);
        let Ok((id, event)) = json::decode_event(kind, bytes, by_number) else {
            continue;
        };
        let view = event.view();
        assert_eq!(view.kind(), kind);
        if by_number || !view.correlation_id().is_empty() {
            assert_eq!(found.as_ref(), Some(&id), "an event can be cancelled");
        }
        let number = number(&id);
        let mut out = Vec::new();
        json::encode_event(&mut out, number, &view);
        let (again, decoded) =
            json::decode_event(kind, &out, by_number).expect("what was written can be read");
        assert_eq!((again, decoded.view()), (id, in_range(&view)));
    }
}

/// Events of all kinds in the binary encoding.
pub fn binary_event(bytes: &[u8]) {
    let payload = Bytes::copy_from_slice(bytes);
    for kind in EVENTS {
        let Ok((id, event)) = binary::decode_event(kind, &payload) else {
            continue;
        };
        assert_eq!(binary::event_id(bytes).as_ref(), Some(&id));
        let view = event.view();
        assert_eq!(view.kind(), kind);
        let number = number(&id).expect("a binary event has a number");
        let mut out = Vec::new();
        binary::encode_event(&mut out, number, &view);
        let out = Bytes::from(out);
        let (again, decoded) =
            binary::decode_event(kind, &out).expect("what was written can be read");
        assert_eq!((&again, &decoded.view()), (&id, &view));
        // The same event in the other encoding, which is not exact about
        // header values.
        let mut out = Vec::new();
        json::encode_event(&mut out, Some(number), &view);
        let (again, decoded) =
            json::decode_event(kind, &out, true).expect("what was written can be read");
        assert_eq!(again, id);
        assert_alike(&decoded.view(), &view);
    }
}

fn assert_alike(json: &Event<'_>, binary: &Event<'_>) {
    assert_eq!(json.correlation_id(), binary.correlation_id());
    match (json, binary) {
        (Event::RequestHeaders(json), Event::RequestHeaders(binary)) => {
            assert_eq!(json.headers.len(), binary.headers.len());
            assert_eq!(json.uri, binary.uri);
        }
        (Event::ResponseHeaders(json), Event::ResponseHeaders(binary)) => {
            assert_eq!(json.headers.len(), binary.headers.len());
            assert_eq!(json.status, binary.status);
        }
        (Event::RequestBodyChunk(json), Event::RequestBodyChunk(binary))
        | (Event::ResponseBodyChunk(json), Event::ResponseBodyChunk(binary)) => {
            let trailers = |chunk: &BodyChunk<'_>| chunk.trailers.map(|fields| fields.len());
            assert_eq!(trailers(json), trailers(binary));
            let but_trailers = |chunk: &BodyChunk<'_>| BodyChunk {
                correlation_id: "",
                trailers: None,
                ..chunk.clone()
            };
            assert_eq!(but_trailers(json), but_trailers(binary));
        }
        (Event::WebSocketFrame(json), Event::WebSocketFrame(binary)) => assert_eq!(json, binary),
        (Event::GuardrailInspect(json), Event::GuardrailInspect(binary)) => {
            // Of members that are there twice, JSON has the last.
            let mut json = json.clone();
            json.metadata = binary.metadata;
            assert_eq!(&json, binary);
        }
        (Event::RequestComplete(json), Event::RequestComplete(binary)) => {
            let milliseconds = binary.duration.as_millis();
            assert_eq!(json.duration.as_millis(), milliseconds);
            assert_eq!(json.error, binary.error);
        }
        _ => panic!("an event of another kind"),
    }
}

/// Answers in JSON.
pub fn json_answer(bytes: &[u8]) {
    // Version 1 asks for nothing more.
    let legacy = json::decode_answer(bytes, Extensions::NONE);
    if v1::decode_answer(bytes).is_err() {
        assert!(legacy.is_err());
    }
    for extensions in [BY_NUMBER, Extensions::NONE] {
        let Ok((id, answer)) = json::decode_answer(bytes, extensions) else {
            continue;
        };
        let mut out = Vec::new();
        json::encode_answer(&mut out, &id, 0, &answer, extensions)
            .expect("what was read can be written");
        let (again, decoded) =
            json::decode_answer(&out, extensions).expect("what was written can be read");
        assert_eq!((again, rounded(decoded)), (id, rounded(answer)));
    }
}

/// Answers in the binary encoding.
pub fn binary_answer(bytes: &[u8]) {
    for extensions in [Extensions::ALL, Extensions::NONE] {
        let Ok((id, answer)) = binary::decode_answer(bytes, extensions) else {
            continue;
        };
        assert_eq!(binary::event_id(bytes).as_ref(), Some(&id));
        let number = number(&id).expect("a binary answer has a number");
        let mut out = Vec::new();
        binary::encode_answer(&mut out, number, &answer, extensions)
            .expect("what was read can be written");
        let (again, decoded) =
            binary::decode_answer(&out, extensions).expect("what was written can be read");
        assert_eq!(
            (again, rounded(decoded)),
            (id.clone(), rounded(answer.clone()))
        );
        // The same answer in the other encoding.
        let mut out = Vec::new();
        json::encode_answer(&mut out, &id, 0, &answer, BY_NUMBER)
            .expect("what was read can be written");
        let (again, decoded) =
            json::decode_answer(&out, BY_NUMBER).expect("what was written can be read");
        assert_eq!(again, id);
        let bodies = |answer: &Answer| {
            let decision = answer.as_ref().ok()?;
            Some((
                decision.request_body.clone(),
                decision.response_body.clone(),
                decision.websocket.clone(),
                decision.ttl.clone(),
            ))
        };
        // What is no decision for the one is one for the other when it was not
        // negotiated with it.
        if answer.is_ok() {
            assert_eq!(bodies(&decoded), bodies(&answer));
        }
        let payload = Bytes::copy_from_slice(bytes);
        let shared = binary::decode_shared_answer(&payload, extensions);
        let (again, shared) = shared.expect("it can be read either way");
        assert_eq!((again, rounded(shared)), (id, rounded(answer)));
    }
}

/// What a proxy sends over gRPC.
pub fn protobuf_event(bytes: &[u8]) {
    let Ok(message) = ProxyToAgent::decode(bytes) else {
        return;
    };
    for by_number in [true, false] {
        let Ok((id, event)) = protobuf::decode_event(&message, by_number) else {
            continue;
        };
        assert_eq!(protobuf::event_id(&message, by_number), Some(id.clone()));
        let view = event.view();
        let again = protobuf::encode_event(number(&id), &view);
        let (again, event) =
            protobuf::decode_event(&again, by_number).expect("what was written can be read");
        // Events that are answered by their correlation id have it in them.
        assert_eq!((again, event.view()), (id, view));
    }
}

/// What an agent sends over gRPC.
pub fn protobuf_answer(bytes: &[u8]) {
    let Ok(AgentToProxy {
        message: Some(message),
    }) = AgentToProxy::decode(bytes)
    else {
        return;
    };
    let FromAgent::Response(response) = message else {
        drop(protobuf::decode_control(message));
        return;
    };
    for extensions in [protobuf::EXTENSIONS, Extensions::NONE] {
        let Ok((id, answer)) = protobuf::decode_answer((*response).clone(), extensions) else {
            continue;
        };
        let again = protobuf::encode_answer(&id, &answer, extensions);
        let (again, decoded) =
            protobuf::decode_answer(again, extensions).expect("what was written can be read");
        assert_eq!(again, id);
        // A legacy peer is told in other words what it does not know.
        if extensions.event_id {
            assert_eq!(rounded(decoded), rounded(answer));
        }
    }
}

/// Everything that is neither an event nor an answer, from both sides.
pub fn json_control(bytes: &[u8]) {
    for kind in MessageType::ALL {
        if let Ok(ControlMessage::Metrics(report)) = json::decode_control(kind, bytes) {
            metrics(&report);
        }
    }
    if let Ok((sequence, timestamp_ms)) = json::decode_ping(bytes) {
        let mut out = Vec::new();
        json::encode_pong(&mut out, sequence, timestamp_ms);
        assert_eq!(json::decode_ping(&out), Ok((sequence, timestamp_ms)));
        assert!(json::decode_control(MessageType::Pong, &out).is_ok());
    }
    for by_number in [true, false] {
        let Ok((id, Some(reason))) = json::decode_cancel(bytes, by_number) else {
            continue;
        };
        let correlation_id = match &id {
            EventId::Correlation(id) => id,
            EventId::Number(_) => "",
        };
        let mut out = Vec::new();
        json::encode_cancel(&mut out, number(&id), correlation_id, reason, 0);
        assert_eq!(json::decode_cancel(&out, by_number), Ok((id, Some(reason))));
    }
}

// Numbers may come back in their last place different, which can undo the
// order of bounds.
fn metrics(report: &MetricsReport) {
    let names = |report: &MetricsReport| {
        let is_plain = |metric: &&Metric| !matches!(metric.value, MetricValue::Histogram { .. });
        let metrics = report.metrics.iter().filter(is_plain);
        metrics
            .map(|metric| (metric.name.clone(), metric.labels.clone()))
            .collect::<Vec<_>>()
    };
    let mut out = Vec::new();
    json::encode_metrics(&mut out, "", report, 0).expect("what was read can be written");
    let again = json::decode_control(MessageType::MetricsReport, &out);
    let Ok(ControlMessage::Metrics(again)) = again else {
        panic!("what was written can be read");
    };
    assert_eq!(names(&again), names(report));
}

fn number(id: &EventId) -> Option<u64> {
    match id {
        EventId::Number(number) => Some(*number),
        EventId::Correlation(_) => None,
    }
}

// Our JSON has years from 1970 to 9999.
fn in_range<'a>(view: &Event<'a>) -> Event<'a> {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let mut expected = view.clone();
    if let Event::RequestHeaders(event) = &mut expected {
        let timestamp = &mut event.metadata.timestamp;
        *timestamp = (*timestamp).clamp(UNIX_EPOCH, last);
    }
    expected
}

// Numbers with a fraction may come back in their last place different.
fn rounded(mut answer: Answer) -> Answer {
    if let Ok(decision) = &mut answer
        && let Some(audit) = &mut decision.audit
    {
        audit.custom.values_mut().for_each(without_fractions);
    }
    answer
}

fn without_fractions(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => *value = Value::Null,
        Value::Array(list) => list.iter_mut().for_each(without_fractions),
        Value::Object(members) => members.values_mut().for_each(without_fractions),
        _ => {}
    }
}
