//! The configuration of portcullis: KDL text in, one immutable [`Config`] out.
//!
//! Nothing here knows of sockets, clocks or runtimes. Every reference in a [`Config`] is resolved, every default is
//! filled in and every value is checked, so the rest of the program never asks whether a setting makes sense. What is
//! wrong with a text is said all at once, as [`Diagnostics`].
#![warn(missing_docs)]

pub mod diagnostic;
pub mod model;

mod check;
mod files;
mod header_pattern;
mod kdl;
mod load;
mod pattern;
mod protected_header;
mod resolve;
mod scan;
mod source;
mod substitute;
mod syntax;
mod template;
#[cfg(test)]
mod tests;

pub use diagnostic::{Code, Diagnostic, Diagnostics, Label, Severity, Style};
pub use kdl::parse_duration;
pub use load::{Loaded, load_file, load_str};
pub use model::*;
pub use protected_header::why_protected;
pub use source::Span;
