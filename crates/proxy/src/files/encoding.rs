//! Codings in which files lie beside themselves, and which of them a client takes.

use crate::accept_encoding;
use http::{HeaderMap, HeaderValue};
use portcullis_config::Precompressed;

/// A coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    name: &'static str,
    /// What is behind the name of the file.
    pub(super) suffix: &'static str,
}

impl Encoding {
    pub(super) const fn new(precompressed: &Precompressed) -> Self {
        let (name, suffix) = match precompressed {
            Precompressed::Brotli => ("br", ".br"),
            Precompressed::Gzip => ("gzip", ".gz"),
            Precompressed::Zstd => ("zstd", ".zst"),
        };
        Self { name, suffix }
    }

    pub(super) const fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.name)
    }

    /// What tells its entity tags from those of the file itself.
    pub(super) const fn name(self) -> &'static str {
        self.name
    }
}

/// Those of `offered` that the client takes, the one that it likes most first.
pub(super) fn accepted(headers: &HeaderMap, offered: &[Encoding]) -> Vec<Encoding> {
    let offered = offered.iter().copied();
    accept_encoding::liked(headers, offered, Encoding::name).into_vec()
}
