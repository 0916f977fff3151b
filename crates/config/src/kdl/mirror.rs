//! `mirror "UPSTREAM" …`: copies of requests for an upstream whose answers nobody waits for.

use super::cursor::Node;
use crate::{
    model::{ByteSize, Share, UpstreamId},
    source::{Span, Spanned},
};

/// A mirror as it is written.
pub(crate) struct ParsedMirror {
    pub(crate) upstream: Spanned<UpstreamId>,
    pub(crate) percent: Share,
    pub(crate) max_body: ByteSize,
    pub(crate) span: Span,
}

const MAX_BODY: ByteSize = ByteSize(64 << 10);
const MOST_BODY: ByteSize = ByteSize(16 << 20);

pub(super) fn mirror(node: &mut Node<'_>) -> Option<ParsedMirror> {
    let value = node.argument("the name of an upstream");
    let percent = node.property("percent");
    let max_body = node.property("max-body");
    let whole = Share::of_hundredths(Share::WHOLE);
    let percent = match percent {
        Some(value) => value.share(Share::of_hundredths(1)..=whole),
        None => Some(whole),
    };
    let max_body = match max_body {
        Some(value) => value.size(ByteSize(0)..=MOST_BODY),
        None => Some(MAX_BODY),
    };
    let value = value?;
    let id = value.text()?;
    Some(ParsedMirror {
        upstream: value.spanned(UpstreamId::from(id)),
        percent: percent?,
        max_body: max_body?,
        span: node.span(),
    })
}
