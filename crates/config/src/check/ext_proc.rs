//! Agents that speak ext-proc: what that dialect does not have, and what has no effect with it.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedAgent, ParsedExtProc, ParsedFilter},
    model::{BodyMode, ByteSize, Dialect, FailureMode, Overridable},
    source::Span,
};

/// A message of gRPC is no larger, with what is around the body.
const MOST_MESSAGE: ByteSize = ByteSize::mib(16);

/// What is written for an agent that has no use for it.
pub(super) fn useless_settings(parsed: &Parsed, report: &Report) {
    for agent in &parsed.agents {
        let name = &agent.id.value;
        let error = |span, message: String| Diagnostic::error(code::CONTRADICTION, span, message);
        match (&agent.ext_proc, agent.dialect) {
            (Some(written), dialect) if dialect != Dialect::ExtProc => {
                let dialect = dialect.name();
                let message =
                    format!("`ext-proc` has no effect: the agent `{name}` speaks `{dialect}`");
                let help = "remove it, or write `dialect \"ext-proc\"`";
                report.add(error(written.span, message).help(help));
            }
            (_, Dialect::ExtProc) => {
                foreign(agent, report);
                if let Some(written) = &agent.ext_proc {
                    inspected(agent, written, report);
                    observing(agent, written, parsed, report);
                }
            }
            _ => {}
        }
    }
}

/// What agents of other dialects are told or say.
fn foreign(agent: &ParsedAgent, report: &Report) {
    let name = &agent.id.value;
    let refuse = |span, what: &str, help: &str| {
        let message = format!("{what} of the agent `{name}`: ext-proc has nothing like it");
        report.add(Diagnostic::error(code::CONTRADICTION, span, message).help(help));
    };
    if let (Some(_), Some(span)) = (&agent.config, agent.config_span) {
        refuse(
            span,
            "the `config`",
            "remove it, and configure the agent where it is started",
        );
    }
    if let Some(cache) = &agent.verdict_cache {
        let help = "remove it: answers of ext-proc do not say for how long they hold";
        refuse(cache.span, "the `verdict-cache`", help);
    }
    if agent.inspect.websocket_frames {
        let help = "remove `websocket-frames` from `inspect`";
        refuse(agent.span, "the inspection of `websocket-frames`", help);
    }
    if agent.inspect.request_complete.is_some() {
        let help = "remove `request-complete` from `inspect`: the end of a request is the end of its stream";
        refuse(agent.span, "the inspection of `request-complete`", help);
    }
    for (what, body) in agent.inspect.bodies() {
        let Some(limit) = body.value.limit else {
            continue;
        };
        if body.value.mode == BodyMode::Buffer && limit > MOST_MESSAGE {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    body.span,
                    format!(
                        "`{what}` of {limit} does not fit into one message to the agent `{name}`"
                    ),
                )
                .help(format!(
                    "write `limit=\"{MOST_MESSAGE}\"` or less, or inspect it with \"stream\""
                )),
            );
        }
    }
}

/// What is said of parts that the agent is not shown.
fn inspected(agent: &ParsedAgent, written: &ParsedExtProc, report: &Report) {
    let name = &agent.id.value;
    let inspect = &agent.inspect;
    if let (Some(span), None) = (written.response_trailers, &inspect.response_body) {
        report.add(
            Diagnostic::error(
                code::CONTRADICTION,
                span,
                format!(
                    "the agent `{name}` is shown trailers only behind a body, and inspects none"
                ),
            )
            .help("add `response-body \"stream\"` to its `inspect`, or remove `response-trailers`"),
        );
    }
    for part in &written.may_leave_out {
        let is_sent = match part.value {
            Overridable::RequestBody => inspect.request_body.is_some(),
            Overridable::ResponseHeaders => inspect.response_headers,
            Overridable::ResponseBody => inspect.response_body.is_some(),
            Overridable::ResponseTrailers => written.settings.response_trailers,
        };
        if !is_sent {
            let part_name = part.value.name();
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    part.span,
                    format!(
                        "`{part_name}` is not sent to the agent `{name}`, so it cannot be left out"
                    ),
                )
                .help("remove it: an override can only leave out what the agent is sent"),
            );
        }
    }
}

/// An agent that nobody waits for.
fn observing(agent: &ParsedAgent, written: &ParsedExtProc, parsed: &Parsed, report: &Report) {
    let Some(observes) = written.observability else {
        return;
    };
    let name = &agent.id.value;
    let refuse = |span: Span, message: String, help: &str| {
        report.add(
            Diagnostic::error(code::CONTRADICTION, span, message)
                .also(observes, "nobody waits for what it says")
                .help(help),
        );
    };
    if let Some(span) = written.about_answers {
        let message = format!("this is about answers of the agent `{name}`, which are thrown away");
        refuse(span, message, "remove it, or remove `observability`");
    }
    if agent.strict {
        let message =
            format!("`strict` is about answers of the agent `{name}`, which are thrown away");
        refuse(
            agent.id.span,
            message,
            "remove `strict`, or `observability`",
        );
    }
    for (what, body) in agent.inspect.bodies() {
        if body.value.mode == BodyMode::Buffer {
            let message = format!("`{what}` would be held for the agent `{name}`");
            refuse(body.span, message, "inspect it with \"stream\"");
        }
    }
    let shared = parsed
        .defaults
        .as_ref()
        .map(|defaults| &defaults.value.agent);
    let mode = agent
        .policy
        .failure_mode
        .or(shared.and_then(|shared| shared.failure_mode));
    if mode.unwrap_or_default() == FailureMode::Closed {
        let message = format!("the agent `{name}` could refuse requests by failing alone");
        refuse(agent.id.span, message, "write `failure-mode \"open\"`");
    }
}

/// A route may not have requests refused because of somebody who is not listened to.
pub(super) fn observers_that_refuse(parsed: &Parsed, report: &Report) {
    let routes = parsed.routes.iter().map(|route| &route.filters);
    let chains = parsed.chains.iter().map(|chain| &chain.filters);
    for filter in routes.chain(chains).flatten() {
        let uses = match filter {
            ParsedFilter::Agent(one) => std::slice::from_ref(one),
            ParsedFilter::Parallel(several) => several,
            ParsedFilter::Guardrail(_)
            | ParsedFilter::Own(_)
            | ParsedFilter::Use(_)
            | ParsedFilter::Broken => continue,
        };
        let closed = uses
            .iter()
            .filter(|it| it.failure_mode == Some(FailureMode::Closed));
        for used in closed {
            let name = &used.agent.value;
            let mut agents = parsed.agents.iter();
            let agent = agents.find(|agent| agent.id.value == *name);
            let observes = agent.and_then(|agent| agent.ext_proc.as_ref()?.observability);
            if let Some(observes) = observes {
                report.add(
                    Diagnostic::error(
                        code::CONTRADICTION,
                        used.agent.span,
                        format!("the agent `{name}` could refuse requests by failing alone"),
                    )
                    .also(observes, "nobody waits for what it says")
                    .help("remove `failure-mode=\"closed\"`"),
                );
            }
        }
    }
}

/// Warning: an agent that fails in order is passed by, although its failure mode is closed.
pub(super) fn closing_allows(parsed: &Parsed, report: &Report) {
    let shared = parsed
        .defaults
        .as_ref()
        .map(|defaults| &defaults.value.agent);
    for agent in &parsed.agents {
        let Some(span) = agent.ext_proc.as_ref().and_then(|written| written.on_close) else {
            continue;
        };
        let mode = agent
            .policy
            .failure_mode
            .or(shared.and_then(|shared| shared.failure_mode));
        if mode.unwrap_or_default() == FailureMode::Closed {
            report.add(
                Diagnostic::warning(
                    code::PASSED_BY,
                    span,
                    format!("the agent `{}` is passed by when it closes, although its failure mode is closed", agent.id.value),
                )
                .help("remove `on-close`, unless the agent closes streams about requests that it wants to pass"),
            );
        }
    }
}
