//! Text that is not KDL: the parser's findings in our words and with places that fit.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    scan,
    source::{Span, floor_boundary},
};
use ::kdl::{KdlDiagnostic, KdlDocument};
use std::ops::Range;

/// The document, or `None` when what is wrong with the text has been reported.
pub(crate) fn parse(source: u32, text: &str, report: &Report) -> Option<KdlDocument> {
    if let Err(diagnostic) = scan::check(source, text) {
        report.add(diagnostic);
        return None;
    }
    let error = match KdlDocument::parse_v2(text) {
        Ok(document) => return Some(document),
        Err(error) => error,
    };
    let mut last_end = 0;
    let mut reported = false;
    for found in &error.diagnostics {
        let range = range(text, found);
        // The parser says the same thing again from further out; the first, innermost one is the useful one.
        if reported && range.start < last_end {
            continue;
        }
        last_end = range.end.max(range.start + 1);
        reported = true;
        report.add(diagnostic(source, text, range, found));
    }
    if !reported {
        report.add(
            Diagnostic::error(
                code::SYNTAX,
                Span::new(source, 0..0),
                "this file is not KDL",
            )
            .help("see https://kdl.dev for the language"),
        );
    }
    None
}

/// The finding's range, on one line and without the white space around it.
fn range(text: &str, found: &KdlDiagnostic) -> Range<usize> {
    let start = floor_boundary(text, found.span.offset());
    let end = floor_boundary(text, found.span.offset().saturating_add(found.span.len())).max(start);
    let inside = &text[start..end];
    let start = start + (inside.len() - inside.trim_start().len());
    let line = text[start.min(end)..end]
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end();
    start..start + line.len()
}

fn diagnostic(source: u32, text: &str, range: Range<usize>, found: &KdlDiagnostic) -> Diagnostic {
    let written = &text[range.clone()];
    let message = found
        .message
        .as_deref()
        .unwrap_or("this is not KDL")
        .trim_end_matches('.');
    let mut message = message.to_owned();
    if let Some(first) = message.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let diagnostic = Diagnostic::error(code::SYNTAX, Span::new(source, range), message);
    match remedy(written).or_else(|| found.help.clone()) {
        Some(help) => diagnostic.help(help),
        None => diagnostic
            .help("text with anything but letters, digits and dashes needs quotation marks"),
    }
}

/// What was probably meant.
fn remedy(written: &str) -> Option<String> {
    let word = written
        .split_whitespace()
        .next()?
        .trim_end_matches([';', '}']);
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (format!("{key}="), value),
        None => (String::new(), word),
    };
    if matches!(value, "true" | "false" | "null") {
        return Some(format!("write {key}#{value}"));
    }
    let begins_with_digit = value.starts_with(|c: char| c.is_ascii_digit());
    let plain = value
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".:/%-_[]".contains(c));
    let needs_quotes = begins_with_digit || value.contains(['/', '[']);
    (needs_quotes && plain && value.len() > 1)
        .then(|| format!("put it in quotation marks: {key}\"{value}\""))
}
