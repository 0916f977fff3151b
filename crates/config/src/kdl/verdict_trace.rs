//! `verdict-trace …`: who may see verdicts. The tokens are written here or in files of their own, and shown nowhere.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::code,
    files,
    model::{Secret, VerdictTrace},
};
use std::ops::RangeInclusive;

/// Bytes of a token. Fewer could be guessed; more would not fit beside other headers.
const LENGTH: RangeInclusive<usize> = 16..=1024;

const EXAMPLE: &str = "make one with `openssl rand -hex 32`";

pub(super) fn verdict_trace(node: &mut Node<'_>) -> Option<VerdictTrace> {
    node.hide_values();
    let written = [node.property("token"), node.property("token-file")];
    let previous = [
        node.property("previous-token"),
        node.property("previous-token-file"),
    ];
    if written.iter().all(Option::is_none) {
        node.report(
            node.error(code::MISSING, "`verdict-trace` needs a token")
                .label("has none")
                .help("write token-file=\"…\", or token=\"…\""),
        );
    }
    let token = one_of(written);
    let before = one_of(previous);
    if let (Some(token), Some(before)) = (&token, &before)
        && token == before
    {
        node.report(
            node.error(code::CONTRADICTION, "both tokens are the same")
                .help("remove the previous one, or make a new one"),
        );
    }
    Some(VerdictTrace {
        token: token?,
        previous_token: before,
    })
}

/// A token, which is written here or in a file.
pub(super) fn one_of([here, file]: [Option<Value<'_>>; 2]) -> Option<Secret> {
    if let (Some(here), Some(file)) = (here, file) {
        file.report(
            file.error(code::CONTRADICTION, "the token is written twice")
                .also(here.span(), "the first time")
                .help("keep one of the two"),
        );
        return None;
    }
    match (here, file) {
        (Some(here), _) => checked(here.text()?, here),
        (None, Some(file)) => checked(read(file)?, file),
        (None, None) => None,
    }
}

/// The text of a file without the line break at its end, which editors and shells put there.
fn read(value: Value<'_>) -> Option<String> {
    let path = value.path()?;
    let error = match files::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) => {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            return Some(text.strip_suffix('\r').unwrap_or(text).to_owned());
        }
        Ok(Err(_)) => "it is not UTF-8".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("cannot read the token in `{}`: {error}", path.display());
    value.report(value.error(code::FILE, message).help(format!(
        "write the token into this file and let only this program read it; {EXAMPLE}"
    )));
    None
}

fn checked(token: String, value: Value<'_>) -> Option<Secret> {
    let message = if !LENGTH.contains(&token.len()) {
        let (least, most) = (LENGTH.start(), LENGTH.end());
        format!(
            "this token has {} bytes, and one has {least} to {most}",
            token.len()
        )
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        "a token has letters, digits and signs of ASCII only, and no white space".to_owned()
    } else {
        return Some(Secret::from(token));
    };
    value.report(value.error(code::INVALID_VALUE, message).help(EXAMPLE));
    None
}
