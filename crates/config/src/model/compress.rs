//! `compress`: responses with a content coding that the client takes.

use super::ByteSize;

/// What is compressed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compress {
    /// Responses that say that they are smaller go as they are. Default 1 KiB; 0 to 1 GiB.
    pub min_size: ByteSize,
    /// The first of those that the client likes best is used. Never empty, none twice. Default: zstd, br, gzip.
    pub algorithms: Vec<Algorithm>,
    /// Media types in lower case, `*` standing for any part of a subtype. Never empty.
    pub types: Vec<String>,
    /// How hard each tries.
    pub levels: CompressLevels,
}

/// A content coding, by its name in HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `zstd`, RFC 8878.
    Zstd,
    /// `br`, RFC 7932.
    Br,
    /// `gzip`, RFC 1952.
    Gzip,
}

impl Algorithm {
    /// As it is written, in HTTP and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// How hard each algorithm tries, in its own scale. A worker compresses what passes through it, so the highest levels, which
/// take ten times as long for a few percent, are not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressLevels {
    /// 1 to 12. Default 3.
    pub zstd: u8,
    /// 0 to 9. Default 4.
    pub br: u8,
    /// 1 to 9. Default 5.
    pub gzip: u8,
}

impl Default for CompressLevels {
    fn default() -> Self {
        Self {
            zstd: 3,
            br: 4,
            gzip: 5,
        }
    }
}
