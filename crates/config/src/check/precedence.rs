//! Warning: two routes between which only their order in the file decides.
//!
//! Routes are compared by priority, then host, then path, then the number of further conditions. What remains equal is
//! told apart by the order in the file, which is easily changed by accident. Only what the text proves is reported: the
//! same host and the same path, as many conditions, and nothing that keeps a request from fulfilling both.

use super::conditions;
use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedMatch, ParsedRoute},
    model::{HeaderConditionKind, HostPattern, PathPattern},
};
use std::collections::{HashMap, HashSet};

/// Thousands of routes with one path are told apart by a header, and each would be compared with each.
const MOST_COMPARISONS: usize = 1_000_000;

pub(super) fn file_order(parsed: &Parsed, report: &Report) {
    let mut groups: HashMap<Key<'_>, Vec<Entry<'_>>> = HashMap::new();
    let mut comparisons = 0_usize;
    let mut warned: HashSet<&str> = HashSet::new();
    for route in &parsed.routes {
        for entry in entries(route) {
            let group = groups.entry(key(&entry)).or_default();
            for earlier in group.iter() {
                comparisons += 1;
                if comparisons > MOST_COMPARISONS {
                    return;
                }
                let other = earlier.route;
                if !std::ptr::eq(other, route)
                    && undecided(earlier, &entry)
                    && warned.insert(&route.id.value)
                {
                    report.add(warning(other, route));
                }
            }
            group.push(entry);
        }
    }
}

fn warning(first: &ParsedRoute, second: &ParsedRoute) -> Diagnostic {
    let message = format!(
        "only the order in the file decides between the routes `{}` and `{}`",
        first.id.value, second.id.value
    );
    Diagnostic::warning(code::FILE_ORDER, second.span, message)
        .label("a request may match this one too")
        .also(first.span, "this one wins")
        .help("give one of them a `priority`, or conditions that exclude each other")
}

/// One `match` block of a route, or its having none.
struct Entry<'a> {
    route: &'a ParsedRoute,
    conditions: Option<&'a ParsedMatch>,
}

/// What is compared before the number of conditions.
type Key<'a> = (i64, Option<(u8, &'a str)>, Option<(u8, &'a str)>);

fn entries(route: &ParsedRoute) -> Vec<Entry<'_>> {
    if route.matches.is_empty() {
        return vec![Entry {
            route,
            conditions: None,
        }];
    }
    route
        .matches
        .iter()
        .map(|conditions| Entry {
            route,
            conditions: Some(conditions),
        })
        .collect()
}

fn key<'a>(entry: &Entry<'a>) -> Key<'a> {
    let host = entry
        .conditions
        .and_then(|conditions| conditions.host.as_ref())
        .map(|host| match host {
            HostPattern::Exact(text) => (0, text.as_str()),
            HostPattern::Wildcard(text) => (1, text.as_str()),
            HostPattern::Regex(text) => (2, text.as_str()),
        });
    let path = entry
        .conditions
        .and_then(|conditions| conditions.path.as_ref())
        .map(|path| match &path.value {
            PathPattern::Exact(text) => (0, text.as_str()),
            PathPattern::Prefix(text) => (1, text.as_str()),
            PathPattern::Regex(text) => (2, text.as_str()),
        });
    (entry.route.priority, host, path)
}

fn undecided(one: &Entry<'_>, other: &Entry<'_>) -> bool {
    let (Some(first), Some(second)) = (one.conditions, other.conditions) else {
        // A route without conditions has fewer than any that has some.
        return count(one.conditions) == count(other.conditions);
    };
    count(Some(first)) == count(Some(second)) && !disjoint(first, second)
}

fn count(conditions: Option<&ParsedMatch>) -> usize {
    conditions.map_or(0, |written| {
        usize::from(!written.methods.is_empty())
            + written.headers.len()
            + written.query.len()
            + written.not.len()
    })
}

/// Whether no sensible request fulfils both. A request with two values of one header would; it is not counted.
fn disjoint(one: &ParsedMatch, other: &ParsedMatch) -> bool {
    let methods = !one.methods.is_empty()
        && !other.methods.is_empty()
        && !one
            .methods
            .iter()
            .any(|method| other.methods.contains(method));
    let headers = one.headers.iter().any(|first| {
        other.headers.iter().any(|second| {
            let values = match (&first.value.kind, &second.value.kind) {
                (HeaderConditionKind::Equals(first), HeaderConditionKind::Equals(second)) => {
                    first != second
                }
                _ => false,
            };
            conditions::excludes(&first.value, &second.value)
                || first.value.name == second.value.name && values
        })
    });
    let query = one.query.iter().any(|first| {
        other
            .query
            .iter()
            .any(|second| match (&first.value.value, &second.value.value) {
                (Some(one), Some(two)) => first.value.name == second.value.name && one != two,
                _ => false,
            })
    });
    let denied = |holds: &ParsedMatch, denies: &ParsedMatch| {
        denies.not.iter().any(|not| conditions::implies(holds, not))
    };
    methods || headers || query || denied(one, other) || denied(other, one)
}
