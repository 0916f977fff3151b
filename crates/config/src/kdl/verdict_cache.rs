//! `verdict-cache … { may-ignore … }` of an agent.

use super::cursor::Node;
use crate::{
    diagnostic::{Diagnostic, code},
    model::{ByteSize, KeyPart, VerdictCache},
    source::{Span, Spanned},
};

/// More verdicts are no use to one process.
const MOST_ENTRIES: u32 = 10_000_000;
/// Less would hold hardly one verdict of an agent that changes headers.
const LEAST_BYTES: ByteSize = ByteSize::kib(64);
/// More is a slip of the unit.
const MOST_BYTES: ByteSize = ByteSize::mib(64 << 10);

/// What is wrongly written is as if it were not written: those who look at the whole see that there is a cache.
pub(super) fn verdict_cache(node: &mut Node<'_>) -> Spanned<VerdictCache> {
    let program = VerdictCache::default();
    let value = VerdictCache {
        max_entries: node
            .property("max-entries")
            .and_then(|value| value.count(1..=MOST_ENTRIES))
            .unwrap_or(program.max_entries),
        max_bytes: node
            .property("max-bytes")
            .and_then(|value| value.size(LEAST_BYTES..=MOST_BYTES))
            .unwrap_or(program.max_bytes),
        max_ttl: node
            .property("max-ttl")
            .and_then(|value| value.timeout())
            .unwrap_or(program.max_ttl),
        may_ignore: node.block(|block| {
            let written = block.one("may-ignore", |node| Some(may_ignore(node)));
            written.unwrap_or_default()
        }),
    };
    Spanned {
        value,
        span: node.span(),
    }
}

fn may_ignore(node: &mut Node<'_>) -> Vec<KeyPart> {
    let choices = [
        KeyPart::Authorization,
        KeyPart::Cookie,
        KeyPart::Query,
        KeyPart::ClientCertificate,
        KeyPart::OwnedHeaders,
        KeyPart::EarlierChanges,
    ]
    .map(|part| (part.name(), part));
    let mut parts: Vec<(KeyPart, Span)> = Vec::new();
    for value in node.arguments("the names of parts of the key, such as \"cookie\"") {
        let Some(part) = value.choice(&choices, &[]) else {
            continue;
        };
        match parts.iter().find(|(known, _)| *known == part) {
            None => parts.push((part, value.span())),
            Some((_, first)) => value.report(
                Diagnostic::error(
                    code::REPEATED,
                    value.span(),
                    format!("`{}` is written twice", part.name()),
                )
                .also(*first, "the first time")
                .help("remove one of the two"),
            ),
        }
    }
    parts.into_iter().map(|(part, _)| part).collect()
}
