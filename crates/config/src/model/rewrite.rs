//! `rewrite`: what the upstream is asked for instead of what the client asked for.

use super::Template;

/// What is changed on the way to the upstream, when all filters have seen the head of the request. At least one of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// None: the path stays. The query stays in any case.
    pub path: Option<PathRewrite>,
    /// What the `Host` header says, lower case, with a port if there is one. None: it stays.
    pub host: Option<String>,
}

/// How a path is changed. Its literals are at most 2048 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// Another path, whatever the old one. May hold request variables.
    Whole(Template),
    /// Another beginning; a path that does not begin so stays. In whole segments.
    Prefix {
        /// Without a slash at the end; empty: every path.
        from: String,
        /// The same.
        to: String,
    },
    /// Something else for the first place that an expression finds; a path in which it finds nothing stays.
    Regex {
        /// A regular expression that compiles.
        pattern: String,
        /// What takes the place.
        to: Vec<ReplacementPart>,
    },
}

/// A piece of what takes the place of what an expression has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplacementPart {
    /// As it is.
    Literal(String),
    /// What a group of the expression has found, 0 to 9; 0 is all of it. The expression has the group.
    Group(usize),
}
