//! What is wrong with a configuration: all of it, each with its place, a code, and what to do about it.

pub mod code;
mod excerpt;
mod render;
mod suggest;
mod visible;

pub use code::Code;
pub use render::Style;
pub(crate) use suggest::{did_you_mean, list};

use crate::{
    model::Place,
    source::{Sources, Span},
};
use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::Arc,
};
use visible::clip;

/// Diagnostics that are drawn; nobody reads more at once.
const MOST_DRAWN: usize = 100;
/// Diagnostics of one severity that are kept.
const MOST_KEPT: usize = 1000;
/// Bytes of a message or of the words at a label. Names and values of the text are in them, whatever their length.
const MOST_MESSAGE: usize = 600;
/// Bytes of a remedy; some list names.
const MOST_HELP: usize = 1200;
/// Places of one diagnostic.
const MOST_LABELS: usize = 16;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not do what was meant.
    Warning,
}

/// A place that a diagnostic points to, and what to say there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// A few words; may be empty.
    pub text: String,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of mistake it is. Stable over releases.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence, lower case, no full stop. Of a very long one the middle is left out.
    pub message: String,
    /// The place of the mistake first, then places that explain it, 16 at most in all. Never empty.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(crate) fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, span, message.into())
    }

    pub(crate) fn warning(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, span, message.into())
    }

    fn new(severity: Severity, code: Code, span: Span, message: String) -> Self {
        Self {
            code,
            severity,
            message: clip(message, MOST_MESSAGE),
            labels: vec![Label {
                span,
                text: String::new(),
            }],
            help: None,
        }
    }

    /// What to say at the place of the mistake.
    pub(crate) fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(first) = self.labels.first_mut() {
            first.text = clip(text.into(), MOST_MESSAGE);
        }
        self
    }

    /// Another place that explains the mistake.
    pub(crate) fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        if self.labels.len() < MOST_LABELS {
            self.labels.push(Label {
                span,
                text: clip(text.into(), MOST_MESSAGE),
            });
        }
        self
    }

    /// What to do about it.
    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(clip(text.into(), MOST_HELP));
        self
    }

    fn sort_key(&self) -> Option<Span> {
        self.labels.first().map(|label| label.span)
    }
}

/// Where the parts of the loader put what they find. Shared, because the cursors over a file overlap.
#[derive(Debug, Default)]
pub(crate) struct Report {
    found: RefCell<Vec<Diagnostic>>,
    errors: Cell<usize>,
    warnings: Cell<usize>,
    unread: Cell<bool>,
    hidden: RefCell<Vec<Span>>,
}

impl Report {
    /// Whether there is so much wrong that reading on serves nobody.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.errors.get() >= MOST_KEPT
    }

    /// Part of the text was left unread because there was too much wrong before it.
    pub(crate) fn not_all_read(&self) {
        self.unread.set(true);
    }

    /// Shows what stands here to nobody, wherever the lines around it are shown.
    pub(crate) fn hide(&self, span: Span) {
        self.hidden.borrow_mut().push(span);
    }

    pub(crate) fn add(&self, diagnostic: Diagnostic) {
        let counter = self.counter(diagnostic.severity);
        counter.set(counter.get() + 1);
        if counter.get() <= MOST_KEPT {
            self.found.borrow_mut().push(diagnostic);
        }
    }

    /// Adds an error that is only worded when it will be kept. For what a text can be full of.
    pub(crate) fn add_error(&self, word: impl FnOnce() -> Diagnostic) {
        if self.errors.get() < MOST_KEPT {
            self.add(word());
        } else {
            self.errors.set(self.errors.get() + 1);
        }
    }

    fn counter(&self, severity: Severity) -> &Cell<usize> {
        match severity {
            Severity::Error => &self.errors,
            Severity::Warning => &self.warnings,
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors.get() > 0
    }

    /// What was found first, in the order of the text, and the texts if there is anything to show in them.
    pub(crate) fn finish(&self, mut sources: Sources) -> Diagnostics {
        let mut items = self.found.take();
        let left_out = |severity| self.counter(severity).take().saturating_sub(MOST_KEPT);
        let (errors, warnings) = (left_out(Severity::Error), left_out(Severity::Warning));
        items.sort_by_key(Diagnostic::sort_key);
        items.dedup();
        let sources = if items.is_empty() {
            Sources::default()
        } else {
            for span in self.hidden.take() {
                sources.hide(span);
            }
            sources.hide_tokens();
            sources
        };
        Diagnostics {
            items,
            errors_left_out: errors,
            warnings_left_out: warnings,
            unread: self.unread.get(),
            sources: Arc::new(sources),
        }
    }
}

/// What is wrong with a configuration, in the order of its text: of errors and of warnings the first thousand, and
/// how many more there are.
#[derive(Clone, Default)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    errors_left_out: usize,
    warnings_left_out: usize,
    unread: bool,
    sources: Arc<Sources>,
}

impl Diagnostics {
    /// All that are kept.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.items.iter()
    }

    /// How many there are, with those that are not kept.
    pub fn len(&self) -> usize {
        self.items.len() + self.left_out()
    }

    /// How many are not kept, because there are too many of them.
    pub fn left_out(&self) -> usize {
        self.errors_left_out + self.warnings_left_out
    }

    /// Whether there is nothing wrong.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many are errors, with those that are not kept.
    pub fn error_count(&self) -> usize {
        let kept = self.items.iter();
        let kept = kept.filter(|diagnostic| diagnostic.severity == Severity::Error);
        kept.count() + self.errors_left_out
    }

    /// How many are warnings, with those that are not kept.
    pub fn warning_count(&self) -> usize {
        self.len() - self.error_count()
    }

    /// Where the mistake is.
    pub fn place(&self, diagnostic: &Diagnostic) -> Place {
        diagnostic
            .labels
            .first()
            .map_or_else(Place::default, |label| self.sources.place(label.span))
    }

    /// For people: the first hundred, errors rather than warnings, each with its code, its place as `file:line:column`,
    /// the line of the text and the remedy, and a blank line between them; last, how many more there are. Ends with a
    /// newline unless it is empty.
    pub fn render(&self, style: Style) -> String {
        let errors = self.error_count().min(MOST_DRAWN);
        let mut left = [errors, MOST_DRAWN - errors];
        let mut drawn = Vec::with_capacity(MOST_DRAWN);
        for item in &self.items {
            let left = &mut left[usize::from(item.severity == Severity::Warning)];
            if *left > 0 {
                *left -= 1;
                drawn.push(item);
            }
        }
        let mut text = render::render(&drawn, &self.sources, style);
        text.push_str(&match (self.len() - drawn.len(), self.unread) {
            (0, false) => String::new(),
            (0, true) => "\n… the rest was not read\n".to_owned(),
            (more, false) => format!("\n… and {more} more\n"),
            (more, true) => format!("\n… and {more} more; the rest was not read\n"),
        });
        text
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.items).finish()
    }
}

impl std::error::Error for Diagnostics {}
