//! Conditions that no request can fulfil.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedMatch},
    model::{HeaderCondition, HeaderConditionKind},
};

pub(super) fn impossible(parsed: &Parsed, report: &Report) {
    for written in parsed.routes.iter().flat_map(|route| &route.matches) {
        check(written, report);
    }
}

fn check(written: &ParsedMatch, report: &Report) {
    for (index, condition) in written.headers.iter().enumerate() {
        let earlier = &written.headers[..index];
        if let Some(other) = earlier
            .iter()
            .find(|other| excludes(&other.value, &condition.value))
        {
            report.add(
                Diagnostic::error(
                    code::NEVER_MATCHES,
                    condition.span,
                    format!(
                        "a request cannot have and not have `{}`",
                        condition.value.name
                    ),
                )
                .also(other.span, "must hold at the same time")
                .help("remove one of them, or write two `match` blocks: any of them may hold"),
            );
        } else if let Some(other) = earlier.iter().find(|other| other.value == condition.value) {
            report.add(
                Diagnostic::error(
                    code::REPEATED,
                    condition.span,
                    "this condition is written twice",
                )
                .also(other.span, "the first time")
                .help("remove one of them"),
            );
        }
    }
    for not in &written.not {
        if implies(written, not) {
            report.add(
                Diagnostic::error(
                    code::NEVER_MATCHES,
                    not.span,
                    "what must not hold here is demanded beside it",
                )
                .also(written.span, "so this never matches")
                .help("remove the `not` or the condition that it takes back"),
            );
        }
        check(not, report);
    }
}

/// Whether a header cannot fulfil both. Two values can: a header may have several lines.
pub(super) fn excludes(one: &HeaderCondition, other: &HeaderCondition) -> bool {
    let is_absent = |condition: &HeaderCondition| condition.kind == HeaderConditionKind::Absent;
    one.name == other.name && is_absent(one) != is_absent(other)
}

/// Whether every request that fulfils the positive conditions of `one` fulfils `other` too, as far as the text shows.
pub(super) fn implies(one: &ParsedMatch, other: &ParsedMatch) -> bool {
    // A block that is empty was reported; an inner `not` would need the opposite question.
    let has_conditions = other.host.is_some()
        || other.path.is_some()
        || !other.methods.is_empty()
        || !other.headers.is_empty()
        || !other.query.is_empty();
    if !has_conditions || !other.not.is_empty() {
        return false;
    }
    let host = other.host.is_none() || other.host == one.host;
    let path = other
        .path
        .as_ref()
        .is_none_or(|path| one.path.as_ref().is_some_and(|own| own.value == path.value));
    let methods = other.methods.is_empty()
        || !one.methods.is_empty()
            && one
                .methods
                .iter()
                .all(|method| other.methods.contains(method));
    let headers = other.headers.iter().all(|wanted| {
        one.headers.iter().any(|own| {
            own.value == wanted.value
                || own.value.name == wanted.value.name
                    && wanted.value.kind == HeaderConditionKind::Present
                    && own.value.kind != HeaderConditionKind::Absent
        })
    });
    let query = other.query.iter().all(|wanted| {
        one.query.iter().any(|own| {
            own.value.name == wanted.value.name
                && (wanted.value.value.is_none() || own.value.value == wanted.value.value)
        })
    });
    host && path && methods && headers && query
}
