//! `static`: files of a folder.

use std::path::PathBuf;

/// A folder whose files are the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFiles {
    /// The folder. Nothing outside of it is ever served, wherever symbolic links lead.
    pub root: PathBuf,
    /// What answers for a folder: the name of a file in it. Default `index.html`.
    pub index: String,
    /// What answers where there is no such file: the path of a file below the root. Default None: 404.
    pub fallback: Option<String>,
    /// Codings in which a file may lie beside itself, the one that is preferred first. Default none.
    pub precompressed: Vec<Precompressed>,
    /// Whether names that begin with a dot are served. Default false: only those below `/.well-known`.
    pub dot_files: bool,
}

/// A coding of files that were compressed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precompressed {
    /// `NAME.br`.
    Brotli,
    /// `NAME.gz`.
    Gzip,
    /// `NAME.zst`.
    Zstd,
}
