//! `routes { route "ID" { … } }`.

use super::{
    action::{self, ParsedAction},
    condition::{self, ParsedMatch},
    cursor::Node,
    error_pages,
    filter::{self, ParsedFilter},
    header_span,
    mirror::{self, ParsedMirror},
    retry, rewrite,
    value::SHORTEST,
    websocket::{self, ParsedWebSocket},
};
use crate::{
    model::{ErrorPages, Retry, Rewrite, RouteId, RouteTimeouts},
    source::{Span, Spanned},
};
use std::time::Duration;

/// A route as it is written.
pub(crate) struct ParsedRoute {
    pub(crate) id: Spanned<RouteId>,
    pub(crate) matches: Vec<ParsedMatch>,
    pub(crate) priority: i64,
    pub(crate) filters: Vec<ParsedFilter>,
    /// The places are those of the node.
    pub(crate) agent_budget: Option<Spanned<Duration>>,
    /// One, if the route is right.
    pub(crate) actions: Vec<Spanned<ParsedAction>>,
    /// The place is that of the node.
    pub(crate) rewrite: Option<Spanned<Rewrite>>,
    pub(crate) mirror: Option<ParsedMirror>,
    pub(crate) websocket: Option<ParsedWebSocket>,
    pub(crate) uninspected_upgrade: Option<Span>,
    pub(crate) timeouts: RouteTimeouts,
    pub(crate) timeouts_span: Option<Span>,
    pub(crate) error_pages: Option<ErrorPages>,
    pub(crate) retry: Option<Spanned<Retry>>,
    pub(crate) span: Span,
}

/// The most that can be written as a budget. Who waits longer for agents than this waits for ever.
const MOST_BUDGET: Duration = Duration::from_secs(60);

pub(super) fn route(node: &mut Node<'_>) -> Option<ParsedRoute> {
    let id = node.id();
    let span = header_span(node);
    node.block(|block| {
        let timeouts = block.one("timeouts", |node| Some((timeouts(node), node.span())));
        Some(ParsedRoute {
            matches: block.many("match", |node| Some(condition::conditions(node))),
            priority: block
                .one("priority", |node| {
                    node.argument("a number; higher is looked at first")?
                        .integer(-1_000_000_000_i64..=1_000_000_000)
                })
                .unwrap_or(0),
            filters: block
                .one("filters", |node| Some(node.block(filter::filters)))
                .unwrap_or_default(),
            agent_budget: block.one("agent-budget", |node| {
                let value = node.argument("a duration, such as \"80ms\"")?;
                Some(Spanned {
                    value: value.duration(SHORTEST..=MOST_BUDGET)?,
                    span: node.span(),
                })
            }),
            actions: action::actions(block),
            rewrite: block.one("rewrite", rewrite::rewrite),
            mirror: block.one("mirror", mirror::mirror),
            websocket: block.one("websocket", websocket::websocket),
            uninspected_upgrade: block.one("uninspected-upgrade", switched_on),
            timeouts_span: timeouts.map(|(_, span)| span),
            error_pages: block.one("error-pages", |node| Some(error_pages::error_pages(node))),
            timeouts: timeouts.map(|(timeouts, _)| timeouts).unwrap_or_default(),
            retry: block.one("retry", retry::retry),
            id: id?,
            span,
        })
    })
}

/// Where it is, unless it is switched off; what is wrongly written was meant to be on.
fn switched_on(node: &mut Node<'_>) -> Option<Span> {
    node.flag().unwrap_or(true).then(|| node.span())
}

fn timeouts(node: &mut Node<'_>) -> RouteTimeouts {
    node.block(|block| {
        let mut timeout = |name| {
            block.one(name, |node: &mut Node<'_>| {
                node.argument("a duration, such as \"10s\"")?.timeout()
            })
        };
        RouteTimeouts {
            response_header: timeout("response-header"),
            idle: timeout("idle"),
            total: timeout("total"),
        }
    })
}
