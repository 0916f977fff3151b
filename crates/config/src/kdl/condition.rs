//! `match { … }`.

use super::{
    cursor::{Block, Node},
    header,
    value::Value,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{
        HeaderCondition, HeaderConditionKind, HostPattern, Match, PathPattern, QueryCondition,
    },
    source::{Span, Spanned},
};
use regex::Regex;

/// A `match` or `not` block as it is written.
#[derive(Debug, Clone)]
pub(crate) struct ParsedMatch {
    pub(crate) host: Option<HostPattern>,
    pub(crate) path: Option<Spanned<PathPattern>>,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<Spanned<HeaderCondition>>,
    pub(crate) query: Vec<Spanned<QueryCondition>>,
    pub(crate) not: Vec<Self>,
    pub(crate) span: Span,
}

impl ParsedMatch {
    /// Without the places.
    pub(crate) fn into_model(self) -> Match {
        Match {
            host: self.host,
            path: self.path.map(|path| path.value),
            methods: self.methods,
            headers: self
                .headers
                .into_iter()
                .map(|condition| condition.value)
                .collect(),
            query: self
                .query
                .into_iter()
                .map(|condition| condition.value)
                .collect(),
            not: self.not.into_iter().map(Self::into_model).collect(),
        }
    }
}

pub(super) fn conditions(node: &mut Node<'_>) -> ParsedMatch {
    let span = node.span();
    let name = node.name();
    node.block(|block| {
        if block.is_empty() {
            block.report(empty(name, span));
        }
        ParsedMatch {
            host: exclusive(block, &["host", "host-regex"], host),
            path: exclusive(block, &["path", "path-prefix", "path-regex"], path),
            methods: block.one("method", methods).unwrap_or_default(),
            headers: block.many("header", header_condition),
            query: block.many("query", query_condition),
            not: block.many("not", |node| Some(conditions(node))),
            span,
        }
    })
}

fn empty(name: &str, span: Span) -> Diagnostic {
    let help = if name == "match" {
        "leave the block out: a route without one takes every request"
    } else {
        "write what must not hold, such as `not { method \"DELETE\" }`"
    };
    Diagnostic::error(
        code::MISSING,
        span,
        format!("this `{name}` has no conditions"),
    )
    .help(help)
}

/// At most one of several nodes that say the same thing in different ways.
fn exclusive<'a, T>(
    block: &mut Block<'a>,
    names: &[&'static str],
    mut read: impl FnMut(&mut Node<'a>) -> Option<T>,
) -> Option<T> {
    let context = block.context();
    let mut first: Option<(Span, Option<T>)> = None;
    block.each(names, |node| {
        let result = read(node);
        match &first {
            None => first = Some((node.span(), result)),
            Some((earlier, _)) => context.report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    node.span(),
                    format!(
                        "all conditions of a block must hold, and a request has one {}",
                        names[0]
                    ),
                )
                .label("the second")
                .also(*earlier, "the first")
                .help("write two `match` blocks: any of them may hold"),
            ),
        }
    });
    first.and_then(|(_, result)| result)
}

fn host(node: &mut Node<'_>) -> Option<HostPattern> {
    let value = node.argument("a host, such as \"example.com\" or \"*.example.com\"")?;
    refuse_second(node, "hosts");
    if node.name() == "host-regex" {
        return regex(value).map(HostPattern::Regex);
    }
    let text = value.nonempty_text()?.to_ascii_lowercase();
    let invalid = |help: String| {
        value.report(
            value
                .error(code::INVALID_VALUE, format!("`{text}` is not a host"))
                .help(help),
        );
        None
    };
    if text == "*" {
        return invalid("leave it out: without `host` every host matches".to_owned());
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && !text.ends_with(']')
        && (port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return invalid(format!("write it without its port: \"{host}\""));
    }
    let (name, wildcard) = text
        .strip_prefix('*')
        .map_or((text.as_str(), false), |rest| (rest, true));
    if !is_host(name.strip_prefix('.').filter(|_| wildcard).unwrap_or(name))
        || wildcard && !name.starts_with('.')
    {
        return invalid(
            "write a name such as \"example.com\", with `*.` before it for all names below it; other alphabets as \
             punycode; anything else with `host-regex`"
                .to_owned(),
        );
    }
    Some(if wildcard {
        HostPattern::Wildcard(name.to_owned())
    } else {
        HostPattern::Exact(text)
    })
}

pub(super) fn is_host(text: &str) -> bool {
    if let Some(address) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len() <= 253
        && text
            .split('.')
            .all(|label| !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed))
}

fn path(node: &mut Node<'_>) -> Option<Spanned<PathPattern>> {
    let value = node.argument("a path, such as \"/v1\"")?;
    refuse_second(node, "paths");
    if node.name() == "path-regex" {
        return regex(value).map(|text| value.spanned(PathPattern::Regex(text)));
    }
    let mut text = value.nonempty_text()?;
    let invalid = |help: &str| {
        value.report(
            value
                .error(code::INVALID_VALUE, format!("`{text}` is not a path"))
                .help(help),
        );
        None
    };
    if !text.starts_with('/') {
        return invalid("a path begins with a slash");
    }
    if text.contains('?') {
        return invalid("leave out what follows the question mark: there is `query` for it");
    }
    if text.contains(['*', '#']) {
        return invalid("for everything below a path use `path-prefix`, for more `path-regex`");
    }
    if node.name() == "path" {
        return Some(value.spanned(PathPattern::Exact(text)));
    }
    // The same meaning with and without it, so there is one spelling from here on.
    if text.len() > 1 && text.ends_with('/') {
        text.pop();
    }
    Some(value.spanned(PathPattern::Prefix(text)))
}

/// Several arguments would read like "any of them", which is what several `match` blocks are for.
fn refuse_second(node: &mut Node<'_>, what: &str) {
    if let Some(second) = node.optional_argument() {
        second.report(
            second
                .error(
                    code::EXTRA_ARGUMENT,
                    format!("`{}` takes one argument", node.name()),
                )
                .help(format!(
                    "for several {what} write several `match` blocks: any of them may hold"
                )),
        );
        while node.optional_argument().is_some() {}
    }
}

pub(super) fn regex(value: Value<'_>) -> Option<String> {
    let text = value.text()?;
    let Err(error) = Regex::new(&text) else {
        return Some(text);
    };
    let reason = error.to_string();
    // The crate draws the pattern over several lines; the last says what is wrong.
    let reason = reason.lines().last().unwrap_or_default().trim();
    let reason = reason
        .strip_prefix("error: ")
        .unwrap_or(reason)
        .trim_end_matches('.');
    value.report(
        value
            .error(code::INVALID_REGEX, "this regular expression does not compile")
            .label(reason)
            .help("backslashes are easiest in a raw string, such as #\"^/v[0-9]+/\"#; look-around and back-references do not exist"),
    );
    None
}

fn methods(node: &mut Node<'_>) -> Option<Vec<String>> {
    const KNOWN: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let values = node.arguments("methods, such as \"GET\" \"POST\"");
    let mut methods: Vec<String> = Vec::new();
    for value in values {
        let Some(text) = value.text() else { continue };
        let problem = if !header::is_token(&text) {
            value
                .error(code::INVALID_VALUE, format!("`{text}` is not a method"))
                .help("write such as \"GET\"")
        } else if KNOWN.contains(&text.to_ascii_uppercase().as_str())
            && !KNOWN.contains(&text.as_str())
        {
            value
                .error(
                    code::NEVER_MATCHES,
                    format!("methods are case-sensitive, and nobody sends `{text}`"),
                )
                .help(format!("write \"{}\"", text.to_ascii_uppercase()))
        } else if text == "TRACE" {
            value
                .error(
                    code::NEVER_MATCHES,
                    "TRACE is answered with 405 before any route is looked at",
                )
                .help("remove it")
        } else if methods.contains(&text) {
            value
                .error(code::REPEATED, format!("`{text}` is written twice"))
                .help("remove one of them")
        } else {
            methods.push(text);
            continue;
        };
        value.report(problem);
    }
    Some(methods)
}

fn header_condition(node: &mut Node<'_>) -> Option<Spanned<HeaderCondition>> {
    let name = header::name(node.argument("a header name")?);
    let mut kinds = Vec::new();
    if let Some(value) = node.optional_argument() {
        let text = value.text().filter(|text| header::check_value(value, text));
        kinds.push(text.map(HeaderConditionKind::Equals));
    }
    for (property, kind) in [
        ("absent", HeaderConditionKind::Absent),
        ("present", HeaderConditionKind::Present),
    ] {
        let Some(value) = node.property(property) else {
            continue;
        };
        if value.boolean() == Some(false) {
            value.report(
                value
                    .error(
                        code::INVALID_VALUE,
                        format!("`{property}` is #true or not written"),
                    )
                    .help("write `absent=#true` or `present=#true`"),
            );
        }
        kinds.push(Some(kind));
    }
    if kinds.len() > 1 {
        node.report(
            node.error(
                code::CONTRADICTION,
                "a value, `absent` and `present` exclude each other",
            )
            .help("keep one"),
        );
        return None;
    }
    let kind = kinds.pop().unwrap_or(Some(HeaderConditionKind::Present))?;
    Some(Spanned {
        value: HeaderCondition { name: name?, kind },
        span: node.span(),
    })
}

fn query_condition(node: &mut Node<'_>) -> Option<Spanned<QueryCondition>> {
    let name = node
        .argument("the name of a query parameter")?
        .nonempty_text();
    let value = match node.optional_argument() {
        Some(value) => Some(value.text()?),
        None => None,
    };
    Some(Spanned {
        value: QueryCondition { name: name?, value },
        span: node.span(),
    })
}
