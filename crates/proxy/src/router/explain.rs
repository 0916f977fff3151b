//! Why a request took its route, in words: what had to hold, and how that ranks among all matches of the configuration.

use portcullis_config::{HeaderConditionKind, HostPattern, Match, PathPattern};
use std::fmt::{self, Write};

/// A match block as a part of its route.
#[derive(Debug)]
pub(crate) struct Reason<'a> {
    matching: &'a Match,
    pub(crate) priority: i64,
    /// Which of the route's match blocks, from 1. 0: the route has none.
    pub(crate) block: usize,
    /// How many it has.
    pub(crate) blocks: usize,
}

impl<'a> Reason<'a> {
    pub(super) const fn new(
        matching: &'a Match,
        priority: i64,
        (block, blocks): (usize, usize),
    ) -> Self {
        Self {
            matching,
            priority,
            block,
            blocks,
        }
    }
}

/// What had to hold, as in `host api.example.com, path-prefix /v1, method GET`. Values of headers and of the query are left
/// out: they may be secrets.
impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        describe(&mut text, self.matching)?;
        f.write_str(if text.is_empty() { "everything" } else { &text })
    }
}

fn describe(text: &mut String, matching: &Match) -> fmt::Result {
    let mut parts = Vec::new();
    parts.extend(matching.host.as_ref().map(|host| match host {
        HostPattern::Exact(name) => format!("host {name}"),
        HostPattern::Wildcard(suffix) => format!("host *{suffix}"),
        HostPattern::Regex(pattern) => format!("host-regex {pattern}"),
    }));
    parts.extend(matching.path.as_ref().map(|path| match path {
        PathPattern::Exact(path) => format!("path {path}"),
        PathPattern::Prefix(path) => format!("path-prefix {path}"),
        PathPattern::Regex(pattern) => format!("path-regex {pattern}"),
    }));
    if !matching.methods.is_empty() {
        parts.push(format!("method {}", matching.methods.join(" ")));
    }
    parts.extend(matching.headers.iter().map(|header| {
        let kind = match header.kind {
            HeaderConditionKind::Present => "present",
            HeaderConditionKind::Absent => "absent",
            HeaderConditionKind::Equals(_) => "with its value",
        };
        format!("header {} {kind}", header.name)
    }));
    parts.extend(matching.query.iter().map(|query| match query.value {
        Some(_) => format!("query {} with its value", query.name),
        None => format!("query {}", query.name),
    }));
    for (position, part) in parts.iter().enumerate() {
        let comma = if position > 0 { ", " } else { "" };
        write!(text, "{comma}{part}")?;
    }
    for not in &matching.not {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}not (")?;
        let mut inner = String::new();
        describe(&mut inner, not)?;
        write!(text, "{inner})")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::{HeaderCondition, QueryCondition};

    #[test]
    fn what_had_to_hold_is_said_without_values() {
        let reason = |matching: &Match| Reason::new(matching, 0, (1, 1)).to_string();
        assert_eq!(reason(&Match::default()), "everything");
        let not = Match {
            methods: vec!["DELETE".into()],
            ..Match::default()
        };
        let matching = Match {
            host: Some(HostPattern::Wildcard(".example.com".into())),
            path: Some(PathPattern::Prefix("/v1".into())),
            methods: vec!["GET".into(), "POST".into()],
            headers: vec![HeaderCondition {
                name: "x-key".into(),
                kind: HeaderConditionKind::Equals("secret".into()),
            }],
            query: vec![QueryCondition {
                name: "beta".into(),
                value: Some("secret".into()),
            }],
            not: vec![not],
        };
        assert_eq!(
            reason(&matching),
            "host *.example.com, path-prefix /v1, method GET POST, header x-key with its value, \
             query beta with its value, not (method DELETE)"
        );
    }
}
