//! What the language will have and the program has not yet.

use crate::{
    diagnostic::{Diagnostic, code},
    source::Span,
};

/// Something that the language will have and this program has not.
pub(crate) struct Later {
    /// How it is written.
    pub(crate) name: &'static str,
    /// What to do until then.
    pub(crate) remedy: &'static str,
}

impl Later {
    /// The remedy is to leave it out.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self::with_remedy(name, "leave it out: this version would not act on it")
    }

    pub(crate) const fn with_remedy(name: &'static str, remedy: &'static str) -> Self {
        Self { name, remedy }
    }

    pub(crate) fn diagnostic(&self, span: Span) -> Diagnostic {
        Diagnostic::error(
            code::NOT_SUPPORTED_YET,
            span,
            format!("`{}` is not supported yet", self.name),
        )
        .help(self.remedy)
    }
}
