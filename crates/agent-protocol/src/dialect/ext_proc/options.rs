//! How an agent is spoken to, as the operator has it.

use std::time::Duration;

use crate::EventKind;

/// How a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyMode {
    /// It is not.
    #[default]
    None,
    /// In pieces of at most 32 KiB, each of which is answered.
    Streamed,
    /// Whole, in one message.
    Buffered,
}

/// What of a request and its response may be sent, or left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// The body of the request.
    pub request_body: bool,
    /// The head of the response.
    pub response_headers: bool,
    /// The body of the response.
    pub response_body: bool,
    /// The trailers of the response.
    pub response_trailers: bool,
}

/// How an agent that speaks Envoy's external processing is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtProcOptions {
    /// It is sent the head of the request.
    pub request_headers: bool,
    /// How it is sent the body of the request.
    pub request_body: BodyMode,
    /// It is sent the head of the response.
    pub response_headers: bool,
    /// How it is sent the body of the response.
    pub response_body: BodyMode,
    /// It is sent the trailers of the response, behind its body.
    pub response_trailers: bool,
    /// Values of headers are sent as `value`, which old servers read, and not as `raw_value`.
    pub headers_as_text: bool,
    /// `append_action` holds, and an answer with an operation that cannot be carried out is void as a whole.
    pub strict: bool,
    /// A stream that the agent closes in order lets the request go on.
    pub close_allows: bool,
    /// What the agent may ask not to be sent, with `mode_override`.
    pub may_leave_out: Parts,
    /// The most that `override_message_timeout` may ask for; `None`: it is not obeyed.
    pub max_message_timeout: Option<Duration>,
    /// The agent is told, and nobody waits for what it says.
    pub observability: bool,
}

impl ExtProcOptions {
    /// The events that the agent takes.
    pub(super) fn events(&self) -> Vec<EventKind> {
        let table = [
            (self.request_headers, EventKind::RequestHeaders),
            (
                self.request_body != BodyMode::None,
                EventKind::RequestBodyChunk,
            ),
            (self.response_headers, EventKind::ResponseHeaders),
            (
                self.response_body != BodyMode::None,
                EventKind::ResponseBodyChunk,
            ),
        ];
        let wanted = table.into_iter().filter(|(wanted, _)| *wanted);
        wanted.map(|(_, kind)| kind).collect()
    }

    /// Whether a body of this kind of event is sent in one message.
    #[must_use]
    pub fn is_whole(&self, kind: EventKind) -> bool {
        let mode = match kind {
            EventKind::RequestBodyChunk => self.request_body,
            EventKind::ResponseBodyChunk => self.response_body,
            _ => BodyMode::None,
        };
        mode == BodyMode::Buffered
    }
}
