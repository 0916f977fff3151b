//! What verdicts are kept of: whether there are any, and whether one client could get what is said about another.

use crate::{
    diagnostic::{Diagnostic, Report, code, list},
    kdl::{Parsed, ParsedInspect},
    model::{KeyPart, VerdictCache},
    source::Spanned,
};

/// An agent that sees later parts of a request has to have seen its head, so only verdicts of those that see nothing else
/// can be kept.
pub(super) fn phases(parsed: &Parsed, report: &Report) {
    for (agent, cache) in cached(parsed) {
        let name = &agent.id.value;
        let error = |message| Diagnostic::error(code::CONTRADICTION, cache.span, message);
        // Written out, so that whoever adds a phase decides about it here.
        let ParsedInspect {
            request_headers,
            request_body,
            response_headers,
            response_body,
            websocket_frames,
            request_complete: _,
        } = agent.inspect;
        let later: Vec<&str> = [
            ("request-body", request_body.is_some()),
            ("response-headers", response_headers),
            ("response-body", response_body.is_some()),
            ("websocket-frames", websocket_frames),
        ]
        .into_iter()
        .filter_map(|(phase, inspected)| inspected.then_some(phase))
        .collect();
        if !later.is_empty() {
            let message = format!(
                "verdicts of the agent `{name}` cannot be kept: it inspects {} too",
                list(later, "and")
            );
            report.add(
                error(message)
                    .label("it would miss the heads of the requests that it is shown")
                    .help("remove `verdict-cache`, or make two agents of it: one that inspects `request-headers` alone and has the cache, and one for the rest"),
            );
        } else if !request_headers {
            let message = format!(
                "verdicts of the agent `{name}` cannot be kept: it gives none about the heads of requests"
            );
            report.add(error(message).help(
                "remove `verdict-cache`, or add `request-headers` to what the agent inspects",
            ));
        }
    }
}

/// Warning: the agent that says who the client is may leave out of the key by what it knows that.
pub(super) fn shared_identities(parsed: &Parsed, report: &Report) {
    for (agent, cache) in cached(parsed) {
        let may_ignore = cache.value.may_ignore.iter();
        let parts: Vec<&str> = may_ignore
            .filter(|part| part.names_client())
            .map(|part| KeyPart::name(*part))
            .collect();
        let (Some(owned), false) = (agent.owns_headers.first(), parts.is_empty()) else {
            continue;
        };
        report.add(
            Diagnostic::warning(
                code::SHARED_VERDICTS,
                cache.span,
                format!(
                    "the agent `{}` sets `{}`, and a verdict of it may be used for another client",
                    agent.id.value, owned.value
                ),
            )
            .label(format!("it may ignore {}", list(parts, "and")))
            .also(owned.span, "what it sets here would be that of another client")
            .help("take these out of `may-ignore`, unless the agent ignores them for verdicts alone that set no such header"),
        );
    }
}

fn cached(
    parsed: &Parsed,
) -> impl Iterator<Item = (&crate::kdl::ParsedAgent, &Spanned<VerdictCache>)> {
    let agents = parsed.agents.iter();
    agents.filter_map(|agent| Some((agent, agent.verdict_cache.as_ref()?)))
}
