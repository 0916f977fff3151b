//! `ext-proc { … }` of an agent: how an agent that speaks Envoy's external processing is spoken to.

use std::time::Duration;

/// What holds for an agent whose dialect is `ext-proc`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtProc {
    /// How it is sent the values of headers. Default raw.
    pub header_encoding: HeaderEncoding,
    /// It is sent the trailers of responses, behind their bodies. Default false.
    pub response_trailers: bool,
    /// What an answer to a head may ask not to be sent, with `mode_override`. Each at most once. Default nothing: no override
    /// is obeyed.
    pub may_leave_out: Vec<Overridable>,
    /// The most that `override_message_timeout` may ask for. None: it is not obeyed. 1 ms to 24 h.
    pub max_message_timeout: Option<Duration>,
    /// What it means that the agent closes the stream of a request in order. Default fail.
    pub on_close: OnClose,
    /// It is told and not waited for: what it says is thrown away. Default false.
    pub observability: bool,
}

/// How the values of headers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderEncoding {
    /// As bytes, in `raw_value`. The default, and what Envoy does.
    #[default]
    Raw,
    /// As text, in `value`, which old agents read.
    String,
}

/// What it means that an agent closes its stream without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnClose {
    /// It is a failure, and the failure mode decides. The default.
    #[default]
    Fail,
    /// The request goes on, whatever the failure mode, as in Envoy.
    Allow,
}

/// What an agent may ask not to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overridable {
    /// The body of the request.
    RequestBody,
    /// The head of the response.
    ResponseHeaders,
    /// The body of the response.
    ResponseBody,
    /// The trailers of the response.
    ResponseTrailers,
}

impl Overridable {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::RequestBody,
        Self::ResponseHeaders,
        Self::ResponseBody,
        Self::ResponseTrailers,
    ];

    /// The name as it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestBody => "request-body",
            Self::ResponseHeaders => "response-headers",
            Self::ResponseBody => "response-body",
            Self::ResponseTrailers => "response-trailers",
        }
    }
}
