//! Protobuf: what is written comes back, what peers that know nothing of our
//! extensions make of it, and that no bytes are taken for a decision that are
//! none. The exact bytes are in docs/protocol.md.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use portcullis_agent_protocol::codec::protobuf::messages::{
    AgentResponse, AgentToProxy, FromAgent, ProxyToAgent,
};
use portcullis_agent_protocol::codec::protobuf::{
    self, Control, EXTENSIONS, Message, decode_answer, decode_event, encode_answer, encode_event,
};
use portcullis_agent_protocol::codec::{DecodedEvent, EventId};
use portcullis_agent_protocol::{Decision, Event, Extensions, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::codec::{answer, decision, event};

const LEGACY: Extensions = Extensions::NONE;

/// Times have whole milliseconds, as the published protocol has them.
fn in_range(mut event: DecodedEvent<'static>) -> DecodedEvent<'static> {
    if let DecodedEvent::RequestHeaders(event) = &mut event {
        let since = event.timestamp.duration_since(UNIX_EPOCH).unwrap();
        event.timestamp = UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64);
    }
    event
}

/// Parameters are a map, and a redirect without a status has 302.
fn as_read(mut decision: Decision) -> Decision {
    match &mut decision.verdict {
        Verdict::Challenge { params, .. } => {
            let map: std::collections::BTreeMap<_, _> =
                std::mem::take(params).into_iter().collect();
            *params = map.into_iter().collect();
        }
        Verdict::Redirect { status, .. } if *status == 0 => *status = 302,
        _ => {}
    }
    decision
}

fn over_the_wire<T: Message + Default>(message: &T) -> T {
    T::decode(Bytes::from(message.encode_to_vec())).unwrap()
}

proptest! {
    #[test]
    fn an_event_comes_back(event in event(true), number in any::<u64>()) {
        let event = in_range(event);
        let message = over_the_wire(&encode_event(Some(number), &event.view()));
        prop_assert_eq!(protobuf::kind(&message), Some(event.view().kind()));
        let (id, decoded) = decode_event(&message, true).unwrap();
        prop_assert_eq!(id, EventId::Number(number));
        prop_assert_eq!(decoded.view(), event.view());
    }

    #[test]
    fn a_legacy_peer_gets_an_event_without_what_it_does_not_know(event in event(true)) {
        let event = in_range(event);
        let mut expected = event.view().with_budget_left(None);
        if let Event::RequestBodyChunk(chunk) | Event::ResponseBodyChunk(chunk) = &mut expected {
            chunk.trailers = None;
        }
        for number in [None, Some(7)] {
            let message = over_the_wire(&encode_event(number, &event.view()));
            let (id, decoded) = decode_event(&message, false).unwrap();
            prop_assert_eq!(id, EventId::Correlation(expected.correlation_id().to_owned()));
            prop_assert_eq!(&decoded.view(), &expected);
        }
    }

    #[test]
    fn an_answer_comes_back(answer in answer(), number in any::<u64>()) {
        let id = EventId::Number(number);
        let response = over_the_wire(&encode_answer(&id, &answer, EXTENSIONS));
        let expected = answer.map(as_read);
        prop_assert_eq!(decode_answer(response, EXTENSIONS), Ok((id, expected)));
    }

    #[test]
    fn what_a_legacy_proxy_cannot_carry_out_is_a_failure(decision in decision(), id in "[a-z]{1,9}") {
        let id = EventId::Correlation(id);
        let response = encode_answer(&id, &Ok(decision.clone()), LEGACY);
        let decoded = decode_answer(over_the_wire(&response), LEGACY);
        let changes = decision.request_body.is_some()
            || decision.response_body.is_some()
            || decision.websocket.is_some();
        let expected = match changes {
            true => Decision::block(500)
                .reason("agent_error")
                .custom("error", "the proxy cannot change bodies or frames over gRPC"),
            false => as_read(Decision { ttl: None, ..decision }),
        };
        prop_assert_eq!(decoded, Ok((id, Ok(expected))));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_everything(bytes);
    }

    #[test]
    fn no_change_of_a_good_message_makes_a_decoder_panic(
        event in event(true),
        answer in answer(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let event = encode_event(Some(7), &event.view()).encode_to_vec();
        let response = encode_answer(&EventId::Number(7), &answer, EXTENSIONS);
        let message = Some(FromAgent::Response(Box::new(response)));
        for mut bytes in [event, AgentToProxy { message }.encode_to_vec()] {
            for (place, byte) in &changes {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            decode_everything(bytes);
        }
    }
}

fn decode_everything(bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    if let Ok(message) = ProxyToAgent::decode(bytes.clone()) {
        for by_number in [true, false] {
            drop(decode_event(&message, by_number));
            drop(protobuf::event_id(&message, by_number));
        }
    }
    if let Ok(AgentToProxy {
        message: Some(message),
    }) = AgentToProxy::decode(bytes)
    {
        match message {
            FromAgent::Response(response) => {
                for extensions in [EXTENSIONS, LEGACY] {
                    drop(decode_answer((*response).clone(), extensions));
                }
            }
            message => drop(protobuf::decode_control(message)),
        }
    }
}

#[test]
fn an_answer_without_a_decision_is_never_an_allow() {
    let response = AgentResponse {
        correlation_id: "c-1".to_owned(),
        ..AgentResponse::default()
    };
    let bad = decode_answer(response.clone(), LEGACY).unwrap_err();
    assert_eq!(bad.id, Some(EventId::Correlation("c-1".to_owned())));
    // A decision that is not known is one that is not there.
    let mut bytes = response.encode_to_vec();
    bytes.extend_from_slice(b"\x32\x00");
    let unknown = AgentResponse::decode(Bytes::from(bytes)).unwrap();
    assert!(decode_answer(unknown, LEGACY).is_err());
    // Neither is one that was not agreed on.
    let failed = Err(portcullis_agent_protocol::codec::NoDecision::Failed(
        "no".to_owned(),
    ));
    let number = EventId::Number(7);
    let response = encode_answer(&number, &failed, EXTENSIONS);
    let agreed = Extensions {
        error: false,
        ..EXTENSIONS
    };
    let bad = decode_answer(response.clone(), agreed).unwrap_err();
    assert_eq!(bad.id, Some(number));
    // Who does not know numbers finds no id but the empty one.
    assert_eq!(
        decode_answer(response, LEGACY).unwrap_err().id,
        Some(EventId::Correlation(String::new()))
    );
}

#[test]
fn control_messages_are_what_they_are_in_json() {
    use portcullis_agent_protocol::codec::frame::MessageType;
    use portcullis_agent_protocol::codec::json;
    use portcullis_agent_protocol::{FlowAction, HealthState};
    let mut payloads = [const { Vec::new() }; 4];
    let [health, flow, pong, purge] = &mut payloads;
    json::encode_health(health, "waf", HealthState::Draining, 7);
    json::encode_flow(flow, FlowAction::Pause, 7);
    json::encode_pong(pong, 3, 7);
    json::encode_purge(purge, "waf", 7);
    let kinds = [
        MessageType::HealthStatus,
        MessageType::FlowControl,
        MessageType::Pong,
        MessageType::VerdictPurge,
    ];
    for (kind, payload) in kinds.into_iter().zip(payloads) {
        let message = Some(protobuf::encode_control(kind, &payload).unwrap());
        let message = over_the_wire(&AgentToProxy { message }).message.unwrap();
        let Control::Json(read, again) = protobuf::decode_control(message) else {
            panic!("{kind:?} is a control message");
        };
        assert_eq!(read, kind);
        assert_eq!(
            json::decode_control(kind, &again),
            json::decode_control(kind, &payload)
        );
    }
    assert!(protobuf::encode_control(MessageType::Cancel, b"{}").is_err());
}
