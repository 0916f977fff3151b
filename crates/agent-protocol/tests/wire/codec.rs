//! Properties of the codecs: what is written comes back, and no bytes make a
//! decoder panic.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_agent_protocol::codec::frame::{self, MessageType};
use portcullis_agent_protocol::codec::{
    Answer, DecodedBodyChunk, DecodedEvent, DecodedRequestComplete, DecodedRequestHeaders,
    DecodedResponseHeaders, DecodedWebSocketFrame, EventId, NoDecision, binary, handshake, json,
};
use portcullis_agent_protocol::{
    Audit, Decision, Event, Extensions, FrameDecision, FrameOpcode, HeaderOp, KeyPart, Verdict,
    VerdictTtl,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::Value;

use crate::guardrail;

const BY_NUMBER: Extensions = Extensions {
    binary: false,
    ..Extensions::ALL
};
const LEGACY: Extensions = Extensions::NONE;

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ -~]{0,20}", 1 => any::<String>()]
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..4)
}

// Header values as bytes: all of them in one encoding, UTF-8 in the other.
fn headers(any_bytes: bool) -> impl Strategy<Value = HeaderMap> {
    let name = "[a-z][a-z0-9_-]{0,12}";
    let value = match any_bytes {
        true => vec(
            prop_oneof![0x20_u8..0x7f, 0x80_u8..=0xff, Just(b'\t')],
            0..40,
        )
        .boxed(),
        false => "[ -~é€\t]{0,40}".prop_map(String::into_bytes).boxed(),
    };
    vec((name, vec(value, 1..3)), 0..12).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, values) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            for value in values {
                headers.append(name.clone(), HeaderValue::from_bytes(&value).unwrap());
            }
        }
        headers
    })
}

fn micros() -> impl Strategy<Value = Option<Duration>> {
    option::of((0_u64..1 << 53).prop_map(Duration::from_micros))
}

fn request_headers(any_bytes: bool) -> impl Strategy<Value = DecodedRequestHeaders<'static>> {
    let texts = [text(), text(), text(), text(), text()];
    let options = [(); 6].map(|()| option::of(text()));
    // Until the year 2500.
    let since_epoch = (0_u64..16_725_225_600, 0_u32..1_000_000_000);
    (
        texts,
        options,
        (any::<IpAddr>(), any::<u16>()),
        since_epoch,
        headers(any_bytes),
        micros(),
    )
        .prop_map(
            |(texts, options, (client_ip, client_port), since_epoch, headers, budget_left)| {
                let [correlation_id, request_id, protocol, method, uri] = texts.map(Cow::Owned);
                let [
                    server_name,
                    tls_version,
                    tls_cipher,
                    route_id,
                    upstream_id,
                    traceparent,
                ] = options.map(|text| text.map(Cow::Owned));
                DecodedRequestHeaders {
                    correlation_id,
                    request_id,
                    client_ip,
                    client_port,
                    server_name,
                    protocol,
                    tls_version,
                    tls_cipher,
                    route_id,
                    upstream_id,
                    timestamp: UNIX_EPOCH + Duration::new(since_epoch.0, since_epoch.1),
                    traceparent,
                    method,
                    uri,
                    headers,
                    budget_left,
                }
            },
        )
}

fn body() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..100).prop_map(Bytes::from)
}

fn chunk(any_bytes: bool) -> impl Strategy<Value = DecodedBodyChunk<'static>> {
    (
        (text(), any::<u32>(), body()),
        (any::<bool>(), any::<bool>()),
        (option::of(any::<u64>()), any::<u64>()),
        option::of(headers(any_bytes)),
        micros(),
    )
        .prop_map(
            |((id, index, data), (is_last, truncated), sizes, trailers, budget_left)| {
                DecodedBodyChunk {
                    correlation_id: Cow::Owned(id),
                    index,
                    data,
                    is_last,
                    total_size: sizes.0,
                    transferred: sizes.1,
                    truncated,
                    trailers: trailers.filter(|fields| is_last && !fields.is_empty()),
                    budget_left,
                }
            },
        )
}

fn response_headers(any_bytes: bool) -> impl Strategy<Value = DecodedResponseHeaders<'static>> {
    (text(), any::<u16>(), headers(any_bytes), micros()).prop_map(
        |(id, status, headers, budget_left)| DecodedResponseHeaders {
            correlation_id: Cow::Owned(id),
            status,
            headers,
            budget_left,
        },
    )
}

fn request_complete() -> impl Strategy<Value = DecodedRequestComplete<'static>> {
    // Whole milliseconds, which both encodings have.
    let duration = (0_u64..1 << 40).prop_map(Duration::from_millis);
    let sizes = (any::<u64>(), any::<u64>());
    (
        text(),
        any::<u16>(),
        duration,
        sizes,
        any::<u32>(),
        option::of(text()),
    )
        .prop_map(|(id, status, duration, sizes, upstream_attempts, error)| {
            DecodedRequestComplete {
                correlation_id: Cow::Owned(id),
                status,
                duration,
                request_body_size: sizes.0,
                response_body_size: sizes.1,
                upstream_attempts,
                error: error.map(Cow::Owned),
            }
        })
}

fn websocket_frame() -> impl Strategy<Value = DecodedWebSocketFrame<'static>> {
    (
        (text(), prop::sample::select(&FrameOpcode::ALL[..]), body()),
        (any::<bool>(), any::<u64>(), any::<bool>()),
        (option::of(text()), any::<IpAddr>(), micros()),
    )
        .prop_map(
            |(
                (id, opcode, data),
                (client_to_server, index, fin),
                (route_id, client_ip, budget_left),
            )| {
                DecodedWebSocketFrame {
                    correlation_id: Cow::Owned(id),
                    opcode,
                    data,
                    client_to_server,
                    index,
                    fin,
                    route_id: route_id.map(Cow::Owned),
                    client_ip,
                    budget_left,
                }
            },
        )
}

pub(crate) fn event(any_bytes: bool) -> impl Strategy<Value = DecodedEvent<'static>> {
    prop_oneof![
        request_headers(any_bytes).prop_map(DecodedEvent::RequestHeaders),
        chunk(any_bytes).prop_map(DecodedEvent::RequestBodyChunk),
        response_headers(any_bytes).prop_map(DecodedEvent::ResponseHeaders),
        chunk(any_bytes).prop_map(DecodedEvent::ResponseBodyChunk),
        websocket_frame().prop_map(DecodedEvent::WebSocketFrame),
        guardrail::events().prop_map(DecodedEvent::GuardrailInspect),
        request_complete().prop_map(DecodedEvent::RequestComplete),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Allow),
        (any::<u16>(), option::of(text()), pairs()).prop_map(|(status, body, headers)| {
            Verdict::Block {
                status,
                body: body.map(Bytes::from),
                headers,
            }
        }),
        (text(), any::<u16>()).prop_map(|(url, status)| Verdict::Redirect { url, status }),
        (text(), pairs()).prop_map(|(challenge_type, params)| Verdict::Challenge {
            challenge_type,
            params
        }),
    ]
}

fn ops() -> impl Strategy<Value = Vec<HeaderOp>> {
    let op = prop_oneof![
        (text(), text()).prop_map(|(name, value)| HeaderOp::Set { name, value }),
        (text(), text()).prop_map(|(name, value)| HeaderOp::Add { name, value }),
        text().prop_map(|name| HeaderOp::Remove { name }),
    ];
    vec(op, 0..4)
}

fn audit() -> impl Strategy<Value = Audit> {
    let strings = || vec(text(), 0..3);
    let custom = vec(
        (
            text(),
            prop_oneof![text().prop_map(Value::from), Just(Value::Null)],
        ),
        0..3,
    );
    (
        strings(),
        strings(),
        option::of(0_u16..=1000),
        strings(),
        custom,
    )
        .prop_map(|(tags, rule_ids, confidence, reason_codes, custom)| Audit {
            tags,
            rule_ids,
            confidence: confidence.map(|thousandths| f32::from(thousandths) / 1000.0),
            reason_codes,
            custom: custom
                .into_iter()
                .filter(|(key, _)| key != "correlation_id")
                .collect(),
        })
}

fn frame_decision() -> impl Strategy<Value = Option<Box<FrameDecision>>> {
    let decision = prop_oneof![
        Just(FrameDecision::Drop),
        body().prop_map(FrameDecision::Replace),
        (any::<u16>(), text()).prop_map(|(code, reason)| FrameDecision::Close { code, reason }),
    ];
    option::of(decision.prop_map(Box::new))
}

fn ttl() -> impl Strategy<Value = Option<Box<VerdictTtl>>> {
    let parts = prop::sample::subsequence(&KeyPart::ALL[..], 0..=KeyPart::ALL.len());
    let ttl = (1_u64..=86_400_000, parts).prop_map(|(milliseconds, vary_ignores)| VerdictTtl {
        ttl: Duration::from_millis(milliseconds),
        vary_ignores,
    });
    option::of(ttl.prop_map(Box::new))
}

pub(crate) fn decision() -> impl Strategy<Value = Decision> {
    (
        verdict(),
        (ops(), ops()),
        option::of(audit()),
        any::<bool>(),
        (option::of(body()), option::of(body())),
        (frame_decision(), ttl(), guardrail::results()),
    )
        .prop_map(|(verdict, ops, audit, needs_more, bodies, rare)| Decision {
            verdict,
            request_headers: ops.0,
            response_headers: ops.1,
            audit: audit.filter(|audit| !audit.is_empty()).map(Box::new),
            needs_more,
            request_body: bodies.0,
            response_body: bodies.1,
            websocket: rare.0,
            ttl: rare.1,
            guardrail: rare.2,
        })
}

pub(crate) fn answer() -> impl Strategy<Value = Answer> {
    let failed = text().prop_map(|message| Err(NoDecision::Failed(message)));
    let overloaded = option::of(0_u64..=3_600_000).prop_map(|milliseconds| {
        let retry_after = milliseconds.map(Duration::from_millis);
        Err(NoDecision::Overloaded { retry_after })
    });
    prop_oneof![8 => decision().prop_map(Ok), 1 => failed, 1 => overloaded]
}

proptest! {
    #[test]
    fn a_binary_event_comes_back(event in event(true), number in any::<u64>()) {
        let view = event.view();
        let mut out = Vec::new();
        binary::encode_event(&mut out, number, &view);
        let payload = Bytes::from(out);
        let (id, decoded) = binary::decode_event(view.kind(), &payload).unwrap();
        prop_assert_eq!(id, EventId::Number(number));
        prop_assert_eq!(decoded.view(), view);
    }

    #[test]
    fn a_json_event_comes_back(event in event(false), number in 0_u64..1 << 53) {
        let view = event.view();
        let mut out = Vec::new();
        json::encode_event(&mut out, Some(number), &view);
        let (id, decoded) = json::decode_event(view.kind(), &out, true).unwrap();
        prop_assert_eq!(id, EventId::Number(number));
        prop_assert_eq!(decoded.view(), view);
    }

    #[test]
    fn a_legacy_peer_is_told_no_time_left_and_no_trailers(event in event(false)) {
        let view = event.view();
        let mut expected = view.clone().with_budget_left(None);
        if let Event::RequestBodyChunk(chunk) | Event::ResponseBodyChunk(chunk) = &mut expected {
            chunk.trailers = None;
        }
        // Neither when they are not written nor when they are not agreed on.
        for number in [None, Some(7)] {
            let mut out = Vec::new();
            json::encode_event(&mut out, number, &view);
            let (id, decoded) = json::decode_event(view.kind(), &out, false).unwrap();
            prop_assert_eq!(id, EventId::Correlation(view.correlation_id().to_owned()));
            prop_assert_eq!(&decoded.view(), &expected);
            let text = String::from_utf8(out).unwrap();
            if number.is_none() {
                prop_assert!(!text.contains("\"trailers\":"));
                prop_assert!(!text.contains("\"budget_left_us\":"));
            }
        }
    }

    #[test]
    fn a_json_event_with_any_header_bytes_can_be_read(event in request_headers(true)) {
        let mut out = Vec::new();
        json::encode_request_headers(&mut out, None, &event.view());
        let (_, decoded) = json::decode_request_headers(&out, false).unwrap();
        prop_assert_eq!(decoded.headers.len(), event.headers.len());
        for (name, value) in &event.headers {
            prop_assert!(decoded.headers.contains_key(name));
            if std::str::from_utf8(value.as_bytes()).is_ok() {
                prop_assert!(decoded.headers.get_all(name).iter().any(|other| other == value));
            }
        }
    }

    #[test]
    fn a_binary_answer_comes_back(answer in answer(), number in any::<u64>()) {
        let mut out = Vec::new();
        binary::encode_answer(&mut out, number, &answer, Extensions::ALL).unwrap();
        let decoded = binary::decode_answer(&out, Extensions::ALL);
        let expected = Ok((EventId::Number(number), answer));
        prop_assert_eq!(&decoded, &expected);
        prop_assert_eq!(binary::decode_shared_answer(&out.into(), Extensions::ALL), expected);
    }

    #[test]
    fn a_json_answer_comes_back(answer in answer(), number in 0_u64..1 << 53) {
        let mut out = Vec::new();
        let id = EventId::Number(number);
        json::encode_answer(&mut out, &id, 0, &answer, BY_NUMBER).unwrap();
        prop_assert_eq!(json::decode_answer(&out, BY_NUMBER), Ok((id, answer)));
    }

    #[test]
    fn a_legacy_answer_comes_back(decision in decision(), id in text()) {
        let mut out = Vec::new();
        let id = EventId::Correlation(id);
        let answer = Ok(decision.clone());
        json::encode_answer(&mut out, &id, 0, &answer, LEGACY).unwrap();
        // What a legacy proxy does not know is not said, or is a failure.
        let mut expected = Decision { ttl: None, ..decision };
        if let Some(FrameDecision::Replace(_)) = expected.websocket.as_deref() {
            expected = Decision::block(500)
                .reason("agent_error")
                .custom("error", "the proxy cannot replace a frame");
        }
        prop_assert_eq!(json::decode_answer(&out, LEGACY), Ok((id, Ok(expected))));
    }

    #[test]
    fn cutting_a_binary_answer_short_is_an_error(answer in answer(), cut in 0.0..1.0_f64) {
        let mut out = Vec::new();
        binary::encode_answer(&mut out, 7, &answer, Extensions::ALL).unwrap();
        let whole = binary::decode_answer(&out, Extensions::ALL);
        out.truncate((out.len() as f64 * cut) as usize);
        // A cut between two sections leaves an answer that says less.
        prop_assert_ne!(binary::decode_answer(&out, Extensions::ALL), whole);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_everything(&bytes);
    }

    #[test]
    fn no_change_of_a_good_message_makes_a_decoder_panic(
        event in event(true),
        answer in answer(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut messages = [const { Vec::new() }; 4];
        let [binary_event, json_event, binary_answer, json_answer] = &mut messages;
        binary::encode_event(binary_event, 7, &event.view());
        json::encode_event(json_event, Some(7), &event.view());
        binary::encode_answer(binary_answer, 7, &answer, Extensions::ALL).unwrap();
        json::encode_answer(json_answer, &EventId::Number(7), 0, &answer, BY_NUMBER).unwrap();
        for message in &mut messages {
            for (place, byte) in &changes {
                let place = place.index(message.len());
                message[place] = *byte;
            }
            decode_everything(message);
        }
    }
}

fn decode_everything(bytes: &[u8]) {
    let shared = Bytes::copy_from_slice(bytes);
    for kind in MessageType::ALL
        .into_iter()
        .filter_map(MessageType::event_kind)
    {
        drop(binary::decode_event(kind, &shared));
        for flag in [true, false] {
            drop(json::decode_event(kind, bytes, flag));
        }
    }
    for flag in [true, false] {
        drop(json::find_event_id(bytes, flag));
    }
    for extensions in [BY_NUMBER, LEGACY] {
        drop(json::decode_answer(bytes, extensions));
        drop(binary::decode_answer(bytes, extensions));
        drop(binary::decode_shared_answer(&shared, extensions));
        drop(handshake::decode_response(bytes, extensions));
    }
    drop(handshake::decode_request(bytes));
    drop(handshake::decode_configure(bytes));
    drop(json::decode_ping(bytes));
    for kind in MessageType::ALL {
        drop(json::decode_control(kind, bytes));
    }
    drop(frame::peek(bytes, 100));
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(_)) = frame::take(&mut buffer, 100) {}
}
