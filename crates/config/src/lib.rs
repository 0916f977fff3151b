//! The configuration of portcullis: KDL text in, one immutable [`Config`] out.
//!
//! Nothing here knows of sockets, clocks or runtimes. Every reference in a [`Config`] is resolved, every default is
//! filled in and every value is checked, so the rest of the program never asks whether a setting makes sense.
#![warn(missing_docs)]

pub mod model;

pub use model::*;
