//! What becomes of a frame, as the protocol writes it.

use portcullis_agent_protocol::FrameDecision;
use serde_json::{Value, json};

/// `None` lets it pass. A replacement is a reaction of its own.
pub(super) fn to_json(decision: Option<&FrameDecision>) -> Value {
    match decision {
        None => json!("allow"),
        Some(FrameDecision::Drop) => json!("drop"),
        Some(FrameDecision::Replace(_)) => panic!("see Reaction::Replace"),
        Some(FrameDecision::Close { code, reason }) => {
            json!({"close": {"code": code, "reason": reason}})
        }
    }
}

/// The way back.
pub(super) fn from_json(written: &Value) -> Option<Box<FrameDecision>> {
    let close = &written["close"];
    if *written == "drop" {
        return Some(Box::new(FrameDecision::Drop));
    }
    Some(Box::new(FrameDecision::Close {
        code: close["code"].as_u64()?.try_into().unwrap(),
        reason: close["reason"].as_str()?.to_owned(),
    }))
}
