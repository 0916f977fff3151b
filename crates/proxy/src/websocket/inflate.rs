//! Messages that were compressed with permessage-deflate (RFC 7692), inflated frame by frame.

use super::frame::Violation;
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};

/// A small message may become this large, whatever the ratio.
const ALWAYS: u64 = 64 << 10;
/// The room for output grows by as much at a time.
const STEP: usize = 16 << 10;
/// What a sender leaves off at the end of a message (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The messages of one direction, which share a window.
#[derive(Debug)]
pub(super) struct Inflater {
    stream: Decompress,
    max_ratio: u64,
    /// Of the message that has begun.
    compressed: u64,
    inflated: u64,
}

impl Inflater {
    pub(super) fn new(max_ratio: u32) -> Self {
        Self {
            // Of the largest window, which holds for smaller ones as well.
            stream: Decompress::new(false),
            max_ratio: max_ratio.into(),
            compressed: 0,
            inflated: 0,
        }
    }

    /// Inflates what is in the next frame, to at most `most` bytes.
    ///
    /// # Errors
    /// It is not compressed data, or would become too large.
    pub(super) fn frame(&mut self, data: &[u8], fin: bool, most: u64) -> Result<Bytes, Violation> {
        self.compressed += data.len() as u64;
        let mut out = Vec::new();
        self.feed(data, most, &mut out)?;
        if fin {
            self.feed(&TAIL, most, &mut out)?;
            self.compressed = 0;
            self.inflated = 0;
        }
        Ok(out.into())
    }

    fn feed(&mut self, mut data: &[u8], most: u64, out: &mut Vec<u8>) -> Result<(), Violation> {
        loop {
            out.reserve(STEP);
            let (seen, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress_vec(data, out, FlushDecompress::Sync)
                .map_err(|_| Violation::invalid("a compressed message is broken"))?;
            let seen = self.stream.total_in() - seen;
            let made = self.stream.total_out() - made;
            data = &data[usize::try_from(seen).unwrap_or(usize::MAX).min(data.len())..];
            self.inflated += made;
            self.check(out.len() as u64, most)?;
            if status == Status::StreamEnd {
                // A sender may end a block for good; what follows begins anew (RFC 7692 section 7.2.3.4).
                self.stream.reset(false);
            } else if data.is_empty() && out.len() < out.capacity() {
                return Ok(());
            } else if seen == 0 && made == 0 {
                return Err(Violation::invalid("a compressed message is broken"));
            }
            if data.is_empty() && status == Status::StreamEnd {
                return Ok(());
            }
        }
    }

    fn check(&self, frame: u64, most: u64) -> Result<(), Violation> {
        if frame > most {
            return Err(Violation::too_big(
                "a frame that inflates to more than frame-bytes",
            ));
        }
        let allowed = self.compressed.saturating_mul(self.max_ratio).max(ALWAYS);
        if self.inflated > allowed {
            return Err(Violation::too_big(
                "a message that inflates beyond max-ratio",
            ));
        }
        Ok(())
    }
}
