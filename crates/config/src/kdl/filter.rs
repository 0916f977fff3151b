//! `filters { … }` of a route, and `filters { chain "ID" { … } }`.

use super::{
    address_list::address_list,
    compress::compress,
    cursor::{Block, Node},
    guardrail::{ParsedGuardrail, guardrail},
    header, header_span, limit,
    shadow::{self, ParsedShadow},
};
use crate::{
    diagnostic::code,
    model::{
        AddressList, AgentId, ByteSize, Compress, ConcurrencyLimit, FailureMode, HeaderEdit,
        RateLimit,
    },
    source::{Span, Spanned},
};
use std::time::Duration;

/// A line of a chain as it is written.
#[derive(Debug, Clone)]
pub(crate) enum ParsedFilter {
    Agent(ParsedAgentUse),
    Parallel(Vec<ParsedAgentUse>),
    Guardrail(Box<ParsedGuardrail>),
    Own(ParsedOwn),
    Use(Spanned<String>),
    /// It was reported as wrong already.
    Broken,
}

/// A line that asks nobody.
#[derive(Debug, Clone)]
pub(crate) enum ParsedOwn {
    RequestHeaders(Vec<HeaderEdit>),
    ResponseHeaders(Vec<HeaderEdit>),
    RateLimit(Spanned<RateLimit>),
    ConcurrencyLimit(Spanned<ConcurrencyLimit>),
    Addresses(AddressList),
    BodyLimit(Spanned<ByteSize>),
    Compress(Spanned<Compress>),
}

/// An agent on a route; `None` is what the agent's own block says.
#[derive(Debug, Clone)]
pub(crate) struct ParsedAgentUse {
    pub(crate) agent: Spanned<AgentId>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) failure_mode: Option<FailureMode>,
    pub(crate) shadow: Option<ParsedShadow>,
}

impl ParsedAgentUse {
    /// Whether a request may wait for this agent.
    pub(crate) fn may_decide(&self) -> bool {
        self.shadow
            .as_ref()
            .is_none_or(|shadow| shadow.ramp.is_some())
    }
}

/// Filters with a name, for `use`.
pub(crate) struct ParsedChain {
    pub(crate) id: Spanned<String>,
    pub(crate) filters: Vec<ParsedFilter>,
    pub(crate) span: Span,
}

pub(super) fn chain(node: &mut Node<'_>) -> Option<ParsedChain> {
    let id = node.id();
    let span = header_span(node);
    let filters = node.block(filters);
    Some(ParsedChain {
        id: id?,
        filters,
        span,
    })
}

pub(super) fn filters(block: &mut Block<'_>) -> Vec<ParsedFilter> {
    let mut filters = Vec::new();
    let mut names = vec!["agent", "parallel", "guardrail"];
    names.extend(OWN.iter().map(|(name, _)| *name));
    names.push("use");
    block.each(&names, |node| {
        let filter = match node.name() {
            "agent" => agent_use(node).map(ParsedFilter::Agent),
            "parallel" => parallel(node).map(ParsedFilter::Parallel),
            "guardrail" => guardrail(node).map(|it| ParsedFilter::Guardrail(Box::new(it))),
            "use" => chain_use(node).map(ParsedFilter::Use),
            _ => own(node).map(ParsedFilter::Own),
        };
        filters.push(filter.unwrap_or(ParsedFilter::Broken));
    });
    filters
}

/// Reads a line that asks nobody.
type ReadOwn = fn(&mut Node<'_>) -> Option<ParsedOwn>;

/// How they are read, by their names.
const OWN: [(&str, ReadOwn); 8] = [
    ("request-headers", |node| {
        Some(ParsedOwn::RequestHeaders(header::edits(node)))
    }),
    ("response-headers", |node| {
        Some(ParsedOwn::ResponseHeaders(header::edits(node)))
    }),
    ("rate-limit", |node| {
        limit::rate_limit(node).map(ParsedOwn::RateLimit)
    }),
    ("concurrency-limit", |node| {
        limit::concurrency_limit(node).map(ParsedOwn::ConcurrencyLimit)
    }),
    ("ip-allow", addresses),
    ("ip-deny", addresses),
    ("body-limit", |node| {
        limit::body_limit(node).map(ParsedOwn::BodyLimit)
    }),
    ("compress", |node| compress(node).map(ParsedOwn::Compress)),
];

fn addresses(node: &mut Node<'_>) -> Option<ParsedOwn> {
    address_list(node).map(ParsedOwn::Addresses)
}

fn own(node: &mut Node<'_>) -> Option<ParsedOwn> {
    let (_, read) = OWN.iter().find(|(name, _)| *name == node.name())?;
    read(node)
}

fn chain_use(node: &mut Node<'_>) -> Option<Spanned<String>> {
    let value = node.argument("the name of a chain")?;
    value.text().map(|text| value.spanned(text))
}

fn parallel(node: &mut Node<'_>) -> Option<Vec<ParsedAgentUse>> {
    let is_empty = node.block(|block| {
        let is_empty = block.is_empty();
        let uses = block.many("agent", agent_use);
        (is_empty, uses)
    });
    if is_empty.0 {
        node.report(
            node.error(code::MISSING, "this `parallel` asks nobody")
                .help("add lines such as `agent \"auth\"`, or remove it"),
        );
    }
    Some(is_empty.1)
}

pub(super) fn agent_use(node: &mut Node<'_>) -> Option<ParsedAgentUse> {
    let value = node.argument("the name of an agent")?;
    let timeout = node.property("timeout").and_then(|value| value.timeout());
    let failure_mode = node.property("failure-mode").and_then(failure_mode);
    let shadow = shadow::shadow(node);
    let agent = value
        .text()
        .map(|text| value.spanned(AgentId::from(text)))?;
    Some(ParsedAgentUse {
        agent,
        timeout,
        failure_mode,
        shadow,
    })
}

pub(super) fn failure_mode(value: super::value::Value<'_>) -> Option<FailureMode> {
    value.choice(
        &[("open", FailureMode::Open), ("closed", FailureMode::Closed)],
        &[],
    )
}
