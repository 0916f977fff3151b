//! Diagnostics as text for people, drawn by miette.

use super::{
    Diagnostic, Label, Severity,
    excerpt::{CONTEXT, Excerpt},
    visible::visible,
};
use crate::source::Sources;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};
use std::fmt;

/// How diagnostics are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Without colour; always the same for the same input.
    #[default]
    Plain,
    /// With the colours of a terminal.
    Coloured,
}

/// Wide enough for a sentence, narrow enough for half a screen. Not the terminal's, so that output can be compared.
const WIDTH: usize = 110;

pub(super) fn render(items: &[&Diagnostic], sources: &Sources, style: Style) -> String {
    let theme = match style {
        Style::Plain => GraphicalTheme::unicode_nocolor(),
        Style::Coloured => GraphicalTheme::unicode(),
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(WIDTH)
        .with_links(false)
        .with_context_lines(CONTEXT)
        .without_syntax_highlighting();
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push('\n');
        }
        let start = text.len();
        if handler
            .render_report(&mut text, &Shown::new(item, sources))
            .is_err()
        {
            // Cannot happen while a String takes everything; the message must come out in any case.
            text.truncate(start);
            text.push_str(&visible(&item.message));
            text.push('\n');
        }
    }
    // Blank lines of the drawing carry the indentation of the lines around them.
    let mut trimmed = String::with_capacity(text.len());
    for line in text.lines() {
        trimmed.push_str(line.trim_end());
        trimmed.push('\n');
    }
    trimmed
}

/// A diagnostic with the text that it points into, as miette wants it. Labels in other files than the first become
/// notes below it.
struct Shown {
    code: Option<&'static str>,
    message: String,
    severity: miette::Severity,
    help: Option<String>,
    source: Option<Excerpt>,
    labels: Vec<LabeledSpan>,
    notes: Vec<Self>,
}

impl Shown {
    fn new(item: &Diagnostic, sources: &Sources) -> Self {
        let home = item.labels.first().map(|label| label.span.source);
        let (here, elsewhere): (Vec<&Label>, Vec<&Label>) = item
            .labels
            .iter()
            .partition(|label| Some(label.span.source) == home);
        let source = excerpt(sources, &here);
        Self {
            code: Some(item.code.as_str()),
            message: visible(&item.message),
            severity: match item.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            },
            help: item.help.as_deref().map(visible),
            labels: labelled(source.as_ref(), &here, true),
            source,
            notes: elsewhere
                .iter()
                .map(|label| Self::note(label, sources))
                .collect(),
        }
    }

    fn note(label: &Label, sources: &Sources) -> Self {
        let source = excerpt(sources, &[label]);
        Self {
            code: None,
            message: visible(&label.text),
            severity: miette::Severity::Advice,
            help: None,
            labels: labelled(source.as_ref(), &[label], false),
            source,
            notes: Vec::new(),
        }
    }
}

/// The lines of labels that are all in one file.
fn excerpt(sources: &Sources, labels: &[&Label]) -> Option<Excerpt> {
    let file = sources.file(labels.first()?.span.source)?;
    Some(Excerpt::new(file, labels))
}

/// The first is where the mistake is.
fn labelled(source: Option<&Excerpt>, labels: &[&Label], with_text: bool) -> Vec<LabeledSpan> {
    let Some(source) = source else {
        return Vec::new();
    };
    let one = |(index, label): (usize, &&Label)| {
        let text = (with_text && !label.text.is_empty()).then(|| visible(&label.text));
        let range = source.range(index);
        let span = (range.start, range.len());
        if index == 0 {
            LabeledSpan::new_primary_with_span(text, span)
        } else {
            LabeledSpan::new_with_span(text, span)
        }
    };
    labels.iter().enumerate().map(one).collect()
}

impl miette::Diagnostic for Shown {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.code
            .map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }

    fn related<'b>(&'b self) -> Option<Box<dyn Iterator<Item = &'b dyn miette::Diagnostic> + 'b>> {
        if self.notes.is_empty() {
            return None;
        }
        Some(Box::new(
            self.notes
                .iter()
                .map(|note| note as &dyn miette::Diagnostic),
        ))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Shown {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnostic::{Report, code},
        source::Span,
    };
    use std::sync::Arc;

    #[test]
    fn colour_changes_nothing_but_colour() {
        let mut sources = Sources::default();
        let source = sources.add(Arc::from("a.kdl"), Arc::from("one two\n"));
        let report = Report::default();
        let span = Span::new(source, 4..7);
        report.add(
            Diagnostic::error(code::SYNTAX, span, "wrong")
                .label("this")
                .help("do it right"),
        );
        let diagnostics = report.finish(sources);
        let (plain, coloured) = (
            diagnostics.render(Style::Plain),
            diagnostics.render(Style::Coloured),
        );
        assert!(
            plain.contains("a.kdl:1:5")
                && plain.contains("one two")
                && plain.contains("do it right"),
            "{plain}"
        );
        assert!(!plain.contains('\u{1b}') && coloured.contains('\u{1b}'));
        let mut uncoloured = String::new();
        for part in coloured.split('\u{1b}') {
            uncoloured += part
                .strip_prefix('[')
                .and_then(|part| part.split_once('m'))
                .map_or(part, |(_, rest)| rest);
        }
        assert_eq!(uncoloured, plain);
    }
}
