//! `routes { route "ID" { … } }`.

use super::{
    condition::{self, ParsedMatch},
    cursor::{Block, Later, Node},
    error_pages,
    filter::{self, ParsedFilter},
    header_span,
    value::SHORTEST,
    websocket::{self, ParsedWebSocket},
};
use crate::{
    diagnostic::code,
    model::{ErrorPages, RouteId, RouteTimeouts, Template, TemplatePart, UpstreamId, Variable},
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
    pub(crate) websocket: Option<ParsedWebSocket>,
    pub(crate) uninspected_upgrade: Option<Span>,
    pub(crate) timeouts: RouteTimeouts,
    pub(crate) timeouts_span: Option<Span>,
    pub(crate) error_pages: Option<ErrorPages>,
    pub(crate) span: Span,
}

/// What a route does as it is written.
#[derive(Debug, Clone)]
pub(crate) enum ParsedAction {
    Upstream(Spanned<UpstreamId>),
    Redirect {
        location: Template,
        status: u16,
    },
    Respond {
        status: u16,
        body: String,
    },
    /// It was reported as wrong already.
    Broken,
}

const LATER: &[Later] = &[Later::new("retry")];

/// The most that can be written as a budget. Who waits longer for agents than this waits for ever.
const MOST_BUDGET: Duration = Duration::from_secs(60);

pub(super) fn route(node: &mut Node<'_>) -> Option<ParsedRoute> {
    let id = node.id();
    let span = header_span(node);
    node.block(|block| {
        block.later(LATER);
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
            actions: actions(block),
            websocket: block.one("websocket", websocket::websocket),
            uninspected_upgrade: block.one("uninspected-upgrade", switched_on),
            timeouts_span: timeouts.map(|(_, span)| span),
            error_pages: block.one("error-pages", |node| Some(error_pages::error_pages(node))),
            timeouts: timeouts.map(|(timeouts, _)| timeouts).unwrap_or_default(),
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

fn actions(block: &mut Block<'_>) -> Vec<Spanned<ParsedAction>> {
    let mut actions = Vec::new();
    block.each(&["upstream", "redirect", "respond", "static"], |node| {
        let action = match node.name() {
            "upstream" => upstream(node),
            "redirect" => redirect(node),
            "respond" => respond(node),
            _ => {
                node.report(
                    Later::with_remedy(
                        "static",
                        "serve the files with another server and make it an upstream",
                    )
                    .diagnostic(node.span()),
                );
                node.ignore_rest();
                None
            }
        };
        actions.push(Spanned {
            value: action.unwrap_or(ParsedAction::Broken),
            span: node.span(),
        });
    });
    actions
}

fn upstream(node: &mut Node<'_>) -> Option<ParsedAction> {
    let value = node.argument("the name of an upstream")?;
    let id = value.text()?;
    Some(ParsedAction::Upstream(value.spanned(UpstreamId::from(id))))
}

fn redirect(node: &mut Node<'_>) -> Option<ParsedAction> {
    const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
    let value = node.argument("where to, such as \"https://{request.host}{request.path}\"")?;
    let location = value.template();
    let status = match node.property("status") {
        None => Some(302),
        Some(value) => {
            let status = value.integer(0..=999_u16)?;
            if !STATUSES.contains(&status) {
                value.report(
                    value
                        .error(code::INVALID_VALUE, format!("{status} does not redirect"))
                        .help("write 301, 302 (the default), 303, 307 or 308"),
                );
                return None;
            }
            Some(status)
        }
    };
    let location = location?;
    if !is_location(&location) {
        value.report(
            value
                .error(code::INVALID_VALUE, "this is not a place to redirect to")
                .help("write an http or https URL, or a path that begins with a slash, without spaces"),
        );
        return None;
    }
    Some(ParsedAction::Redirect {
        location,
        status: status?,
    })
}

/// Whether a template gives a URL that a browser follows: `http(s)://…`, `{request.scheme}://…` or `/…`.
fn is_location(location: &Template) -> bool {
    let literal = |part: &TemplatePart| match part {
        TemplatePart::Literal(text) => Some(text.clone()),
        TemplatePart::Variable(_) | TemplatePart::RequestHeader(_) => None,
    };
    let clean = location
        .parts
        .iter()
        .filter_map(literal)
        .all(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    let starts_well = match location.parts.as_slice() {
        [TemplatePart::Literal(text), rest @ ..] => {
            let after_scheme = text
                .strip_prefix("https://")
                .or_else(|| text.strip_prefix("http://"));
            text.starts_with('/')
                || after_scheme.is_some_and(|host| !host.is_empty() || !rest.is_empty())
        }
        [
            TemplatePart::Variable(Variable::RequestScheme),
            TemplatePart::Literal(text),
            ..,
        ] => text.starts_with("://"),
        [TemplatePart::Variable(Variable::RequestPath), ..] => true,
        _ => false,
    };
    clean && starts_well
}

fn respond(node: &mut Node<'_>) -> Option<ParsedAction> {
    let value = node.argument("a status, such as 200")?;
    let status = value.integer(200..=599_u16);
    let body = node.optional_argument();
    let text = match body {
        Some(body) => body.text()?,
        None => String::new(),
    };
    let status = status?;
    if let (204 | 304, Some(body), false) = (status, body, text.is_empty()) {
        body.report(
            body.error(
                code::CONTRADICTION,
                format!("a {status} answer has no body"),
            )
            .help("remove the text, or use another status"),
        );
        return None;
    }
    Some(ParsedAction::Respond { status, body: text })
}
