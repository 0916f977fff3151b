//! What is told about a single request to those who may know: beside its response, for whoever sends the right token with it,
//! and afterwards to the operator, for a while.

mod explain;
mod header;
mod recent;

pub(crate) use explain::Explained;
pub(crate) use recent::Recent;

use crate::{request::Request, upstream::UpstreamRun};
use http::{
    HeaderName, HeaderValue,
    header::{CACHE_CONTROL, VARY},
};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_agent_protocol::header_name::folded;
use portcullis_config::{Observability, RecentRequests, VerdictTrace};
use smallvec::SmallVec;
use subtle::ConstantTimeEq;

const TOKEN: HeaderName = HeaderName::from_static("x-agent-trace-token");
const TRACE: HeaderName = HeaderName::from_static("x-agent-trace");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// What caches of a kind obey instead of `Cache-Control`; the first one also as the end of a vendor's name (RFC 9213).
const FOR_CACHES_OF_A_KIND: [&str; 2] = ["cdn-cache-control", "surrogate-control"];

/// What of this a configuration wants.
pub(crate) struct Settings {
    tokens: Option<VerdictTrace>,
    /// Requests that were refused or have failed are kept for those who ask.
    pub(crate) keeps_requests: bool,
}

impl Settings {
    /// `has_admin` says whether there is somebody to ask about recent requests.
    pub(crate) fn new(observability: &Observability, has_admin: bool) -> Self {
        Self {
            tokens: observability.verdict_trace.clone(),
            keeps_requests: kept(observability, has_admin).is_some(),
        }
    }

    /// Takes every token out of a request, the right one or not, so that nobody else sees it. Returns whether there was one
    /// and it is right. Without tokens in the configuration it is a header like any other.
    pub(crate) fn take_token(&self, head: &mut RequestHeader) -> bool {
        let Some(tokens) = &self.tokens else {
            return false;
        };
        let is_token = |name: &&HeaderName| {
            name.as_str().len() == TOKEN.as_str().len() && folded(name.as_str()) == TOKEN.as_str()
        };
        let names: SmallVec<[HeaderName; 1]> =
            head.headers.keys().filter(is_token).cloned().collect();
        if names.is_empty() {
            return false;
        }
        let mut given = head.headers.get_all(TOKEN).iter();
        let is_right = match (given.next(), given.next()) {
            (Some(token), None) => is_one_of(tokens, token.as_bytes()),
            // Two could be somebody's who does not know what an earlier proxy has added.
            _ => false,
        };
        for name in names {
            head.remove_header(&name);
        }
        is_right
    }
}

/// How much of recent requests is kept; `None` when nobody could ask for them.
pub(crate) fn kept(observability: &Observability, has_admin: bool) -> Option<RecentRequests> {
    observability.recent_requests.filter(|_| has_admin)
}

/// Takes as long for a wrong token as for a right one of its length.
fn is_one_of(tokens: &VerdictTrace, given: &[u8]) -> bool {
    let is_current = tokens.token.expose().ct_eq(given);
    let previous = tokens.previous_token.as_ref();
    let is_previous = previous.map_or(subtle::Choice::from(0), |token| token.expose().ct_eq(given));
    (is_current | is_previous).into()
}

/// Says in the head of a response what agents have said so far, if the request may know. It is the last to change the head,
/// so that nobody else can speak in our name.
///
/// # Errors
/// The head has no room for more.
pub(crate) fn stamp(
    request: &Request,
    upstream: &UpstreamRun,
    head: &mut ResponseHeader,
) -> Result<()> {
    let Some(begun) = &request.begun else {
        return Ok(());
    };
    if begun.snapshot().trace.tokens.is_none() {
        return Ok(());
    }
    head.remove_header(&TRACE);
    if !request.traced {
        return Ok(());
    }
    head.insert_header(TRACE, header::verdicts(request, begun))?;
    head.append_header(SERVER_TIMING, header::timing(request, begun, upstream))?;
    keep_from_caches(head)
}

/// Caches between us and the client give it to nobody else. `Vary` alone would let them write what a 304 says over what they
/// have stored for others (RFC 9111 section 4.3.4).
fn keep_from_caches(head: &mut ResponseHeader) -> Result<()> {
    let is_for_some = |name: &&HeaderName| {
        let mut known = FOR_CACHES_OF_A_KIND.iter();
        known.any(|known| name.as_str().ends_with(known))
    };
    let names: SmallVec<[HeaderName; 1]> =
        head.headers.keys().filter(is_for_some).cloned().collect();
    for name in names {
        head.remove_header(&name);
    }
    head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    head.append_header(VARY, TOKEN.as_str())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::Secret;

    const RIGHT: &str = "0123456789abcdef";
    const BEFORE: &str = "fedcba9876543210";

    fn settings(previous: Option<&str>) -> Settings {
        Settings {
            tokens: Some(VerdictTrace {
                token: Secret::from(RIGHT.to_owned()),
                previous_token: previous.map(|token| Secret::from(token.to_owned())),
            }),
            keeps_requests: false,
        }
    }

    fn head(lines: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in lines {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn every_token_goes_and_one_right_one_counts() {
        const NAME: &str = "X-Agent-Trace-Token";
        let both = settings(Some(BEFORE));
        for (lines, is_right) in [
            (vec![], false),
            (vec![(NAME, RIGHT)], true),
            (vec![(NAME, BEFORE)], true),
            (vec![(NAME, "0123456789abcdeF")], false),
            (vec![(NAME, "0123456789abcde")], false),
            (vec![(NAME, "0123456789abcdef0")], false),
            (vec![(NAME, "")], false),
            (vec![(NAME, RIGHT), (NAME, RIGHT)], false),
            (vec![(NAME, "wrong"), (NAME, RIGHT)], false),
            (vec![("x_agent_trace_token", RIGHT)], false),
            (vec![(NAME, RIGHT), ("x-agent_trace-token", "no")], true),
        ] {
            let mut head = head(&lines);
            head.append_header("x-agent-trace-tokens", "other").unwrap();
            assert_eq!(both.take_token(&mut head), is_right, "{lines:?}");
            let left: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
            assert_eq!(left, ["x-agent-trace-tokens"], "{lines:?}");
        }
        let mut head = head(&[(NAME, BEFORE)]);
        assert!(!settings(None).take_token(&mut head));
    }

    #[test]
    fn without_tokens_it_is_a_header_like_any_other() {
        let none = Settings {
            tokens: None,
            keeps_requests: true,
        };
        let mut head = head(&[("x-agent-trace-token", RIGHT)]);
        assert!(!none.take_token(&mut head));
        assert!(head.headers.contains_key(TOKEN));
    }
}
