//! `rewrite { … }`: what the upstream is asked for instead of what the client asked for.

use super::{
    condition,
    cursor::{Block, Node},
    value::Value,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{PathRewrite, ReplacementPart, Rewrite, TemplatePart, Variable},
    source::{Span, Spanned},
};
use regex::Regex;

/// Bytes of what takes the place of a path, without what is filled in.
const LONGEST: usize = 2048;
/// Stands for what is filled in per request, which can be anything that a path can have in it.
const FILLED_IN: &str = "*";

pub(super) fn rewrite(node: &mut Node<'_>) -> Option<Spanned<Rewrite>> {
    let (is_empty, rewrite) = node.block(|block| {
        let rewrite = Rewrite {
            path: path(block),
            host: block.one("host", host),
        };
        (block.is_empty(), rewrite)
    });
    if is_empty {
        node.report(
            node.error(code::MISSING, "this `rewrite` changes nothing")
                .help("add a line such as `path-prefix \"/v1\" to=\"/\"` or `host \"backend.internal\"`"),
        );
    }
    Some(Spanned {
        value: rewrite,
        span: node.span(),
    })
}

/// One of the ways to change a path.
fn path(block: &mut Block<'_>) -> Option<PathRewrite> {
    let mut found: Option<(Span, Option<PathRewrite>)> = None;
    let context = block.context();
    block.each(&["path", "path-prefix", "path-regex"], |node| {
        let rewrite = match node.name() {
            "path" => whole(node),
            "path-prefix" => prefix(node),
            _ => expression(node),
        };
        match &found {
            None => found = Some((node.span(), rewrite)),
            Some((first, _)) => context.report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    node.span(),
                    "a path is rewritten in one way",
                )
                .label("the second")
                .also(*first, "the first")
                .help("keep one of them; for several kinds of paths write several routes"),
            ),
        }
    });
    found.and_then(|(_, rewrite)| rewrite)
}

fn whole(node: &mut Node<'_>) -> Option<PathRewrite> {
    let value = node.argument("a path, such as \"/new{request.path}\"")?;
    let template = value.template()?;
    let shown = |part: &TemplatePart| match part {
        TemplatePart::Literal(text) => text.clone(),
        TemplatePart::Variable(_) | TemplatePart::RequestHeader(_) => FILLED_IN.to_owned(),
    };
    let starts_well = match template.parts.first() {
        Some(TemplatePart::Literal(text)) => text.starts_with('/'),
        Some(TemplatePart::Variable(variable)) => *variable == Variable::RequestPath,
        Some(TemplatePart::RequestHeader(_)) | None => false,
    };
    let path: String = template.parts.iter().map(shown).collect();
    let template = Some(template).filter(|_| is_path(&path, starts_well, value));
    template.map(PathRewrite::Whole)
}

fn prefix(node: &mut Node<'_>) -> Option<PathRewrite> {
    let value = node.argument("the beginning of a path, such as \"/v1\"");
    let to = replacement(node);
    let (value, to) = (value?, to?);
    let (from, text) = (value.text(), to.text());
    let (from, text) = (from?, text?);
    let both =
        is_path(&from, from.starts_with('/'), value) && is_path(&text, text.starts_with('/'), to);
    both.then(|| PathRewrite::Prefix {
        from: without_slash(from),
        to: without_slash(text),
    })
}

fn expression(node: &mut Node<'_>) -> Option<PathRewrite> {
    let value = node.argument("an expression, such as #\"^/users/([0-9]+)$\"#");
    let to = replacement(node);
    let (value, to) = (value?, to?);
    let (pattern, text) = (condition::regex(value), to.text());
    let (pattern, text) = (pattern?, text?);
    // It was compiled just now.
    let groups = Regex::new(&pattern).ok()?.captures_len();
    let parts = match parts(&text, groups) {
        Ok(parts) => parts,
        Err(message) => {
            to.report(to.error(code::INVALID_VALUE, message).help(
                "write $1 to $9 for what groups of the expression have found, $0 for all of it, $$ for a dollar sign",
            ));
            return None;
        }
    };
    let path: String = parts
        .iter()
        .map(|part| match part {
            ReplacementPart::Literal(text) => text.as_str(),
            ReplacementPart::Group(_) => FILLED_IN,
        })
        .collect();
    // What is in front of the place that is found may begin the path.
    is_path(&path, true, to).then_some(PathRewrite::Regex { pattern, to: parts })
}

/// The text with the groups that stand in it.
fn parts(text: &str, groups: usize) -> Result<Vec<ReplacementPart>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '$' {
            literal.push(c);
            continue;
        }
        match rest.next() {
            Some('$') => literal.push('$'),
            Some(digit) if digit.is_ascii_digit() => {
                let group = digit as usize - '0' as usize;
                if group >= groups {
                    return Err(format!("the expression has no group {group}"));
                }
                if !literal.is_empty() {
                    parts.push(ReplacementPart::Literal(std::mem::take(&mut literal)));
                }
                parts.push(ReplacementPart::Group(group));
            }
            _ => return Err("a dollar sign has a digit behind it, or another one".to_owned()),
        }
    }
    if !literal.is_empty() {
        parts.push(ReplacementPart::Literal(literal));
    }
    Ok(parts)
}

/// What takes the place of what is found.
fn replacement<'a>(node: &mut Node<'a>) -> Option<Value<'a>> {
    let to = node.property("to");
    if to.is_none() {
        let name = node.name();
        node.report(
            node.error(code::MISSING, format!("`{name}` does not say what to"))
                .help("add what takes its place, such as `to=\"/\"`"),
        );
    }
    to
}

fn is_path(path: &str, starts_well: bool, value: Value<'_>) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"?#\\\"<>^`{|}".contains(&byte);
    let has_dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    let help = if !starts_well {
        "a path begins with a slash"
    } else if path.contains('?') {
        "leave out the question mark: the query of the request stays as it is"
    } else if !path.bytes().all(allowed) {
        "write other characters than letters, digits and the usual signs as %XX"
    } else if has_dots {
        "write it without `.` and `..`"
    } else if path.contains("//") {
        "write one slash at a time"
    } else if path.len() > LONGEST {
        "write 2048 characters at most"
    } else {
        return true;
    };
    value.report(
        value
            .error(code::INVALID_VALUE, "this is not a path")
            .help(help),
    );
    false
}

/// A prefix means the same with and without its final slash.
fn without_slash(mut text: String) -> String {
    if text.ends_with('/') {
        text.pop();
    }
    text
}

fn host(node: &mut Node<'_>) -> Option<String> {
    let value = node.argument("a host, such as \"backend.internal\"")?;
    let text = value.nonempty_text()?.to_ascii_lowercase();
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        _ => (text.as_str(), None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if condition::is_host(name) && port.is_none_or(is_port) {
        return Some(text);
    }
    value.report(
        value
            .error(code::INVALID_VALUE, format!("`{text}` is not a host"))
            .help("write a name or an address, with a port if there is one: \"backend.internal:8080\""),
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_literals_and_groups() {
        let literal = |text: &str| ReplacementPart::Literal(text.to_owned());
        let group = ReplacementPart::Group;
        for (text, expected) in [
            ("", vec![]),
            ("/a", vec![literal("/a")]),
            ("/a/$1", vec![literal("/a/"), group(1)]),
            ("$2$1/$$x", vec![group(2), group(1), literal("/$x")]),
            ("$0", vec![group(0)]),
        ] {
            assert_eq!(parts(text, 3), Ok(expected), "{text}");
        }
        for text in ["$", "$x", "$3", "a$"] {
            assert!(parts(text, 3).is_err(), "{text}");
        }
    }
}
