//! Conditional requests (RFC 9110 section 13): what a client has already, and what it wants only if that is still so.

use super::{
    lookup::Opened,
    ranges::{self, Slices},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::{Duration, SystemTime};

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validators {
    /// With its quotes, and `W/` in front while it is weak.
    etag: String,
    /// In whole seconds, as dates of HTTP are.
    modified: Option<SystemTime>,
    /// The date is old enough to tell two states apart.
    is_date_strong: bool,
}

/// The headers that make a request conditional, as far as they are there.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    if_match: Vec<HeaderValue>,
    if_none_match: Vec<HeaderValue>,
    if_modified_since: Option<HeaderValue>,
    if_unmodified_since: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
    range: Option<HeaderValue>,
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Whole,
    Slices(Slices),
    NotModified,
    /// A condition for the request as such does not hold.
    Failed,
    NotSatisfiable,
}

/// Within this time a file could change once more without its date showing it.
const SETTLES: Duration = Duration::from_secs(2);

impl Validators {
    pub(super) fn new(opened: &Opened, now: SystemTime) -> Self {
        let modified = opened.modified;
        let since_epoch = modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let is_settled = modified
            .and_then(|at| now.duration_since(at).ok())
            .is_some_and(|age| age >= SETTLES);
        let nanos = since_epoch.unwrap_or_default().as_nanos();
        let coding = opened.encoding.map_or("", |encoding| encoding.name());
        let dash = if coding.is_empty() { "" } else { "-" };
        let weak = if is_settled { "" } else { "W/" };
        Self {
            etag: format!("{weak}\"{nanos:x}-{:x}{dash}{coding}\"", opened.length),
            modified: since_epoch
                .map(|since| SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())),
            is_date_strong: is_settled,
        }
    }

    pub(super) fn etag_value(&self) -> HeaderValue {
        // Hexadecimal digits and the names of codings are a header's value.
        HeaderValue::from_str(&self.etag).unwrap_or(HeaderValue::from_static("W/\"\""))
    }

    pub(super) fn modified_value(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(httpdate::fmt_http_date(self.modified?)).ok()
    }

    fn is_strong(&self) -> bool {
        !self.etag.starts_with("W/")
    }

    fn opaque(&self) -> &[u8] {
        self.etag.trim_start_matches("W/").as_bytes()
    }

    /// Whether a list of tags names this state.
    fn is_in(&self, lists: &[HeaderValue], strongly: bool) -> bool {
        lists.iter().any(|list| {
            list.as_bytes().trim_ascii() == b"*"
                || tags(list.as_bytes()).any(|(is_weak, tag)| {
                    tag == self.opaque() && !(strongly && (is_weak || !self.is_strong()))
                })
        })
    }
}

/// The tags of a list with their quotes, and whether they are weak. What is none ends it.
fn tags(mut rest: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    std::iter::from_fn(move || {
        let start = rest
            .iter()
            .position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        rest = &rest[start..];
        let is_weak = rest.starts_with(b"W/");
        let quoted = if is_weak { &rest[2..] } else { rest };
        if quoted.first() != Some(&b'"') {
            return None;
        }
        let end = quoted[1..].iter().position(|byte| *byte == b'"')? + 2;
        let (tag, after) = quoted.split_at(end);
        rest = after;
        Some((is_weak, tag))
    })
}

impl Conditions {
    /// Where `whole` is set, slices are not given out.
    pub(super) fn of(headers: &HeaderMap, whole: bool) -> Self {
        let all = |name: HeaderName| headers.get_all(name).iter().cloned().collect();
        let one = |name: HeaderName| headers.get(name).cloned();
        Self {
            if_match: all(header::IF_MATCH),
            if_none_match: all(header::IF_NONE_MATCH),
            if_modified_since: one(header::IF_MODIFIED_SINCE),
            if_unmodified_since: one(header::IF_UNMODIFIED_SINCE),
            if_range: one(header::IF_RANGE),
            range: one(header::RANGE).filter(|_| !whole),
        }
    }

    /// In the order of RFC 9110 section 13.2.2.
    pub(super) fn judge(&self, state: &Validators, length: u64, is_head: bool) -> Outcome {
        if !self.if_match.is_empty() {
            if !state.is_in(&self.if_match, true) {
                return Outcome::Failed;
            }
        } else if let Some(since) = date(self.if_unmodified_since.as_ref())
            && state.modified.is_none_or(|modified| modified > since)
        {
            return Outcome::Failed;
        }
        if !self.if_none_match.is_empty() {
            if state.is_in(&self.if_none_match, false) {
                return Outcome::NotModified;
            }
        } else if let Some(since) = date(self.if_modified_since.as_ref())
            && state.modified.is_some_and(|modified| modified <= since)
        {
            return Outcome::NotModified;
        }
        match &self.range {
            Some(range) if !is_head && self.wants_slice_of(state) => ranges::of(range, length),
            _ => Outcome::Whole,
        }
    }

    /// Whether the state is the one of which a slice is wanted.
    fn wants_slice_of(&self, state: &Validators) -> bool {
        let Some(condition) = &self.if_range else {
            return true;
        };
        let text = condition.as_bytes().trim_ascii();
        if text.starts_with(b"\"") || text.starts_with(b"W/") {
            return state.is_strong() && text == state.etag.as_bytes();
        }
        let since = date(Some(condition));
        state.is_date_strong && since.is_some() && since == state.modified
    }
}

fn date(value: Option<&HeaderValue>) -> Option<SystemTime> {
    httpdate::parse_http_date(value?.to_str().ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn state(etag: &str) -> Validators {
        Validators {
            etag: etag.to_owned(),
            modified: Some(httpdate::parse_http_date(AT).unwrap()),
            is_date_strong: !etag.starts_with("W/"),
        }
    }

    fn judged(etag: &str, lines: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let outcome = Conditions::of(&headers, false).judge(&state(etag), 100, false);
        match outcome {
            Outcome::Slices(_) => "slices".to_owned(),
            other => format!("{other:?}"),
        }
    }

    const STRONG: &str = "\"a,b\"";
    const WEAK: &str = "W/\"a,b\"";

    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
    );

    const CONDITIONS: &[Case] = &[
        (STRONG, &[], "Whole"),
        (STRONG, &[("if-none-match", STRONG)], "NotModified"),
        (STRONG, &[("if-none-match", WEAK)], "NotModified"),
        (WEAK, &[("if-none-match", STRONG)], "NotModified"),
        (STRONG, &[("if-none-match", "*")], "NotModified"),
        (
            STRONG,
            &[("if-none-match", "\"a\", W/\"x\" ,\"a,b\"")],
            "NotModified",
        ),
        (
            STRONG,
            &[("if-none-match", "\"x\""), ("if-none-match", STRONG)],
            "NotModified",
        ),
        (STRONG, &[("if-none-match", "\"a\", \"b\"")], "Whole"),
        (STRONG, &[("if-none-match", "a,b")], "Whole"),
        (STRONG, &[("if-none-match", "\"a,b")], "Whole"),
        (STRONG, &[("if-modified-since", BEFORE)], "Whole"),
        (STRONG, &[("if-modified-since", AT)], "NotModified"),
        (STRONG, &[("if-modified-since", AFTER)], "NotModified"),
        (STRONG, &[("if-modified-since", "yesterday")], "Whole"),
        // The tag counts where both are there.
        (
            STRONG,
            &[("if-none-match", "\"x\""), ("if-modified-since", AFTER)],
            "Whole",
        ),
        (STRONG, &[("if-match", STRONG)], "Whole"),
        (STRONG, &[("if-match", "*")], "Whole"),
        (STRONG, &[("if-match", WEAK)], "Failed"),
        (WEAK, &[("if-match", WEAK)], "Failed"),
        (STRONG, &[("if-match", "\"x\"")], "Failed"),
        (STRONG, &[("if-unmodified-since", BEFORE)], "Failed"),
        (STRONG, &[("if-unmodified-since", AT)], "Whole"),
        (
            STRONG,
            &[("if-match", STRONG), ("if-unmodified-since", BEFORE)],
            "Whole",
        ),
        (
            STRONG,
            &[("if-match", STRONG), ("if-none-match", STRONG)],
            "NotModified",
        ),
        (STRONG, &[("range", "bytes=0-9")], "slices"),
        (STRONG, &[("range", "bytes=200-")], "NotSatisfiable"),
        (
            STRONG,
            &[("range", "bytes=0-9"), ("if-range", STRONG)],
            "slices",
        ),
        (
            STRONG,
            &[("range", "bytes=0-9"), ("if-range", WEAK)],
            "Whole",
        ),
        (WEAK, &[("range", "bytes=0-9"), ("if-range", WEAK)], "Whole"),
        (
            STRONG,
            &[("range", "bytes=0-9"), ("if-range", "\"x\"")],
            "Whole",
        ),
        (
            STRONG,
            &[("range", "bytes=0-9"), ("if-range", AT)],
            "slices",
        ),
        (
            STRONG,
            &[("range", "bytes=0-9"), ("if-range", AFTER)],
            "Whole",
        ),
        (WEAK, &[("range", "bytes=0-9"), ("if-range", AT)], "Whole"),
        (
            STRONG,
            &[("range", "bytes=0-9"), ("if-none-match", STRONG)],
            "NotModified",
        ),
    ];

    #[test]
    fn conditions_are_judged_in_their_order() {
        for &(etag, lines, expected) in CONDITIONS {
            assert_eq!(judged(etag, lines), expected, "{etag} {lines:?}");
        }
    }

    #[test]
    fn slices_are_not_given_out_of_what_must_be_seen_whole() {
        let mut headers = HeaderMap::new();
        headers.insert("range", HeaderValue::from_static("bytes=0-9"));
        let judge =
            |whole, is_head| Conditions::of(&headers, whole).judge(&state("\"a\""), 100, is_head);
        assert!(matches!(judge(false, false), Outcome::Slices(_)));
        assert_eq!(judge(true, false), Outcome::Whole);
        assert_eq!(judge(false, true), Outcome::Whole);
    }
}
