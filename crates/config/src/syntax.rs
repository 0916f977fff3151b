//! From text to KDL nodes, a piece at a time, with what the parser objects to in our words.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    scan::{self, Piece},
    source::{Span, floor_boundary},
};
use kdl::{KdlDiagnostic, KdlDocument};
use std::ops::Range;

/// Bytes of one piece: a route, an agent with its `config`, a block that is no list. The parser takes seconds for more.
const LARGEST_PIECE: usize = 1 << 20;

/// The pieces of a text that can be parsed, and whether that is all of it. What is wrong with the rest has been
/// reported.
pub(crate) fn pieces(
    source: u32,
    text: &str,
    lists: &[&str],
    report: &Report,
) -> (Vec<Piece>, bool) {
    let mut shape = scan::scan(source, text, lists);
    let complete = shape.mistakes.is_empty();
    if !complete {
        // A mistake spoils the piece that it is in.
        let starts: Vec<usize> = shape
            .mistakes
            .iter()
            .flat_map(|found| &found.labels)
            .map(|label| label.span.start as usize)
            .collect();
        shape
            .pieces
            .retain(|piece| !starts.iter().any(|start| piece.range.contains(start)));
    }
    if shape.cut_short {
        report.not_all_read();
    }
    shape
        .mistakes
        .into_iter()
        .for_each(|mistake| report.add(mistake));
    (shape.pieces, complete)
}

/// A piece as nodes, or `None` when what is wrong with it has been reported.
pub(crate) fn parse(
    source: u32,
    text: &str,
    piece: &Piece,
    report: &Report,
) -> Option<KdlDocument> {
    if piece.range.len() > LARGEST_PIECE {
        report.add(too_large(source, text, piece));
        return None;
    }
    let error = match KdlDocument::parse_v2(&text[piece.range.clone()]) {
        Ok(document) => return Some(document),
        Err(error) => error,
    };
    // What follows the first finding of a piece is mostly the parser looking for its way back.
    report.add(match error.diagnostics.first() {
        Some(found) => diagnostic(source, range(text, piece.range.start, found), found),
        None => Diagnostic::error(
            code::SYNTAX,
            Span::new(source, piece.range.clone()),
            "this is not KDL",
        )
        .help("see https://kdl.dev for the language"),
    });
    None
}

fn too_large(source: u32, text: &str, piece: &Piece) -> Diagnostic {
    let rest = text[piece.range.clone()].trim_start();
    let start = piece.range.end - rest.len();
    let first = rest.split(char::is_whitespace).next().unwrap_or_default();
    Diagnostic::error(
        code::SYNTAX,
        Span::new(source, start..start + first.len()),
        "this is larger than 1MiB",
    )
    .label("with what belongs to it, and comments before it")
    .help("make it smaller; only the lists `listeners`, `routes`, `filters`, `upstreams` and `agents` can be larger")
}

/// The finding's range, on one line and without the white space around it.
fn range(text: &str, offset: usize, found: &KdlDiagnostic) -> Range<usize> {
    let start = floor_boundary(text, offset + found.span.offset());
    let end = floor_boundary(text, start.saturating_add(found.span.len())).max(start);
    let inside = &text[start..end];
    let start = start + (inside.len() - inside.trim_start().len());
    let line = text[start.min(end)..end]
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end();
    start..start + line.len()
}

fn diagnostic(source: u32, range: Range<usize>, found: &KdlDiagnostic) -> Diagnostic {
    let message = in_our_style(found.message.as_deref().unwrap_or("this is not KDL"));
    let help = found.help.as_deref().map(in_our_style);
    Diagnostic::error(code::SYNTAX, Span::new(source, range), message).help(help.unwrap_or_else(
        || "look for a missing quotation mark, semicolon or space before it".to_owned(),
    ))
}

/// Small letter first, no full stop last.
fn in_our_style(sentence: &str) -> String {
    let mut sentence = sentence.trim_end_matches('.').to_owned();
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    sentence
}
