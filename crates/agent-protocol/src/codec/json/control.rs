//! Control messages in JSON.

use serde_json::Value;

use super::{report, write};
use crate::codec::frame::MessageType;
use crate::{ControlMessage, FlowAction, HealthState, ProtocolError};

/// Reads a message that an agent sends without being asked.
///
/// # Errors
/// When the payload is not a JSON object, or the type is none of these.
pub fn decode_control(kind: MessageType, payload: &[u8]) -> Result<ControlMessage, ProtocolError> {
    let body = object(payload, "control message")?;
    match kind {
        MessageType::HealthStatus => Ok(ControlMessage::Health(health_state(&body))),
        MessageType::FlowControl => Ok(ControlMessage::FlowControl(flow_action(&body))),
        MessageType::VerdictPurge => Ok(ControlMessage::PurgeVerdicts),
        MessageType::MetricsReport => Ok(ControlMessage::Metrics(report::metrics(&body))),
        MessageType::ConfigUpdateRequest => {
            Ok(ControlMessage::ConfigUpdate(report::config_update(&body)))
        }
        MessageType::Pong => Ok(ControlMessage::Pong {
            sequence: sequence(&body, "pong")?,
        }),
        other => Err(ProtocolError::UnexpectedMessage(other)),
    }
}

/// Reads a ping: its number and when it was sent, in milliseconds.
///
/// # Errors
/// When it has no number.
pub fn decode_ping(payload: &[u8]) -> Result<(u64, u64), ProtocolError> {
    let body = object(payload, "ping")?;
    let timestamp_ms = body
        .get("timestamp_ms")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    Ok((sequence(&body, "ping")?, timestamp_ms))
}

/// Appends the payload of a ping. Its number is what the Pong repeats;
/// `timestamp_ms` counts from 1970.
pub fn encode_ping(out: &mut Vec<u8>, sequence: u64, timestamp_ms: u64) {
    out.extend_from_slice(b"{\"sequence\":");
    write::number(out, sequence);
    out.extend_from_slice(b",\"timestamp_ms\":");
    write::number(out, timestamp_ms);
    out.push(b'}');
}

/// Appends the payload of a pong, which says what the ping said.
pub fn encode_pong(out: &mut Vec<u8>, sequence: u64, timestamp_ms: u64) {
    encode_ping(out, sequence, timestamp_ms);
}

/// Appends the payload of a health message, with the state as a number, which
/// is the shape that published proxies read on a Unix socket.
pub fn encode_health(out: &mut Vec<u8>, agent_id: &str, state: HealthState, timestamp_ms: u64) {
    out.extend_from_slice(b"{\"agent_id\":");
    write::string(out, agent_id);
    out.extend_from_slice(b",\"state\":");
    let number = match state {
        HealthState::Unknown => 0,
        HealthState::Healthy => 1,
        HealthState::Degraded => 2,
        HealthState::Draining => 3,
        HealthState::Unhealthy => 4,
    };
    write::number(out, number);
    out.extend_from_slice(b",\"message\":null,\"timestamp_ms\":");
    write::number(out, timestamp_ms);
    out.push(b'}');
}

/// Appends the payload of a flow control message, with the action as a number.
pub fn encode_flow(out: &mut Vec<u8>, action: FlowAction, timestamp_ms: u64) {
    let number = match action {
        FlowAction::Unknown => 0,
        FlowAction::Pause => 1,
        FlowAction::Resume => 2,
    };
    out.extend_from_slice(b"{\"correlation_id\":null,\"action\":");
    write::number(out, number);
    out.extend_from_slice(b",\"timestamp_ms\":");
    write::number(out, timestamp_ms);
    out.push(b'}');
}

/// Appends the payload of a purge of verdicts.
pub fn encode_purge(out: &mut Vec<u8>, agent_id: &str, timestamp_ms: u64) {
    out.extend_from_slice(b"{\"agent_id\":");
    write::string(out, agent_id);
    out.extend_from_slice(b",\"timestamp_ms\":");
    write::number(out, timestamp_ms);
    out.push(b'}');
}

pub(super) fn object(payload: &[u8], what: &'static str) -> Result<Value, ProtocolError> {
    match serde_json::from_slice(payload) {
        Ok(body @ Value::Object(_)) => Ok(body),
        Ok(_) => Err(ProtocolError::malformed(what, "not an object")),
        Err(error) => Err(ProtocolError::malformed(what, error)),
    }
}

fn sequence(body: &Value, what: &'static str) -> Result<u64, ProtocolError> {
    let number = body.get("sequence").and_then(Value::as_u64);
    number.ok_or_else(|| ProtocolError::malformed(what, "sequence is missing"))
}

// A number, or an object with the word.
fn health_state(body: &Value) -> HealthState {
    let state = &body["state"];
    let word = state.as_str().or_else(|| state["status"].as_str());
    match (state.as_u64(), word) {
        (Some(1), _) | (_, Some("healthy")) => HealthState::Healthy,
        (Some(2), _) | (_, Some("degraded")) => HealthState::Degraded,
        (Some(3), _) | (_, Some("draining")) => HealthState::Draining,
        (Some(4), _) | (_, Some("unhealthy")) => HealthState::Unhealthy,
        _ => HealthState::Unknown,
    }
}

fn flow_action(body: &Value) -> FlowAction {
    // An id means that one request alone is to be paused.
    match &body["correlation_id"] {
        Value::Null => {}
        Value::String(id) if id.is_empty() => {}
        _ => return FlowAction::Unknown,
    }
    let action = &body["action"];
    let word = action.as_str().or_else(|| action["type"].as_str());
    match (action.as_u64(), word) {
        (Some(1), _) | (_, Some("pause")) => FlowAction::Pause,
        (Some(2), _) | (_, Some("resume")) => FlowAction::Resume,
        _ => FlowAction::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_of_health_and_flow() {
        use MessageType::{FlowControl as Flow, HealthStatus as Health};
        let table = [
            (
                Health,
                r#"{"state":1}"#,
                ControlMessage::Health(HealthState::Healthy),
            ),
            (
                Health,
                r#"{"agent_id":"a","state":{"status":"draining"},"x":1}"#,
                ControlMessage::Health(HealthState::Draining),
            ),
            (
                Health,
                r#"{"state":"degraded"}"#,
                ControlMessage::Health(HealthState::Degraded),
            ),
            (
                Health,
                r#"{"state":4}"#,
                ControlMessage::Health(HealthState::Unhealthy),
            ),
            (
                Health,
                r#"{"state":[]}"#,
                ControlMessage::Health(HealthState::Unknown),
            ),
            (Health, "{}", ControlMessage::Health(HealthState::Unknown)),
            (
                Flow,
                r#"{"action":1}"#,
                ControlMessage::FlowControl(FlowAction::Pause),
            ),
            (
                Flow,
                r#"{"correlation_id":null,"action":{"type":"resume"},"timestamp_ms":1}"#,
                ControlMessage::FlowControl(FlowAction::Resume),
            ),
            (
                Flow,
                r#"{"action":9}"#,
                ControlMessage::FlowControl(FlowAction::Unknown),
            ),
            (
                MessageType::Pong,
                r#"{"sequence":7,"timestamp_ms":1}"#,
                ControlMessage::Pong { sequence: 7 },
            ),
        ];
        for (kind, text, expected) in table {
            assert_eq!(
                decode_control(kind, text.as_bytes()),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_pause_is_one_of_the_whole_agent() {
        let table = [
            (r#"{"action":{"type":"pause"}}"#, FlowAction::Pause),
            (
                r#"{"correlation_id":"","action":{"type":"pause"}}"#,
                FlowAction::Pause,
            ),
            (
                r#"{"correlation_id":"c-1","action":{"type":"pause"}}"#,
                FlowAction::Unknown,
            ),
            (
                r#"{"action":{"type":"update_capacity","buffer_available":1}}"#,
                FlowAction::Unknown,
            ),
        ];
        for (text, action) in table {
            let decoded = decode_control(MessageType::FlowControl, text.as_bytes());
            assert_eq!(decoded, Ok(ControlMessage::FlowControl(action)), "{text}");
        }
    }

    #[test]
    fn every_state_and_action_comes_back() {
        use HealthState::{Degraded, Draining, Healthy, Unhealthy, Unknown};
        for state in [Healthy, Degraded, Draining, Unhealthy, Unknown] {
            let mut out = Vec::new();
            encode_health(&mut out, "a\"b", state, 7);
            let decoded = decode_control(MessageType::HealthStatus, &out);
            assert_eq!(decoded, Ok(ControlMessage::Health(state)));
            let whole: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(whole["agent_id"], "a\"b");
            assert_eq!(whole["timestamp_ms"], 7);
        }
        for action in [FlowAction::Pause, FlowAction::Resume, FlowAction::Unknown] {
            let mut out = Vec::new();
            encode_flow(&mut out, action, 7);
            let decoded = decode_control(MessageType::FlowControl, &out);
            assert_eq!(decoded, Ok(ControlMessage::FlowControl(action)));
        }
    }

    #[test]
    fn a_purge_is_whatever_its_members_are() {
        let mut out = Vec::new();
        encode_purge(&mut out, "a\"b", 7);
        assert_eq!(out, br#"{"agent_id":"a\"b","timestamp_ms":7}"#);
        for payload in [&out[..], b"{}", br#"{"agent_id":1,"rules":["r"]}"#] {
            let decoded = decode_control(MessageType::VerdictPurge, payload);
            assert_eq!(decoded, Ok(ControlMessage::PurgeVerdicts));
        }
        assert!(decode_control(MessageType::VerdictPurge, b"").is_err());
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for text in ["", "1", "[]", "{", "\u{0}"] {
            assert!(decode_control(MessageType::HealthStatus, text.as_bytes()).is_err());
        }
        assert!(decode_control(MessageType::Pong, b"{}").is_err());
        assert_eq!(
            decode_control(MessageType::Ping, b"{}"),
            Err(ProtocolError::UnexpectedMessage(MessageType::Ping))
        );
    }

    #[test]
    fn a_pong_says_what_the_ping_said() {
        let (sequence, timestamp_ms) = decode_ping(br#"{"sequence":3,"timestamp_ms":9}"#).unwrap();
        let mut out = Vec::new();
        encode_pong(&mut out, sequence, timestamp_ms);
        assert_eq!(out, br#"{"sequence":3,"timestamp_ms":9}"#);
        assert_eq!(decode_ping(br#"{"sequence":3}"#), Ok((3, 0)));
        assert!(decode_ping(b"{}").is_err());
    }
}
