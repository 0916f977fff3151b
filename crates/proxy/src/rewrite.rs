//! What the upstream is asked for instead of what the client asked for. It is worked out when all filters have seen the head of
//! the request; router and agents have seen what the client asked for.
//!
//! What comes out has to be in the one form that paths have here. Nothing is mended: whoever could have a rewrite put together
//! a path that means something else elsewhere is refused.

use crate::{request::Request, router::target, template::Template};
use http::{HeaderValue, header};
use pingora::{Result, http::RequestHeader};
use portcullis_config::{DoubleSlash, PathPolicy, PathRewrite, ReplacementPart};
use regex::Regex;
use std::borrow::Cow;

/// What a route changes.
#[derive(Debug)]
pub(crate) struct Rewrite {
    path: Option<PathChange>,
    host: Option<(Box<str>, HeaderValue)>,
}

#[derive(Debug)]
enum PathChange {
    Whole(Template),
    Prefix { from: Box<str>, to: Box<str> },
    Regex(Regex, Box<[ReplacementPart]>),
}

/// What came of it, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// Path and query; `None` where they stayed.
    pub(crate) target: Option<String>,
    pub(crate) host: Option<Box<str>>,
}

/// A status and the reason for the log.
type Refusal = (u16, &'static str);

impl Rewrite {
    /// # Errors
    /// An expression that does not compile, or a host that is no header value.
    pub(crate) fn new(rewrite: &portcullis_config::Rewrite) -> Result<Self, String> {
        let path = match &rewrite.path {
            None => None,
            Some(PathRewrite::Whole(template)) => Some(PathChange::Whole(Template::new(template))),
            Some(PathRewrite::Prefix { from, to }) => Some(PathChange::Prefix {
                from: from.as_str().into(),
                to: to.as_str().into(),
            }),
            Some(PathRewrite::Regex { pattern, to }) => {
                let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
                Some(PathChange::Regex(regex, to.as_slice().into()))
            }
        };
        let host = match &rewrite.host {
            None => None,
            Some(host) => {
                let value = HeaderValue::from_str(host).map_err(|_| format!("host {host}"))?;
                Some((host.as_str().into(), value))
            }
        };
        Ok(Self { path, host })
    }
}

/// Changes the head of a request as its route says. Returns why it must not go on.
///
/// # Errors
/// A change that the head does not take.
pub(crate) fn apply(head: &mut RequestHeader, request: &mut Request) -> Result<Option<Refusal>> {
    let Some(rewrite) = request
        .route
        .as_ref()
        .and_then(|route| route.rewrite.clone())
    else {
        return Ok(None);
    };
    let Some(begun) = &request.begun else {
        return Ok(None);
    };
    let path = match &rewrite.path {
        None => None,
        Some(change) => match changed(change, request, begun.path()) {
            Some(path) => path,
            None => return Ok(Some(NO_PATH)),
        },
    };
    let limit = begun.connection.listener.limits.uri_bytes.bytes();
    let target = match path {
        None => None,
        Some(path) => match in_form(&path, begun.snapshot().path) {
            Ok(path) => {
                let (_, query) = begun.target.split_at(begun.path().len());
                Some(format!("{path}{query}"))
            }
            Err(refusal) => return Ok(Some(refusal)),
        },
    };
    if target
        .as_ref()
        .is_some_and(|target| target.len() as u64 > limit)
    {
        return Ok(Some((414, "rewritten_path_too_long")));
    }
    if let Some(target) = &target {
        head.set_raw_path(target.as_bytes())?;
    }
    if let Some((_, host)) = &rewrite.host {
        head.insert_header(header::HOST, host.clone())?;
    }
    let host = rewrite.host.as_ref().map(|(host, _)| host.clone());
    if target.is_some() || host.is_some() {
        request.rewritten = Some(Box::new(Rewritten { target, host }));
    }
    Ok(None)
}

const NO_PATH: Refusal = (400, "rewritten_path_invalid");

/// The other path, if there is one; `None` when it cannot be made.
fn changed<'a>(
    change: &PathChange,
    request: &Request,
    path: &'a str,
) -> Option<Option<Cow<'a, str>>> {
    Some(match change {
        PathChange::Whole(template) => {
            let filled = template.fill(request)?;
            Some(filled.to_str().ok()?.to_owned().into())
        }
        PathChange::Prefix { from, to } => {
            other_beginning(path, from, to).map(|path| path.into_owned().into())
        }
        PathChange::Regex(regex, to) => replaced(path, regex, to).map(Cow::Owned),
    })
}

/// In whole segments; both are without their final slash.
fn other_beginning<'a>(path: &'a str, from: &str, to: &str) -> Option<Cow<'a, str>> {
    let rest = path.strip_prefix(from)?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    Some(match (to, rest) {
        ("", "") => Cow::Borrowed("/"),
        ("", rest) => Cow::Borrowed(rest),
        _ => Cow::Owned(format!("{to}{rest}")),
    })
}

/// With something else in the first place where the expression is found.
fn replaced(path: &str, regex: &Regex, to: &[ReplacementPart]) -> Option<String> {
    let captures = regex.captures(path)?;
    let place = captures.get(0)?;
    let mut text = path[..place.start()].to_owned();
    for part in to {
        match part {
            ReplacementPart::Literal(literal) => text.push_str(literal),
            ReplacementPart::Group(group) => {
                text.push_str(captures.get(*group).map_or("", |found| found.as_str()));
            }
        }
    }
    text.push_str(&path[place.end()..]);
    Some(text)
}

/// The path, if it is in the form that the paths of requests are brought into. Slashes that meet where two texts do are as
/// those of a request.
fn in_form(path: &str, policy: PathPolicy) -> Result<Cow<'_, str>, Refusal> {
    let mut path = Cow::Borrowed(path);
    if policy.double_slash == DoubleSlash::Merge {
        while path.contains("//") {
            path = path.replace("//", "/").into();
        }
    }
    match target::normalize(path.as_bytes(), policy) {
        Ok(normal) if *normal == *path && !path.contains('?') => Ok(path),
        _ => Err(NO_PATH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn beginnings_are_whole_segments() {
        for (path, from, to, expected) in [
            ("/v1/users", "/v1", "", Some("/users")),
            ("/v1", "/v1", "", Some("/")),
            ("/v1/", "/v1", "", Some("/")),
            ("/v1", "/v1", "/app", Some("/app")),
            ("/v1/a/b", "/v1", "/app/x", Some("/app/x/a/b")),
            ("/v10", "/v1", "/app", None),
            ("/a", "", "/app", Some("/app/a")),
            ("/", "", "/app", Some("/app/")),
        ] {
            assert_eq!(
                other_beginning(path, from, to).as_deref(),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn groups_are_filled_in_once() {
        let literal = |text: &str| ReplacementPart::Literal(text.to_owned());
        let group = ReplacementPart::Group;
        for (path, pattern, to, expected) in [
            (
                "/users/42/x",
                "^/users/([0-9]+)/",
                vec![literal("/u/"), group(1), literal("/")],
                Some("/u/42/x"),
            ),
            ("/a/b", "/", vec![literal("/x/")], Some("/x/a/b")),
            (
                "/a",
                "(b)?a",
                vec![group(1), literal("c"), group(0)],
                Some("/ca"),
            ),
            ("/a", "b", vec![], None),
        ] {
            let regex = Regex::new(pattern).unwrap();
            assert_eq!(replaced(path, &regex, &to).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let merging = PathPolicy::default();
        let refusing = PathPolicy {
            double_slash: DoubleSlash::Refuse,
            ..merging
        };
        assert_eq!(in_form("/app//x///y", merging).as_deref(), Ok("/app/x/y"));
        assert_eq!(in_form("/app//x", refusing), Err(NO_PATH));
        for path in [
            "",
            "a",
            "/app/../x",
            "/app/.",
            "/..",
            "/%2e%2e/x",
            "/%2E%2E",
            "/a%",
            "/a b",
            "/a\r\nb",
            "/a?b",
            "/a#b",
            "/a\\b",
            "/a%00",
            "/ä",
        ] {
            assert_eq!(in_form(path, merging), Err(NO_PATH), "{path}");
        }
    }

    proptest! {
        /// Whatever is put together, what the upstream gets is a path that means one thing.
        #[test]
        fn every_result_is_a_fixed_point(path in "/[a-z./%?\\\\ 2eEfF]{0,20}") {
            if let Ok(path) = in_form(&path, PathPolicy::default()) {
                let normal = target::normalize(path.as_bytes(), PathPolicy::default());
                prop_assert_eq!(normal.as_deref(), Ok(&*path));
                prop_assert!(!path.contains("/../") && !path.ends_with("/..") && !path.contains("//"));
            }
        }
    }
}
