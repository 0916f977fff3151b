//! Names and values of header fields.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::{Diagnostic, code},
    header_pattern::overlap,
    model::{HeaderEdit, Template, TemplatePart},
    protected_header::{PROTECTED, why_protected},
    source::Spanned,
};

/// A valid field name in lower case.
pub(super) fn name(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    check_name(value, &text).then(|| text.to_ascii_lowercase())
}

fn check_name(value: Value<'_>, text: &str) -> bool {
    if is_token(text) {
        return true;
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
    false
}

/// The patterns of a list: names of headers, some of them by their beginning and a `*`. In lower case.
pub(super) fn patterns(node: &mut Node<'_>, what: &str) -> Vec<Spanned<String>> {
    let values = node.arguments(what);
    let mut patterns: Vec<Spanned<String>> = Vec::with_capacity(values.len());
    for value in values {
        let Some(new) = pattern(value).map(|text| value.spanned(text)) else {
            continue;
        };
        match patterns.iter().find(|old| overlap(&old.value, &new.value)) {
            None => patterns.push(new),
            Some(old) => node.report(
                value
                    .error(code::REPEATED, overlap_message(&old.value, &new.value))
                    .label("the second")
                    .also(old.span, "the first")
                    .help("keep one of the two"),
            ),
        }
    }
    patterns
}

fn overlap_message(old: &str, new: &str) -> String {
    if old == new {
        format!("`{new}` is written twice")
    } else {
        format!("`{old}` and `{new}` fit the same headers")
    }
}

fn pattern(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    let beginning = text.strip_suffix('*').unwrap_or(&text);
    if beginning.contains('*') {
        value.report(
            value
                .error(
                    code::INVALID_HEADER,
                    format!("`{text}` has a `*` that is not at its end"),
                )
                .help("write how the names begin and then a `*`, such as \"x-auth-*\""),
        );
        return None;
    }
    (beginning.is_empty() || check_name(value, beginning)).then(|| text.to_ascii_lowercase())
}

/// The patterns of `owns-headers`: none of them fits a header that nobody may change.
pub(super) fn owned(node: &mut Node<'_>) -> Vec<Spanned<String>> {
    changeable(node, Change::Own)
}

/// What an agent does with headers that it may not do with those that are protected.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Own,
    Set,
}

/// The patterns of headers with which an agent does something that nobody may do with those that are protected.
pub(super) fn changeable(node: &mut Node<'_>, change: Change) -> Vec<Spanned<String>> {
    let mut patterns = patterns(node, "the names of headers, such as \"x-user\"");
    patterns.retain(|pattern| {
        let Some(problem) = changeable_problem(pattern, change) else {
            return true;
        };
        node.report(problem);
        false
    });
    patterns
}

fn changeable_problem(pattern: &Spanned<String>, change: Change) -> Option<Diagnostic> {
    let text = &pattern.value;
    let what_it_does = match change {
        Change::Own => "can own",
        Change::Set => "can set",
    };
    let (name, why) = PROTECTED.iter().find_map(|(name, why)| {
        // Of headers that are protected by their beginning, one that people know.
        let (protected, known) = match name.strip_suffix('-') {
            Some(_) => (format!("{name}*"), "x-forwarded-for"),
            None => ((*name).to_owned(), *name),
        };
        overlap(&protected, text).then_some((known, *why))
    })?;
    let (message, help) = if text.ends_with('*') {
        (
            format!("`{text}` fits `{name}` too, which no agent {what_it_does}"),
            "name the headers that the agent sets, or write more of how they begin",
        )
    } else {
        (
            format!("no agent {what_it_does} `{text}`"),
            "remove it, or use a header of another name",
        )
    };
    Some(
        Diagnostic::error(code::PROTECTED_HEADER, pattern.span, message)
            .label(why)
            .help(help),
    )
}

/// Whether it is a token of RFC 9110, as header names and methods are.
pub(crate) fn is_token(text: &str) -> bool {
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
                Diagnostic::error(code::MISSING, span, format!("`{name}` changes nothing"))
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
    let template = value.template_with_headers()?;
    let literals: String = template
        .parts
        .iter()
        .map(|part| match part {
            TemplatePart::Literal(text) => text.as_str(),
            // Something harmless in its place, so that spaces beside it do not count as outer ones.
            TemplatePart::Variable(_) | TemplatePart::RequestHeader(_) => "-",
        })
        .collect();
    check_value(value, &literals).then_some(template)
}
