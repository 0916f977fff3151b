//! `websocket { … }` of a route.

use super::{
    cursor::{Block, Node},
    value::Value,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{ByteSize, Deflate, WebSocket},
    source::Span,
};

/// Whether, and how, a route lets requests upgrade, as it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParsedWebSocket {
    pub(crate) settings: WebSocket,
    /// Where a setting is written that means nothing unless agents see the frames.
    pub(crate) setting: Option<Span>,
    /// That of the node.
    pub(crate) span: Span,
}

/// A control frame has up to so many bytes, and they always pass (RFC 6455 section 5.5).
const LEAST: ByteSize = ByteSize(125);
/// An event with so much in it, in base64, still fits into one message to an agent.
const MOST_FRAME: ByteSize = ByteSize::mib(8);
/// More is a slip of the unit.
const MOST_MESSAGE: ByteSize = ByteSize::mib(1 << 20);
const MOST_HELD: ByteSize = ByteSize::mib(1 << 10);
/// Inflated bytes for a compressed one, when nobody says otherwise.
const MAX_RATIO: u32 = 100;
const MOST_RATIO: u32 = 100_000;

/// `None` when it is switched off; what is wrongly written was meant to be on.
pub(super) fn websocket(node: &mut Node<'_>) -> Option<ParsedWebSocket> {
    let on = node.flag().unwrap_or(true);
    let span = node.span();
    let (settings, setting) = node.block(settings);
    if let (false, Some(setting)) = (on, setting) {
        node.report(
            Diagnostic::error(code::CONTRADICTION, setting, "this has no effect")
                .also(span, "`websocket` is switched off")
                .help("remove the block in braces, or `#false`"),
        );
    }
    on.then_some(ParsedWebSocket {
        settings,
        setting,
        span,
    })
}

fn settings(block: &mut Block<'_>) -> (WebSocket, Option<Span>) {
    let mut first = None;
    let mut see = |node: &Node<'_>| {
        first.get_or_insert(node.span());
    };
    let deflate = block.one("deflate", |node| {
        see(node);
        deflate(node)
    });
    let mut size = |name, most| {
        block.one(name, |node: &mut Node<'_>| {
            see(node);
            let value = node.argument("a size, such as \"1MiB\"")?;
            Some((value, value.size(LEAST..=most)?))
        })
    };
    let frame = size("frame-bytes", MOST_FRAME);
    let message = size("message-bytes", MOST_MESSAGE);
    let held = size("held-bytes", MOST_HELD);
    let idle = block.one("idle", |node| {
        see(node);
        node.argument("a duration, such as \"10m\"")?.timeout()
    });
    let known = |written: Option<(Value<'_>, ByteSize)>| written.map(|(_, size)| size);
    let message_bytes = known(message)
        .unwrap_or_else(|| WebSocket::MESSAGE_BYTES.max(known(frame).unwrap_or(ByteSize(0))));
    let frame_bytes = known(frame).unwrap_or_else(|| WebSocket::FRAME_BYTES.min(message_bytes));
    refuse_less(message, frame_bytes, "`frame-bytes`");
    refuse_less(held, frame_bytes, "a frame of `frame-bytes`");
    let settings = WebSocket {
        deflate: deflate.unwrap_or_default(),
        frame_bytes,
        message_bytes,
        held_bytes: known(held).unwrap_or(ByteSize(2 * frame_bytes.bytes())),
        idle: idle.unwrap_or(WebSocket::IDLE),
    };
    (settings, first)
}

/// What has to have room for a frame and has none.
fn refuse_less(written: Option<(Value<'_>, ByteSize)>, frame: ByteSize, what: &str) {
    let Some((value, size)) = written.filter(|(_, size)| *size < frame) else {
        return;
    };
    value.report(
        value
            .error(
                code::CONTRADICTION,
                format!("{size} has no room for {what}, which is {frame}"),
            )
            .help(format!(
                "write \"{frame}\" or more, or a smaller `frame-bytes`"
            )),
    );
}

fn deflate(node: &mut Node<'_>) -> Option<Deflate> {
    let words = [("refuse", false), ("inflate", true)];
    let inflates = node
        .argument("\"refuse\" or \"inflate\"")
        .and_then(|value| value.choice(&words, &[]));
    let ratio = node.property("max-ratio");
    let max_ratio = ratio.and_then(|value| value.integer(1..=MOST_RATIO));
    match (inflates?, ratio) {
        (true, _) => Some(Deflate::Inflate {
            max_ratio: max_ratio.unwrap_or(MAX_RATIO),
        }),
        (false, Some(ratio)) => {
            ratio.report(
                ratio
                    .error(code::CONTRADICTION, "`max-ratio` has no effect here")
                    .help("remove it, or write `deflate \"inflate\"`"),
            );
            None
        }
        (false, None) => Some(Deflate::Refuse),
    }
}
