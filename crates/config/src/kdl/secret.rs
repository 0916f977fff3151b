//! Secrets, which are written in the configuration or in files of their own.

use super::value::Value;
use crate::{diagnostic::code, files, model::Secret};

/// What a secret is for.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Bytes. Fewer could be guessed.
    pub(super) least: usize,
    pub(super) most: usize,
}

const EXAMPLE: &str = "make one with `openssl rand -hex 32`";

/// A secret, which is written here or in a file.
pub(super) fn one_of([here, file]: [Option<Value<'_>>; 2], kind: Kind) -> Option<Secret> {
    if let (Some(here), Some(file)) = (here, file) {
        file.report(
            file.error(
                code::CONTRADICTION,
                format!("the {} is written twice", kind.name),
            )
            .also(here.span(), "the first time")
            .help("keep one of the two"),
        );
        return None;
    }
    match (here, file) {
        (Some(here), _) => checked(here.text()?, here, kind),
        (None, Some(file)) => checked(read(file, kind)?, file, kind),
        (None, None) => None,
    }
}

/// The text of a file without the line break at its end, which editors and shells put there.
fn read(value: Value<'_>, kind: Kind) -> Option<String> {
    let path = value.path()?;
    let name = kind.name;
    let error = match files::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) => {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            return Some(text.strip_suffix('\r').unwrap_or(text).to_owned());
        }
        Ok(Err(_)) => "it is not UTF-8".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("cannot read the {name} in `{}`: {error}", path.display());
    value.report(value.error(code::FILE, message).help(format!(
        "write the {name} into this file and let only this program read it; {EXAMPLE}"
    )));
    None
}

fn checked(text: String, value: Value<'_>, kind: Kind) -> Option<Secret> {
    let Kind { name, least, most } = kind;
    let message = if !(least..=most).contains(&text.len()) {
        format!(
            "this {name} has {} bytes, and one has {least} to {most}",
            text.len()
        )
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        format!("a {name} has letters, digits and signs of ASCII only, and no white space")
    } else {
        return Some(Secret::from(text));
    };
    value.report(value.error(code::INVALID_VALUE, message).help(EXAMPLE));
    None
}
