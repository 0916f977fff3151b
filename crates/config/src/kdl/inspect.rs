//! `inspect { … }` of an agent.

use super::{
    cursor::{Block, Node},
    value::Value,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{BodyEncoding, BodyInspection, BodyMode, ByteSize, Completions, Inspect, OnOversize},
    source::{Span, Spanned},
};

/// What an agent is asked about as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ParsedInspect {
    pub(crate) request_headers: bool,
    /// The places of bodies are those of the node.
    pub(crate) request_body: Option<Spanned<BodyInspection>>,
    pub(crate) response_headers: bool,
    pub(crate) response_body: Option<Spanned<BodyInspection>>,
    pub(crate) websocket_frames: bool,
    pub(crate) request_complete: Option<Completions>,
}

impl Default for ParsedInspect {
    /// As without the block.
    fn default() -> Self {
        let program = Inspect::default();
        Self {
            request_headers: program.request_headers,
            request_body: None,
            response_headers: program.response_headers,
            response_body: None,
            websocket_frames: program.websocket_frames,
            request_complete: program.request_complete,
        }
    }
}

impl ParsedInspect {
    pub(crate) fn into_model(self) -> Inspect {
        Inspect {
            request_headers: self.request_headers,
            request_body: self.request_body.map(|body| body.value),
            response_headers: self.response_headers,
            response_body: self.response_body.map(|body| body.value),
            websocket_frames: self.websocket_frames,
            request_complete: self.request_complete,
        }
    }

    /// The bodies that it is shown, with the names of their nodes.
    pub(crate) fn bodies(self) -> impl Iterator<Item = (&'static str, Spanned<BodyInspection>)> {
        [
            (REQUEST_BODY, self.request_body),
            (RESPONSE_BODY, self.response_body),
        ]
        .into_iter()
        .filter_map(|(name, body)| Some((name, body?)))
    }
}

pub(super) const REQUEST_BODY: &str = "request-body";
pub(super) const RESPONSE_BODY: &str = "response-body";

/// The least of a body that an agent can be shown.
const LEAST_LIMIT: ByteSize = ByteSize(1);
/// For one body that is held, when nobody says otherwise.
const BUFFER_LIMIT: ByteSize = ByteSize::mib(1);
/// The most of one body that can be held.
const MOST_BUFFERED: ByteSize = ByteSize::mib(1 << 10);
/// The most of one body that can be shown in pieces. More is a slip of the unit.
const MOST_STREAMED: ByteSize = ByteSize::mib(1 << 20);
/// Decoded bytes for an encoded one, when nobody says otherwise.
pub(super) const MAX_RATIO: u32 = 100;
pub(super) const MOST_RATIO: u32 = 100_000;
/// Events that one worker may keep for an agent.
const MOST_COMPLETIONS: u32 = 1_000_000;

pub(super) fn inspect(node: &mut Node<'_>) -> ParsedInspect {
    let span = node.span();
    node.block(|block| {
        let mut switched_off = Vec::new();
        let request_headers = switch(block, "request-headers", &mut switched_off);
        let request_body = block.one(REQUEST_BODY, |node| Some(body(node)));
        let response_headers = switch(block, "response-headers", &mut switched_off);
        let response_body = block.one(RESPONSE_BODY, |node| Some(body(node)));
        let websocket_frames = switch(block, "websocket-frames", &mut switched_off);
        let request_complete = block.one("request-complete", |node| Some(completions(node)));
        let asked = request_headers
            || response_headers
            || request_body.is_some()
            || response_body.is_some()
            || websocket_frames
            || request_complete.is_some();
        if block.is_empty() {
            block.report(
                Diagnostic::error(code::MISSING, span, "this agent is asked about nothing")
                    .help("write `inspect { request-headers }`, or leave the block out, which means the same"),
            );
        } else if let (false, Some(off)) = (asked, switched_off.first()) {
            block.report(
                Diagnostic::error(code::CONTRADICTION, *off, "this agent would be asked about nothing")
                    .help("remove `#false`, or name something else that the agent inspects, such as `request-body \"buffer\"`"),
            );
        }
        ParsedInspect {
            request_headers,
            request_body,
            response_headers,
            response_body,
            websocket_frames,
            request_complete,
        }
    })
}

/// Whether a phase is on; one that is wrongly written was meant to be. The places of those that are off are kept.
fn switch(block: &mut Block<'_>, name: &'static str, switched_off: &mut Vec<Span>) -> bool {
    let written = block.one(name, |node| {
        Some((node.flag().unwrap_or(true), node.span()))
    });
    if let Some((false, span)) = written {
        switched_off.push(span);
    }
    written.is_some_and(|(on, _)| on)
}

/// What is wrongly written is as if it were not written, so that the agent still inspects the body for those who look
/// at the whole.
fn body(node: &mut Node<'_>) -> Spanned<BodyInspection> {
    let oversize = [
        ("fail", OnOversize::Fail),
        ("truncate", OnOversize::Truncate),
        ("skip", OnOversize::Skip),
    ];
    let encodings = [("decode", BodyEncoding::Decode), ("raw", BodyEncoding::Raw)];
    let mode = node.argument("\"buffer\" or \"stream\"").and_then(mode);
    let written = Written {
        limit: node.property("limit"),
        on_oversize: node.property("on-oversize"),
        encoded: node.property("encoded"),
        max_ratio: node.property("max-ratio"),
        read_only: node.property("read-only"),
    };
    let (usual_limit, most) = match mode {
        Some(BodyMode::Buffer) => (Some(BUFFER_LIMIT), MOST_BUFFERED),
        Some(BodyMode::Stream) | None => (None, MOST_STREAMED),
    };
    let value = BodyInspection {
        limit: match written.limit {
            Some(value) => value.size(LEAST_LIMIT..=most).or(usual_limit),
            None => usual_limit,
        },
        on_oversize: written
            .on_oversize
            .and_then(|value| value.choice(&oversize, &[]))
            .unwrap_or_default(),
        encoding: written
            .encoded
            .and_then(|value| value.choice(&encodings, &[]))
            .unwrap_or_default(),
        max_ratio: written
            .max_ratio
            .and_then(|value| value.integer(1..=MOST_RATIO))
            .unwrap_or(MAX_RATIO),
        read_only: written
            .read_only
            .and_then(|value| value.boolean())
            .unwrap_or_default(),
        mode: mode.unwrap_or(BodyMode::Buffer),
    };
    refuse_useless(&written, &value);
    Spanned {
        value,
        span: node.span(),
    }
}

fn mode(value: Value<'_>) -> Option<BodyMode> {
    let modes = [("buffer", BodyMode::Buffer), ("stream", BodyMode::Stream)];
    let text = value.raw().as_string().unwrap_or_default();
    let spelled = text.to_ascii_uppercase().replace('-', "_");
    if spelled.starts_with("FULL_DUPLEX") {
        // Envoy's agents may answer there whenever and as often as they like, so that no answer could be late or missing.
        value.report(
            value
                .error(code::INVALID_VALUE, "full-duplex streaming is not spoken")
                .label("no piece would have an answer of its own")
                .help("write \"stream\", with an agent that answers each piece, or \"buffer\""),
        );
        return None;
    }
    value.choice(&modes, &[])
}

/// The properties of a body.
struct Written<'a> {
    limit: Option<Value<'a>>,
    on_oversize: Option<Value<'a>>,
    encoded: Option<Value<'a>>,
    max_ratio: Option<Value<'a>>,
    read_only: Option<Value<'a>>,
}

/// Properties of which others leave nothing to do.
fn refuse_useless(written: &Written<'_>, value: &BodyInspection) {
    if let (Some(ratio), Some(encoded), BodyEncoding::Raw) =
        (written.max_ratio, written.encoded, value.encoding)
    {
        ratio.report(
            ratio
                .error(code::CONTRADICTION, "`max-ratio` has no effect here")
                .also(encoded.span(), "nothing is decoded")
                .help("remove it, or write `encoded=\"decode\"`"),
        );
    }
    if let (Some(oversize), None, BodyMode::Stream) =
        (written.on_oversize, written.limit, value.mode)
    {
        oversize.report(
            oversize
                .error(code::CONTRADICTION, "`on-oversize` has no effect here")
                .label("without a limit no body is too long")
                .help("remove it, or add a limit such as `limit=\"8MiB\"`"),
        );
    }
}

fn completions(node: &mut Node<'_>) -> Completions {
    Completions {
        queue: node
            .property("queue")
            .and_then(|value| value.count(1..=MOST_COMPLETIONS))
            .unwrap_or(Completions::default().queue),
    }
}
