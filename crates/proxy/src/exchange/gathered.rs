//! Pieces of a body that become one.

use bytes::{Bytes, BytesMut};

/// Each piece is copied while it is still in the processor's caches; one alone is not copied at all.
pub(super) enum Gathered {
    One(Bytes),
    Several(BytesMut),
}

impl Gathered {
    pub(super) const fn new(first: Bytes) -> Self {
        Self::One(first)
    }

    /// Adds a piece. When it is the second one there will be so much room, at the least, before anything is copied again.
    pub(super) fn push(&mut self, piece: Bytes, room: usize) {
        match self {
            Self::One(first) if first.is_empty() => *first = piece,
            Self::One(first) => {
                let mut several = BytesMut::with_capacity(room.max(first.len() + piece.len()));
                several.extend_from_slice(first);
                several.extend_from_slice(&piece);
                *self = Self::Several(several);
            }
            Self::Several(several) => several.extend_from_slice(&piece),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(piece) => piece.len(),
            Self::Several(pieces) => pieces.len(),
        }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::One(piece) => piece,
            Self::Several(pieces) => pieces.freeze(),
        }
    }
}
