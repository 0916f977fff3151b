//! Names and values of header fields.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::code,
    model::{HeaderEdit, Template, TemplatePart},
};

/// Fields that frame a message, route it or say who the client is. They follow from the message itself, so nobody
/// edits them: not an agent, not the configuration.
const PROTECTED: [(&str, &str); 14] = [
    ("host", "the upstream gets the host that was asked for"),
    ("content-length", "it follows from the body"),
    ("transfer-encoding", "it follows from the body"),
    (
        "connection",
        "it belongs to one connection, and each side has its own",
    ),
    (
        "keep-alive",
        "it belongs to one connection, and each side has its own",
    ),
    (
        "proxy-connection",
        "it belongs to one connection, and each side has its own",
    ),
    (
        "upgrade",
        "it belongs to one connection; `websocket` on a route lets it pass",
    ),
    (
        "te",
        "it belongs to one connection, and each side has its own",
    ),
    ("trailer", "it follows from the body"),
    ("via", "the proxy writes it"),
    (
        "forwarded",
        "it says who the client is, and the proxy knows; see `trusted-proxies`",
    ),
    (
        "x-request-id",
        "it is the same in logs, agents and upstreams; see `trusted-proxies`",
    ),
    (
        "traceparent",
        "it ties traces together, so the proxy writes it",
    ),
    (
        "x-forwarded-",
        "it says who the client is, and the proxy knows; see `trusted-proxies`",
    ),
];

fn why_protected(name: &str) -> Option<&'static str> {
    let is = |pattern: &str| {
        if pattern.ends_with('-') {
            name.starts_with(pattern)
        } else {
            name == pattern
        }
    };
    PROTECTED
        .iter()
        .find(|(pattern, _)| is(pattern))
        .map(|(_, why)| *why)
}

/// A valid field name in lower case.
pub(super) fn name(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    if is_token(&text) {
        return Some(text.to_ascii_lowercase());
    }
    let help = if text.starts_with(':') {
        "pseudo-headers such as `:path` cannot be used; there are `path`, `host` and `method`"
    } else {
        "a name has letters, digits and the characters !#$%&'*+-.^_`|~"
    };
    value.report(
        value
            .error(
                code::INVALID_HEADER,
                format!("`{text}` is not a header name"),
            )
            .help(help),
    );
    None
}

/// Whether it is a token of RFC 9110, as header names and methods are.
pub(super) fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// Whether a text can be the value of a field: no control characters but tabs, no space at either end.
pub(super) fn check_value(value: Value<'_>, text: &str) -> bool {
    let problem = if text.chars().any(|c| c.is_ascii_control() && c != '\t') {
        "a header value cannot have control characters such as line breaks"
    } else if text.trim_matches([' ', '\t']) != text {
        "a header value cannot begin or end with a space"
    } else {
        return true;
    };
    value.report(
        value
            .error(code::INVALID_HEADER, problem)
            .help("remove them"),
    );
    false
}

/// `set`, `add` and `remove` of `request-headers` and `response-headers`.
pub(super) fn edits(node: &mut Node<'_>) -> Vec<HeaderEdit> {
    let span = node.span();
    let name = node.name();
    node.block(|block| {
        if block.is_empty() {
            block.report(
                crate::diagnostic::Diagnostic::error(code::MISSING, span, format!("`{name}` changes nothing"))
                    .help("add lines such as `set \"x-api\" \"v1\"` or `remove \"x-debug\"`, or remove the block"),
            );
        }
        let mut edits = Vec::new();
        block.each(&["set", "add", "remove"], |node| edits.extend(edit(node)));
        edits
    })
}

fn edit(node: &mut Node<'_>) -> Option<HeaderEdit> {
    let value = node.argument("a header name")?;
    let name = editable(value);
    if node.name() == "remove" {
        return Some(HeaderEdit::Remove(name?));
    }
    let value = node.argument("a header name and a value")?;
    let template = header_template(value);
    let (name, template) = (name?, template?);
    Some(if node.name() == "set" {
        HeaderEdit::Set(name, template)
    } else {
        HeaderEdit::Add(name, template)
    })
}

fn editable(value: Value<'_>) -> Option<String> {
    let name = name(value)?;
    let Some(why) = why_protected(&name) else {
        return Some(name);
    };
    value.report(
        value
            .error(
                code::PROTECTED_HEADER,
                format!("`{name}` cannot be changed"),
            )
            .label(why)
            .help("remove this line, or use a header of another name"),
    );
    None
}

fn header_template(value: Value<'_>) -> Option<Template> {
    let template = value.template()?;
    let literals: String = template
        .parts
        .iter()
        .map(|part| match part {
            TemplatePart::Literal(text) => text.as_str(),
            // Something harmless in its place, so that spaces beside it do not count as outer ones.
            TemplatePart::Variable(_) => "-",
        })
        .collect();
    check_value(value, &literals).then_some(template)
}
