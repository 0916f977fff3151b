//! `${NAME}` and `${NAME:-default}` in quoted strings, from the environment.

use crate::{
    diagnostic::{Diagnostic, code},
    source::Span,
};
use thiserror::Error;

/// What the text is for. In a template, braces that come from the environment or from `$${` are literal, so that the
/// environment cannot bring in request variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Text,
    Template,
}

#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum Wrong {
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    #[error("`${{{0}}}` does not name an environment variable")]
    BadName(String),
    #[error("`${{` has no `}}` after it")]
    Unclosed,
}

impl Wrong {
    pub(crate) fn diagnostic(&self, span: Span) -> Diagnostic {
        match self {
            Self::Unset(name) => Diagnostic::error(code::UNSET_VARIABLE, span, self.to_string())
                .help(format!("set it, or give a default: ${{{name}:-default}}")),
            Self::BadName(_) => Diagnostic::error(code::INVALID_VALUE, span, self.to_string()).help(
                "a name is a letter or `_`, then letters, digits and `_`; for a literal `${` write `$${`",
            ),
            Self::Unclosed => Diagnostic::error(code::INVALID_VALUE, span, self.to_string())
                .help("close it, or write `$${` for a literal `${`"),
        }
    }
}

/// Fills in the variables. A default is taken as it is, without variables in it, and when the variable is not set; a
/// variable that is set and empty stays empty.
pub(crate) fn substitute(
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    purpose: Purpose,
) -> Result<String, Wrong> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push('$');
            push_literal(&mut result, "{", purpose);
            rest = &after[2..];
            continue;
        }
        result.push_str(before);
        let (inside, tail) = after[2..].split_once('}').ok_or(Wrong::Unclosed)?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(Wrong::BadName(inside.to_owned()));
        }
        let value = environment(name).or_else(|| default.map(str::to_owned));
        push_literal(
            &mut result,
            &value.ok_or_else(|| Wrong::Unset(name.to_owned()))?,
            purpose,
        );
        rest = tail;
    }
    result.push_str(rest);
    Ok(result)
}

fn push_literal(result: &mut String, text: &str, purpose: Purpose) {
    match purpose {
        Purpose::Text => result.push_str(text),
        Purpose::Template => result.push_str(&text.replace('{', "{{")),
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte == b'_' || byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "BRACE" => Some("a{client.ip}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, expected) in [
            ("no variables", "no variables"),
            ("x ${HOST} y", "x example.com y"),
            ("${HOST}${HOST}", "example.comexample.com"),
            ("${NONE:-fallback}", "fallback"),
            ("${NONE:-}", ""),
            ("${HOST:-fallback}", "example.com"),
            ("${EMPTY:-fallback}", ""),
            ("$${HOST}", "${HOST}"),
            ("$HOST $ {}", "$HOST $ {}"),
            ("a$${b} ${HOST}", "a${b} example.com"),
            ("\u{e4}${HOST}\u{e4}", "\u{e4}example.com\u{e4}"),
        ] {
            assert_eq!(
                substitute(text, &environment, Purpose::Text).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_variables_are_named() {
        for (text, wrong) in [
            ("${NONE}", Wrong::Unset("NONE".to_owned())),
            ("${}", Wrong::BadName(String::new())),
            ("${1A}", Wrong::BadName("1A".to_owned())),
            ("${A B:-x}", Wrong::BadName("A B:-x".to_owned())),
            ("${HOST", Wrong::Unclosed),
        ] {
            assert_eq!(
                substitute(text, &environment, Purpose::Text),
                Err(wrong),
                "{text}"
            );
        }
    }

    #[test]
    fn the_environment_brings_no_request_variables_into_a_template() {
        let text = substitute(
            "${BRACE} {client.ip} $${x}",
            &environment,
            Purpose::Template,
        );
        assert_eq!(text.as_deref(), Ok("a{{client.ip} {client.ip} ${{x}"));
    }
}
