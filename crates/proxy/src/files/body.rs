//! The body of an answer that comes out of a file, a piece at a time.

use super::pool::FilePool;
use bytes::Bytes;
use pingora::{Error, ErrorType, Result};
use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt, sync::Arc};

/// So much is in memory of a file at a time.
pub(super) const PIECE: u64 = 128 << 10;

/// The kind of error when a file is not what it was, or does not come in time.
const UNREADABLE: ErrorType = ErrorType::CustomCode("static_unavailable", 503);

/// What a body is made of.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Bytes),
    Slice { start: u64, length: u64 },
}

/// See the module.
pub(crate) struct FileBody {
    file: Arc<File>,
    parts: VecDeque<Part>,
    pool: Arc<FilePool>,
}

impl FileBody {
    pub(super) fn new(file: File, parts: Vec<Part>, pool: &Arc<FilePool>) -> Self {
        Self {
            file: Arc::new(file),
            parts: parts.into(),
            pool: pool.clone(),
        }
    }

    /// The next piece; `None` behind the last one.
    ///
    /// # Errors
    /// The file is not what it was any more, or cannot be read in time.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let (start, length) = match self.parts.pop_front() {
            None => return Ok(None),
            Some(Part::Bytes(bytes)) => return Ok(Some(bytes)),
            Some(Part::Slice { length: 0, .. }) => return Ok(None),
            Some(Part::Slice { start, length }) => (start, length),
        };
        let now = length.min(PIECE);
        if length > now {
            self.parts.push_front(Part::Slice {
                start: start + now,
                length: length - now,
            });
        }
        let file = self.file.clone();
        let piece = self.pool.run(move || read(&file, start, now)).await;
        match piece {
            Ok(Ok(piece)) => Ok(Some(piece)),
            Ok(Err(error)) => Error::e_because(UNREADABLE, "a file that is served", error),
            Err(_) => Error::e_explain(UNREADABLE, "not in time"),
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_done(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Blocks.
pub(super) fn read(file: &File, start: u64, length: u64) -> io::Result<Bytes> {
    // It is a piece.
    let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut piece, start)?;
    Ok(piece.into())
}
