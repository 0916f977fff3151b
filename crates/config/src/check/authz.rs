//! Agents that speak ext-authz or forward-auth: what those dialects do not have, and what has no effect with them.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedAgent},
    model::{AgentTransport, BodyMode, ByteSize, Dialect, OnOversize},
    source::Span,
};

/// A message of gRPC is no larger, with what is around the body.
const MOST_BODY: ByteSize = ByteSize::mib(15);

/// What is written for an agent that has no use for it, and what would let requests pass by.
pub(super) fn settings(parsed: &Parsed, report: &Report) {
    for agent in &parsed.agents {
        blocks(agent, report);
        if matches!(agent.dialect, Dialect::ExtAuthz | Dialect::ForwardAuth) {
            foreign(agent, report);
            inspected(agent, report);
        }
    }
}

fn contradiction(span: Span, message: String) -> Diagnostic {
    Diagnostic::error(code::CONTRADICTION, span, message)
}

fn blocks(agent: &ParsedAgent, report: &Report) {
    let (name, dialect) = (&agent.id.value, agent.dialect.name());
    for block in &agent.authz {
        let written = block.dialect.name();
        if block.dialect != agent.dialect {
            let message =
                format!("`{written}` has no effect: the agent `{name}` speaks `{dialect}`");
            let help = format!("remove it, or write `dialect \"{written}\"`");
            report.add(contradiction(block.span, message).help(help));
            continue;
        }
        let (useless, way) = match &agent.transport {
            Some(AgentTransport::Grpc(_)) => (&block.of_http, "gRPC"),
            Some(AgentTransport::Http(_)) => (&block.of_grpc, "HTTP"),
            _ => continue,
        };
        for (setting, span) in useless {
            let message =
                format!("`{setting}` has no effect: the agent `{name}` is called over {way}");
            let help = match way {
                "gRPC" => "remove it: its answers say themselves what goes where",
                _ => "remove it, or call the agent with `grpc`",
            };
            report.add(contradiction(*span, message).help(help));
        }
        if let (Some(span), None) = (block.body_as_bytes, &agent.inspect.request_body) {
            let message =
                format!("`body-as-bytes` has no effect: the agent `{name}` is shown no body");
            let help = "remove it, or add `request-body \"buffer\"` to its `inspect`";
            report.add(contradiction(span, message).help(help));
        }
    }
}

/// What agents of other dialects are told or say.
fn foreign(agent: &ParsedAgent, report: &Report) {
    let (name, dialect) = (&agent.id.value, agent.dialect.name());
    let refuse = |span, what: &str, help: &str| {
        let message = format!("{what} of the agent `{name}`: {dialect} has nothing like it");
        report.add(contradiction(span, message).help(help));
    };
    if let (Some(_), Some(span)) = (&agent.config, agent.config_span) {
        refuse(
            span,
            "the `config`",
            "remove it, and configure the agent where it is started",
        );
    }
    if let Some(cache) = &agent.verdict_cache {
        let help = "remove it: its answers do not say for how long they hold";
        refuse(cache.span, "the `verdict-cache`", help);
    }
    let inspect = &agent.inspect;
    for (what, is_inspected) in [
        ("response-headers", inspect.response_headers),
        ("response-body", inspect.response_body.is_some()),
        ("websocket-frames", inspect.websocket_frames),
        ("request-complete", inspect.request_complete.is_some()),
    ] {
        if is_inspected {
            let help =
                format!("remove `{what}` from its `inspect`: it is asked about requests alone");
            refuse(agent.span, &format!("the inspection of `{what}`"), &help);
        }
    }
}

/// The one question has to be asked, about the head, and with a body once all of it is there.
fn inspected(agent: &ParsedAgent, report: &Report) {
    let (name, inspect) = (&agent.id.value, &agent.inspect);
    if !inspect.request_headers {
        let message = format!("the agent `{name}` is not told the heads of requests");
        report.add(
            contradiction(agent.span, message)
                .help("add `request-headers` to its `inspect`: there is no question without"),
        );
    }
    let Some(body) = &inspect.request_body else {
        return;
    };
    if agent.dialect == Dialect::ForwardAuth {
        let message = format!("the agent `{name}` speaks `forward-auth`, which sends no bodies");
        report.add(contradiction(body.span, message).help("remove it"));
        return;
    }
    if body.value.mode == BodyMode::Stream {
        let message = format!("the agent `{name}` is asked once about a request");
        report.add(contradiction(body.span, message).help("write `request-body \"buffer\"`"));
    }
    if body.value.on_oversize == OnOversize::Skip {
        let message =
            format!("the agent `{name}` would not be asked about requests with larger bodies");
        report.add(
            contradiction(body.span, message)
                .help("write `on-oversize=\"truncate\"`, which shows it the beginning, or leave it out, which refuses them"),
        );
    }
    if body.value.limit.is_some_and(|limit| limit > MOST_BODY) {
        let message = format!("such a body does not fit into one message to the agent `{name}`");
        let help = format!("write `limit=\"{MOST_BODY}\"` or less");
        report.add(contradiction(body.span, message).help(help));
    }
}
