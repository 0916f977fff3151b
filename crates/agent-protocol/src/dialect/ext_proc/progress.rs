//! What is remembered of a request between its messages: what the agent wants to be left out, what it has replaced, and
//! whether it is asked anything more. Pure.

use std::collections::HashSet;

use bytes::Bytes;

use super::messages::{NONE, ProcessingMode, SEND, SKIP};
use super::options::{BodyMode, ExtProcOptions, Parts};
use super::told::{Message, Part, mode};
use crate::{Decision, Event};

#[derive(Debug, Default)]
pub(super) struct Progress {
    /// What the agent does not want to be sent.
    left_out: Parts,
    request: Direction,
    response: Direction,
}

/// One of the two messages of a request.
#[derive(Debug, Default)]
struct Direction {
    head_seen: bool,
    /// All of it was seen.
    ended: bool,
    replacement: Option<Replacement>,
    /// Which headers it has; kept only where answers depend on it.
    names: HashSet<String>,
}

/// The agent has replaced the whole body.
#[derive(Debug)]
enum Replacement {
    /// To be put in the place of the first piece.
    Waiting(Bytes),
    /// It has been, and what else comes goes.
    Done,
}

impl Progress {
    /// Notes what an event says of its message; `is_empty` means that the message certainly has no body. Returns the
    /// decision where the agent is not asked.
    pub(super) fn begin(
        &mut self,
        event: &Event<'_>,
        is_empty: bool,
        options: &ExtProcOptions,
    ) -> Option<Decision> {
        let left_out = self.left_out;
        match event {
            Event::RequestHeaders(head) => {
                self.request.head(head.headers, is_empty, options);
                None
            }
            Event::ResponseHeaders(head) => {
                self.response.head(head.headers, is_empty, options);
                left_out.response_headers.then(Decision::allow)
            }
            Event::RequestBodyChunk(piece) => {
                self.request.ended |= piece.is_last;
                match self.request.replaced() {
                    Some(data) => Some(Decision::allow().replace_request_body(data)),
                    None => left_out.request_body.then(Decision::allow),
                }
            }
            // Without the body, there is nothing behind which the trailers could come.
            Event::ResponseBodyChunk(piece) => {
                self.response.ended |= piece.is_last;
                match self.response.replaced() {
                    Some(data) => Some(Decision::allow().replace_response_body(data)),
                    None => left_out.response_body.then(Decision::allow),
                }
            }
            // The agent has announced none of them.
            Event::WebSocketFrame(_) | Event::GuardrailInspect(_) | Event::RequestComplete(_) => {
                Some(Decision::allow())
            }
        }
    }

    /// Whether a message is sent.
    pub(super) fn wants(&self, message: &Message) -> bool {
        message.part != Part::ResponseTrailers || !self.left_out.response_trailers
    }

    /// Whether the agent may be asked anything more about the request.
    pub(super) fn expects_more(&self, options: &ExtProcOptions) -> bool {
        let left_out = &self.left_out;
        let body = |mode, left_out: bool, direction: &Direction| {
            mode != BodyMode::None && !left_out && !direction.ended
        };
        let head = options.response_headers && !left_out.response_headers;
        head && !self.response.head_seen
            || body(options.request_body, left_out.request_body, &self.request)
            || body(
                options.response_body,
                left_out.response_body,
                &self.response,
            )
    }

    /// Whether the message of this part is known to have this header.
    pub(super) fn has_header(&self, part: Part, name: &str) -> bool {
        let names = match part.is_of_request() {
            true => &self.request.names,
            false => &self.response.names,
        };
        names.contains(name)
    }

    /// The rest of the message is not sent.
    pub(super) fn leave_out_rest(&mut self, part: Part) {
        match part.is_of_request() {
            true => self.left_out.request_body = true,
            false => self.left_out.response_body = true,
        }
    }

    /// This takes the place of the whole body whose head was shown. Whether there is a body that it could take the place of.
    pub(super) fn replace(&mut self, part: Part, data: Bytes, options: &ExtProcOptions) -> bool {
        let (direction, mode) = match part.is_of_request() {
            true => (&mut self.request, options.request_body),
            false => (&mut self.response, options.response_body),
        };
        direction.replacement = Some(Replacement::Waiting(data));
        mode != BodyMode::None && !direction.ended
    }

    /// The piece that was shown is replaced, and what comes behind it goes.
    pub(super) fn drop_rest(&mut self, part: Part) {
        let direction = match part.is_of_request() {
            true => &mut self.request,
            false => &mut self.response,
        };
        direction.replacement = Some(Replacement::Done);
    }

    /// Obeys an override that leaves out what may be left out, and refuses every other.
    pub(super) fn override_mode(
        &mut self,
        wanted: &ProcessingMode,
        options: &ExtProcOptions,
    ) -> bool {
        let same = |wanted, configured| wanted == NONE || wanted == mode(configured);
        let parts = Parts {
            request_body: options.request_body != BodyMode::None
                && wanted.request_body_mode == NONE,
            response_headers: options.response_headers && wanted.response_header_mode == SKIP,
            response_body: options.response_body != BodyMode::None
                && wanted.response_body_mode == NONE,
            response_trailers: options.response_trailers && wanted.response_trailer_mode == SKIP,
        };
        // What the agent has had of the request cannot be left out any more, and nobody means that.
        let parts = match self.request.ended {
            true => Parts {
                request_body: false,
                ..parts
            },
            false => parts,
        };
        let asks_for_more = !same(wanted.request_body_mode, options.request_body)
            || !same(wanted.response_body_mode, options.response_body)
            || wanted.response_header_mode == SEND && !options.response_headers
            || wanted.response_trailer_mode == SEND && !options.response_trailers
            || wanted.request_trailer_mode == SEND;
        if asks_for_more || !parts.are_within(options.may_leave_out) {
            return false;
        }
        self.left_out = self.left_out.or(parts);
        true
    }
}

impl Direction {
    fn head(&mut self, headers: &http::HeaderMap, is_empty: bool, options: &ExtProcOptions) {
        self.head_seen = true;
        self.ended = is_empty;
        if options.strict {
            let names = headers.keys().map(|name| name.as_str().to_owned());
            self.names = names.collect();
        }
    }

    /// What takes the place of a piece.
    fn replaced(&mut self) -> Option<Bytes> {
        match self.replacement.replace(Replacement::Done) {
            Some(Replacement::Waiting(data)) => Some(data),
            Some(Replacement::Done) => Some(Bytes::new()),
            None => {
                self.replacement = None;
                None
            }
        }
    }
}

impl Parts {
    fn are_within(self, allowed: Self) -> bool {
        self.or(allowed) == allowed
    }

    fn or(self, other: Self) -> Self {
        Self {
            request_body: self.request_body || other.request_body,
            response_headers: self.response_headers || other.response_headers,
            response_body: self.response_body || other.response_body,
            response_trailers: self.response_trailers || other.response_trailers,
        }
    }
}
