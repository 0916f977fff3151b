//! Decisions: what an agent answers.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{FrameDecision, GuardrailResult, HeaderOp, KeyPart, VerdictTtl};

/// Whether the request may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not; the client gets this answer.
    Block {
        /// The status of the answer. The receiver checks its range.
        status: u16,
        /// The body of the answer; `None` leaves it to the proxy. JSON peers
        /// get bytes that are not UTF-8 replaced by U+FFFD.
        body: Option<Bytes>,
        /// Header fields of the answer, in order.
        headers: Vec<(String, String)>,
    },
    /// The client is sent elsewhere.
    Redirect {
        /// Where to; goes into `Location`.
        url: String,
        /// The status of the answer, 302 unless the agent said otherwise.
        status: u16,
    },
    /// The client has to prove something first.
    Challenge {
        /// The kind of the challenge, as in `captcha`.
        challenge_type: String,
        /// Parameters of the challenge, in order.
        params: Vec<(String, String)>,
    },
}

/// The answer to an event: a verdict, and what goes with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Whether the request may go on.
    pub verdict: Verdict,
    /// Changes of the request's head before it goes to the upstream, in order.
    pub request_headers: Vec<HeaderOp>,
    /// Changes of the response's head before it goes to the client, in order.
    pub response_headers: Vec<HeaderOp>,
    /// Why, for logs and metrics. `None` when the agent said nothing.
    pub audit: Option<Box<Audit>>,
    /// The verdict is provisional: the agent wants to see more of the message.
    pub needs_more: bool,
    /// What takes the place of the piece of the request's body that was asked
    /// about. `None` leaves it as it is; when it is empty, the piece is
    /// dropped.
    pub request_body: Option<Bytes>,
    /// The same for a piece of the response's body.
    pub response_body: Option<Bytes>,
    /// What becomes of the frame that was asked about; `None` lets it pass as
    /// it is. In a box because most decisions have none and all are moved.
    pub websocket: Option<Box<FrameDecision>>,
    /// What a guardrail found in the text that it was asked about. Without it,
    /// any verdict but allow means that it found something. In a box as above.
    pub guardrail: Option<Box<GuardrailResult>>,
    /// For how long and for which other requests the verdict holds; `None`
    /// for this one alone. Goes over the wire only between peers that have
    /// agreed to `verdict-ttl`.
    pub ttl: Option<Box<VerdictTtl>>,
}

/// Why an agent decided as it did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Audit {
    /// Free labels, as in `bot`.
    pub tags: Vec<String>,
    /// The rules that matched, as in `942100`.
    pub rule_ids: Vec<String>,
    /// How sure the agent is, from 0 to 1.
    pub confidence: Option<f32>,
    /// Machine-readable reasons, as in `path:/admin`.
    pub reason_codes: Vec<String>,
    /// Anything else. The member `correlation_id` belongs to the protocol and
    /// is removed by the receiver.
    pub custom: Map<String, Value>,
}

impl Audit {
    /// Whether nothing is said in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
            && self.rule_ids.is_empty()
            && self.confidence.is_none()
            && self.reason_codes.is_empty()
            && self.custom.is_empty()
    }
}

impl Default for Decision {
    fn default() -> Self {
        Self::allow()
    }
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            audit: None,
            needs_more: false,
            request_body: None,
            response_body: None,
            websocket: None,
            guardrail: None,
            ttl: None,
        }
    }
}

/// Making a decision.
impl Decision {
    /// The request may go on.
    #[must_use]
    pub fn allow() -> Self {
        Verdict::Allow.into()
    }

    /// The request may not go on; the client gets this status.
    #[must_use]
    pub fn block(status: u16) -> Self {
        Verdict::Block {
            status,
            body: None,
            headers: Vec::new(),
        }
        .into()
    }

    /// The client is sent to this URL with status 302.
    #[must_use]
    pub fn redirect(url: impl Into<String>) -> Self {
        Self::redirect_with_status(url, 302)
    }

    /// The client is sent to this URL with this status.
    #[must_use]
    pub fn redirect_with_status(url: impl Into<String>, status: u16) -> Self {
        Verdict::Redirect {
            url: url.into(),
            status,
        }
        .into()
    }

    /// The client has to pass a challenge of this kind first.
    #[must_use]
    pub fn challenge(challenge_type: impl Into<String>) -> Self {
        Verdict::Challenge {
            challenge_type: challenge_type.into(),
            params: Vec::new(),
        }
        .into()
    }

    /// Gives a block its body; other verdicts are left as they are.
    #[must_use]
    pub fn with_body(mut self, content: impl Into<Bytes>) -> Self {
        if let Verdict::Block { body, .. } = &mut self.verdict {
            *body = Some(content.into());
        }
        self
    }

    /// Adds a header to what the client gets: to the answer of a block, to
    /// the response otherwise.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Verdict::Block { headers, .. } = &mut self.verdict {
            headers.push((name.into(), value.into()));
            return self;
        }
        self.add_response_header(name, value)
    }

    /// Adds a parameter to a challenge; other verdicts are left as they are.
    #[must_use]
    pub fn with_param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Verdict::Challenge { params, .. } = &mut self.verdict {
            params.push((name.into(), value.into()));
        }
        self
    }

    /// Replaces a header of the request.
    #[must_use]
    pub fn set_request_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request_headers.push(HeaderOp::Set {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Adds a header to the request.
    #[must_use]
    pub fn add_request_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request_headers.push(HeaderOp::Add {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Removes a header from the request.
    #[must_use]
    pub fn remove_request_header(mut self, name: impl Into<String>) -> Self {
        self.request_headers
            .push(HeaderOp::Remove { name: name.into() });
        self
    }

    /// Replaces a header of the response.
    #[must_use]
    pub fn set_response_header(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.response_headers.push(HeaderOp::Set {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn add_response_header(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.response_headers.push(HeaderOp::Add {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Removes a header from the response.
    #[must_use]
    pub fn remove_response_header(mut self, name: impl Into<String>) -> Self {
        self.response_headers
            .push(HeaderOp::Remove { name: name.into() });
        self
    }

    /// Replaces the piece of the request's body that was asked about; without
    /// any bytes the piece is dropped.
    #[must_use]
    pub fn replace_request_body(mut self, data: impl Into<Bytes>) -> Self {
        self.request_body = Some(data.into());
        self
    }

    /// Replaces the piece of the response's body that was asked about; without
    /// any bytes the piece is dropped.
    #[must_use]
    pub fn replace_response_body(mut self, data: impl Into<Bytes>) -> Self {
        self.response_body = Some(data.into());
        self
    }

    /// Lets the frame that was asked about not go on.
    #[must_use]
    pub fn drop_frame(mut self) -> Self {
        self.websocket = Some(Box::new(FrameDecision::Drop));
        self
    }

    /// Replaces the payload of the frame that was asked about; see
    /// [`FrameDecision::Replace`]. A proxy that does not know `event-id` cannot
    /// do that: it is told that the agent failed.
    #[must_use]
    pub fn replace_frame(mut self, data: impl Into<Bytes>) -> Self {
        self.websocket = Some(Box::new(FrameDecision::Replace(data.into())));
        self
    }

    /// Closes the WebSocket with this code and this reason; see
    /// [`FrameDecision::Close`] for what they may be.
    #[must_use]
    pub fn close_websocket(mut self, code: u16, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        self.websocket = Some(Box::new(FrameDecision::Close { code, reason }));
        self
    }

    /// Says what was found in the text that was asked about. What becomes of
    /// the message is the proxy's to decide.
    #[must_use]
    pub fn with_guardrail(mut self, result: GuardrailResult) -> Self {
        self.guardrail = Some(Box::new(result));
        self
    }

    /// Says that the verdict holds for this long, for other requests too that
    /// are the same in what it depends on. Zero takes that back.
    #[must_use]
    pub fn hold_for(mut self, ttl: Duration) -> Self {
        let vary_ignores = self.ttl.take().map_or_else(Vec::new, |it| it.vary_ignores);
        if !ttl.is_zero() {
            self.ttl = Some(Box::new(VerdictTtl { ttl, vary_ignores }));
        }
        self
    }

    /// Says that a verdict which [holds for a while](Self::hold_for) does not
    /// depend on this part of a request; other verdicts are left as they are.
    #[must_use]
    pub fn whatever_the(mut self, part: KeyPart) -> Self {
        if let Some(ttl) = &mut self.ttl
            && !ttl.ignores(part)
        {
            ttl.vary_ignores.push(part);
        }
        self
    }

    /// Adds a label to the audit data.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.audit_mut().tags.push(tag.into());
        self
    }

    /// Adds the id of a rule that matched to the audit data.
    #[must_use]
    pub fn rule_id(mut self, rule_id: impl Into<String>) -> Self {
        self.audit_mut().rule_ids.push(rule_id.into());
        self
    }

    /// Adds a reason code to the audit data.
    #[must_use]
    pub fn reason(mut self, reason_code: impl Into<String>) -> Self {
        self.audit_mut().reason_codes.push(reason_code.into());
        self
    }

    /// Says how sure the agent is, from 0 to 1.
    #[must_use]
    pub fn confidence(mut self, confidence: f32) -> Self {
        self.audit_mut().confidence = Some(confidence);
        self
    }

    /// Adds anything else to the audit data.
    #[must_use]
    pub fn custom(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.audit_mut().custom.insert(key.into(), value.into());
        self
    }

    /// Marks the verdict as provisional: the agent wants to see more.
    #[must_use]
    pub fn provisional(mut self) -> Self {
        self.needs_more = true;
        self
    }

    fn audit_mut(&mut self) -> &mut Audit {
        self.audit.get_or_insert_default()
    }
}

/// Asking about a decision.
impl Decision {
    /// Whether the request may go on.
    #[must_use]
    pub fn is_allow(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}
