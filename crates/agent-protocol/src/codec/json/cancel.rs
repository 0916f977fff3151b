//! Cancel in JSON, which it is with every peer.

use serde_json::Value;

use super::{control, write};
use crate::codec::EventId;
use crate::{CancelReason, ProtocolError};

/// Appends the payload of a Cancel. The number of the event is written for
/// peers that know `event-id`; `timestamp_ms` counts from 1970.
pub fn encode_cancel(
    out: &mut Vec<u8>,
    event_number: Option<u64>,
    correlation_id: &str,
    reason: CancelReason,
    timestamp_ms: u64,
) {
    out.extend_from_slice(b"{\"correlation_id\":");
    write::string(out, correlation_id);
    if let Some(number) = event_number {
        out.extend_from_slice(b",\"event_id\":");
        write::number(out, number);
    }
    out.extend_from_slice(b",\"reason\":");
    write::number(out, reason.number());
    out.extend_from_slice(b",\"timestamp_ms\":");
    write::number(out, timestamp_ms);
    out.push(b'}');
}

/// Reads a Cancel: which event it ends, by number with peers that know
/// `event-id`, else by correlation id, and why. A reason that is missing or
/// unknown is `None`.
///
/// # Errors
/// When the payload is not an object or names no event.
pub fn decode_cancel(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, Option<CancelReason>), ProtocolError> {
    let body = control::object(payload, "cancel")?;
    let id = match by_number {
        true => body["event_id"].as_u64().map(EventId::Number),
        false => body["correlation_id"]
            .as_str()
            .map(|id| EventId::Correlation(id.to_owned())),
    };
    let id = id.ok_or_else(|| ProtocolError::malformed("cancel", "it names no event"))?;
    let reason = body.get("reason").and_then(Value::as_u64);
    Ok((id, reason.and_then(CancelReason::from_number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_comes_back() {
        for reason in CancelReason::ALL {
            let mut out = Vec::new();
            encode_cancel(&mut out, Some(7), "c\"1", reason, 1);
            let by_number = decode_cancel(&out, true);
            assert_eq!(by_number, Ok((EventId::Number(7), Some(reason))));
            let by_name = decode_cancel(&out, false);
            let id = EventId::Correlation("c\"1".to_owned());
            assert_eq!(by_name, Ok((id, Some(reason))));
        }
    }

    #[test]
    fn a_reason_may_be_unknown_and_an_event_may_not() {
        let table = [
            (r#"{"event_id":7}"#, true),
            (r#"{"event_id":7,"reason":99}"#, true),
            (r#"{"event_id":7,"reason":"timeout"}"#, true),
            (r#"{"correlation_id":"c"}"#, false),
            (r#"{"event_id":-1}"#, false),
            ("[]", false),
            ("", false),
        ];
        for (text, known) in table {
            let decoded = decode_cancel(text.as_bytes(), true);
            assert_eq!(decoded.is_ok(), known, "{text}");
            assert!(known.then_some(None) == decoded.ok().map(|(_, reason)| reason));
        }
    }
}
