//! What has to hold beside host and path: methods, headers, the query, and what must not hold.

use super::{RequestLine, has_prefix};
use percent_encoding::percent_decode;
use portcullis_config::{HeaderCondition, HeaderConditionKind, HostPattern, Match, PathPattern};
use regex::Regex;
use std::borrow::Cow;

/// A whole match block that must not hold, tested piece by piece.
#[derive(Debug)]
pub(super) struct FullMatch {
    host: Option<HostTest>,
    path: Option<PathTest>,
    matching: Match,
    not: Box<[Self]>,
}

#[derive(Debug)]
enum HostTest {
    Exact(String),
    Wildcard(String),
    Regex(Regex),
}

#[derive(Debug)]
enum PathTest {
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

/// Those that must not hold, compiled.
///
/// # Errors
/// A pattern is not a regular expression.
pub(super) fn compile_not(matching: &Match) -> Result<Box<[FullMatch]>, regex::Error> {
    matching.not.iter().map(FullMatch::compile).collect()
}

/// Whether everything holds beside host and path. `not` is what is compiled of it.
pub(super) fn hold(matching: &Match, not: &[FullMatch], line: &RequestLine<'_>) -> bool {
    let Match {
        methods,
        headers,
        query,
        ..
    } = matching;
    (methods.is_empty() || methods.iter().any(|method| method == line.method))
        && headers.iter().all(|header| header_holds(header, line))
        && query
            .iter()
            .all(|wanted| query_holds(&wanted.name, wanted.value.as_deref(), line.query))
        && !not.iter().any(|not| not.holds(line))
}

impl FullMatch {
    fn compile(matching: &Match) -> Result<Self, regex::Error> {
        let host = match &matching.host {
            None => None,
            Some(HostPattern::Exact(name)) => Some(HostTest::Exact(name.clone())),
            Some(HostPattern::Wildcard(suffix)) => Some(HostTest::Wildcard(suffix.clone())),
            Some(HostPattern::Regex(pattern)) => Some(HostTest::Regex(Regex::new(pattern)?)),
        };
        let path = match &matching.path {
            None => None,
            Some(PathPattern::Exact(path)) => Some(PathTest::Exact(path.clone())),
            Some(PathPattern::Prefix(prefix)) => Some(PathTest::Prefix(prefix.clone())),
            Some(PathPattern::Regex(pattern)) => Some(PathTest::Regex(Regex::new(pattern)?)),
        };
        Ok(Self {
            host,
            path,
            not: compile_not(matching)?,
            matching: matching.clone(),
        })
    }

    fn holds(&self, line: &RequestLine<'_>) -> bool {
        self.host.as_ref().is_none_or(|host| host.holds(line.host))
            && self.path.as_ref().is_none_or(|path| path.holds(line.path))
            && hold(&self.matching, &self.not, line)
    }
}

impl HostTest {
    fn holds(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            // The suffix begins with a dot; a bare dot before it is not a name.
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Self::Regex(regex) => regex.is_match(host),
        }
    }
}

impl PathTest {
    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => has_prefix(path, prefix),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

fn header_holds(condition: &HeaderCondition, line: &RequestLine<'_>) -> bool {
    match &condition.kind {
        HeaderConditionKind::Present => line.headers.contains_key(&condition.name),
        HeaderConditionKind::Absent => !line.headers.contains_key(&condition.name),
        HeaderConditionKind::Equals(value) => line
            .headers
            .get_all(&condition.name)
            .iter()
            .any(|sent| sent.as_bytes() == value.as_bytes()),
    }
}

/// Whether a parameter is there, and with this value when one is wanted. Names and values are compared decoded.
fn query_holds(name: &str, value: Option<&str>, query: Option<&str>) -> bool {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .any(|(sent_name, sent_value)| {
            *form_decode(sent_name) == *name.as_bytes()
                && value.is_none_or(|value| *form_decode(sent_value) == *value.as_bytes())
        })
}

/// The decoding of `application/x-www-form-urlencoded` (URL standard, section 5.1).
fn form_decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode(spaced.as_bytes())
            .collect::<Vec<u8>>()
            .into();
    }
    percent_decode(text.as_bytes()).into()
}
