//! `reverse "PATH" uid=… token-file="…" replicas=… mode="…"`.

use super::{cursor::Node, verdict_trace};
use crate::model::AgentReverse;

const MODES: [(&str, u32); 3] = [("0600", 0o600), ("0660", 0o660), ("0666", 0o666)];

pub(super) fn reverse(node: &mut Node<'_>) -> Option<AgentReverse> {
    let path = node
        .argument("the path of the socket that the agent dials")?
        .socket_path("");
    let token = node.property("token");
    if let Some(token) = &token {
        node.context().report.hide(token.span());
    }
    let token = verdict_trace::one_of([token, node.property("token-file")]);
    let uid = node
        .property("uid")
        .and_then(|value| value.integer(0..=u32::MAX - 1));
    let replicas = node
        .property("replicas")
        .and_then(|value| value.count(1..=64));
    let mode = node
        .property("mode")
        .and_then(|value| value.choice(&MODES, &[]));
    Some(AgentReverse {
        path: path?,
        mode: mode.unwrap_or(0o600),
        uid,
        token,
        replicas: replicas.unwrap_or(1),
    })
}
