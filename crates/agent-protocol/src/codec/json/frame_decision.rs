//! What becomes of a frame, in the answer to it.

use serde::{Deserialize, Serialize};

use super::base64::{AsBase64, Base64};
use crate::{Extensions, FrameDecision};

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WireFrameDecision {
    Allow,
    Drop,
    Replace {
        data: Base64,
    },
    Close {
        code: u16,
        #[serde(default)]
        reason: Option<String>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WireFrameDecisionOut<'a> {
    Drop,
    Replace { data: AsBase64<'a> },
    Close { code: u16, reason: &'a str },
}

impl<'a> From<&'a FrameDecision> for WireFrameDecisionOut<'a> {
    fn from(decision: &'a FrameDecision) -> Self {
        match decision {
            FrameDecision::Drop => Self::Drop,
            FrameDecision::Replace(data) => Self::Replace {
                data: AsBase64(data),
            },
            FrameDecision::Close { code, reason } => Self::Close {
                code: *code,
                reason,
            },
        }
    }
}

/// What the member means; `None` lets the frame pass.
pub(super) fn read(
    wire: Option<WireFrameDecision>,
    extensions: Extensions,
) -> Result<Option<Box<FrameDecision>>, &'static str> {
    Ok(Some(Box::new(match wire {
        None | Some(WireFrameDecision::Allow) => return Ok(None),
        Some(WireFrameDecision::Drop) => FrameDecision::Drop,
        Some(WireFrameDecision::Replace { data }) if extensions.event_id => {
            FrameDecision::Replace(data.0)
        }
        Some(WireFrameDecision::Replace { .. }) => {
            return Err("the decision `replace` about a frame was not negotiated");
        }
        Some(WireFrameDecision::Close { code, reason }) => FrameDecision::Close {
            code,
            reason: reason.unwrap_or_default(),
        },
    })))
}
