//! Names and addresses that may be there once.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedOrigin},
    source::Span,
};
use std::collections::{HashMap, hash_map::Entry};

pub(super) fn duplicate_ids(parsed: &Parsed, report: &Report) {
    unique(
        "listener",
        parsed
            .listeners
            .iter()
            .map(|item| (&*item.id.value, item.id.span)),
        report,
    );
    unique(
        "route",
        parsed
            .routes
            .iter()
            .map(|item| (&*item.id.value, item.id.span)),
        report,
    );
    unique(
        "chain",
        parsed
            .chains
            .iter()
            .map(|item| (&*item.id.value, item.id.span)),
        report,
    );
    unique(
        "upstream",
        parsed
            .upstreams
            .iter()
            .map(|item| (&*item.id.value, item.id.span)),
        report,
    );
    unique(
        "agent",
        parsed
            .agents
            .iter()
            .map(|item| (&*item.id.value, item.id.span)),
        report,
    );
}

fn unique<'a>(kind: &str, items: impl Iterator<Item = (&'a str, Span)>, report: &Report) {
    let mut seen = HashMap::new();
    for (id, span) in items {
        match seen.entry(id) {
            Entry::Vacant(vacant) => {
                vacant.insert(span);
            }
            Entry::Occupied(first) => report.add(
                Diagnostic::error(
                    code::DUPLICATE_ID,
                    span,
                    format!("there are two {kind}s called `{id}`"),
                )
                .label("the second")
                .also(*first.get(), "the first")
                .help("give one of them another name"),
            ),
        }
    }
}

pub(super) fn duplicate_targets(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        let Some(ParsedOrigin::Targets(targets)) = &upstream.origin else {
            continue;
        };
        let mut seen = HashMap::new();
        for target in targets {
            if let Some(first) = seen.insert(&target.value.address, target.span) {
                report.add(
                    Diagnostic::error(
                        code::REPEATED,
                        target.span,
                        format!(
                            "`{}` is a target of this upstream already",
                            target.value.address
                        ),
                    )
                    .label("the second time")
                    .also(first, "the first time")
                    .help("remove one of them; for a larger share there is `weight`"),
                );
            }
        }
    }
}
