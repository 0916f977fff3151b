//! `split { upstream "ID" weight=95; … }`: requests shared out to several upstreams.

use super::{
    client_key,
    cursor::{Block, Node},
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{ClientKey, UpstreamId},
    source::{Span, Spanned},
};

/// A split as it is written.
#[derive(Debug, Clone)]
pub(crate) struct ParsedSplit {
    pub(crate) members: Vec<ParsedMember>,
    pub(crate) sticky: Option<ClientKey>,
}

/// An upstream of a split.
#[derive(Debug, Clone)]
pub(crate) struct ParsedMember {
    pub(crate) upstream: Spanned<UpstreamId>,
    pub(crate) weight: u32,
    pub(crate) span: Span,
}

/// The largest weight; shares of a millionth can be written.
const MOST_WEIGHT: u32 = 1_000_000;
/// Upstreams of one split, each of which is looked at for each request.
const MOST_MEMBERS: usize = 16;

pub(super) fn split(node: &mut Node<'_>) -> Option<ParsedSplit> {
    let (written, members, sticky) = node.block(|block| {
        let (written, members) = members(block);
        let sticky = block.one("sticky", |node| {
            client_key::client_key(node.argument(client_key::SUCH_AS)?)
        });
        (written, members, sticky)
    });
    if written < 2 {
        node.report(
            node.error(code::MISSING, "this `split` has nothing to share out")
                .label("fewer than two upstreams")
                .help("add lines such as `upstream \"canary\" weight=5`, or write `upstream` in its place"),
        );
    }
    if members.len() > MOST_MEMBERS {
        node.report(
            node.error(
                code::OUT_OF_RANGE,
                format!("this `split` has {} upstreams", members.len()),
            )
            .help(format!("write {MOST_MEMBERS} at most")),
        );
    }
    if written == members.len() && written > 1 && members.iter().all(|member| member.weight == 0) {
        node.report(
            node.error(
                code::CONTRADICTION,
                "no upstream of this `split` gets anything",
            )
            .label("all weights are 0")
            .help("give one of them a weight"),
        );
    }
    repeated(node, &members);
    Some(ParsedSplit { members, sticky })
}

/// How many are written, and those that are right.
fn members(block: &mut Block<'_>) -> (usize, Vec<ParsedMember>) {
    let mut written = 0;
    let members = block.many("upstream", |node| {
        written += 1;
        let value = node.argument("the name of an upstream");
        let weight = match node.property("weight") {
            Some(weight) => weight.integer(0..=MOST_WEIGHT),
            None => {
                node.report(
                    node.error(code::MISSING, "this upstream has no weight")
                        .help("write its share, such as `weight=5`; shares are compared with each other"),
                );
                None
            }
        };
        let value = value?;
        let id = value.text()?;
        Some(ParsedMember {
            upstream: value.spanned(UpstreamId::from(id)),
            weight: weight?,
            span: node.span(),
        })
    });
    (written, members)
}

fn repeated(node: &Node<'_>, members: &[ParsedMember]) {
    for (position, member) in members.iter().enumerate() {
        let same = |other: &&ParsedMember| other.upstream.value == member.upstream.value;
        if let Some(first) = members[..position].iter().find(same) {
            let name = &member.upstream.value;
            node.report(
                Diagnostic::error(
                    code::REPEATED,
                    member.span,
                    format!("the upstream `{name}` is in this `split` twice"),
                )
                .label("the second time")
                .also(first.span, "the first time")
                .help("keep one of the two, with both weights together"),
            );
        }
    }
}
