//! Where in which file something was written.

use std::{fmt, sync::Arc};

/// A place in a configuration file, for warnings that come after loading. Displayed as `file:line:column`.
///
/// Two places are always equal: a configuration that was moved or reformatted means the same, and comparing an old
/// [`Config`](super::Config) with a new one must find only differences of meaning.
#[derive(Clone)]
pub struct Place {
    /// The file as it was named on the command line or found by `include`.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl PartialEq for Place {
    // Deliberate, see the type: places take no part in comparisons.
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

impl Default for Place {
    /// A place for things that were made in code.
    fn default() -> Self {
        Self {
            file: Arc::from("(code)"),
            line: 1,
            column: 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
