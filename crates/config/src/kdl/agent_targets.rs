//! Where an agent is: at one place, or its replicas each at one of their own.
//!
//! `unix-socket "PATH"`, or `unix-socket { target "PATH"; target "PATH" }`; the same for every other way to reach an agent.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::{Diagnostic, code},
    source::Spanned,
};

/// The most replicas of one agent.
const MOST_REPLICAS: usize = 64;

/// The places, at least one and none twice; `what` says what one is, `such_as` how it is written. `read` makes one of what is
/// written behind the name of the node, or of a `target` in its braces. None: it was reported as wrong already.
pub(super) fn targets<'a, T: PartialEq>(
    node: &mut Node<'a>,
    what: &str,
    such_as: &str,
    read: impl Fn(Value<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    if node.is_bare() {
        node.argument(what);
        return None;
    }
    if let Some(value) = node.optional_argument() {
        // A block beside it is refused as what it is: not expected.
        return read(value).map(|target| vec![target]);
    }
    let written = node.block(|block| {
        block.many("target", |node| {
            Some(Spanned {
                value: node.argument(what).and_then(&read),
                span: node.span(),
            })
        })
    });
    if written.is_empty() {
        node.report(
            node.error(
                code::MISSING,
                format!("this `{}` leads nowhere", node.name()),
            )
            .label("has no `target`")
            .help(format!("add a line such as `target {such_as}` to it")),
        );
        return None;
    }
    if let Some(excess) = written.get(MOST_REPLICAS) {
        node.report(
            Diagnostic::error(
                code::OUT_OF_RANGE,
                excess.span,
                format!("an agent has {MOST_REPLICAS} replicas at most"),
            )
            .label("one too many")
            .help("make two agents of them, or put a balancer before some of them"),
        );
        return None;
    }
    refuse_repeated(node, &written);
    written.into_iter().map(|target| target.value).collect()
}

fn refuse_repeated<T: PartialEq>(node: &Node<'_>, written: &[Spanned<Option<T>>]) {
    for (position, target) in written.iter().enumerate() {
        let same =
            |other: &&Spanned<Option<T>>| other.value.is_some() && other.value == target.value;
        if let Some(first) = written[..position].iter().find(same) {
            node.report(
                Diagnostic::error(code::REPEATED, target.span, "this target is written twice")
                    .label("the second time")
                    .also(first.span, "the first time")
                    .help("remove one of the two: each replica is at a place of its own"),
            );
        }
    }
}
