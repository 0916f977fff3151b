//! `verdict-trace …`: who may see verdicts. The tokens are written here or in files of their own, and shown nowhere.

use super::{
    cursor::Node,
    secret::{self, Kind},
};
use crate::{diagnostic::code, model::VerdictTrace};

/// More bytes would not fit beside other headers.
pub(super) const TOKEN: Kind = Kind {
    name: "token",
    least: 16,
    most: 1024,
};

pub(super) fn verdict_trace(node: &mut Node<'_>) -> Option<VerdictTrace> {
    node.hide_values();
    let written = [node.property("token"), node.property("token-file")];
    let previous = [
        node.property("previous-token"),
        node.property("previous-token-file"),
    ];
    if written.iter().all(Option::is_none) {
        node.report(
            node.error(code::MISSING, "`verdict-trace` needs a token")
                .label("has none")
                .help("write token-file=\"…\", or token=\"…\""),
        );
    }
    let token = secret::one_of(written, TOKEN);
    let before = secret::one_of(previous, TOKEN);
    if let (Some(token), Some(before)) = (&token, &before)
        && token == before
    {
        node.report(
            node.error(code::CONTRADICTION, "both tokens are the same")
                .help("remove the previous one, or make a new one"),
        );
    }
    Some(VerdictTrace {
        token: token?,
        previous_token: before,
    })
}
