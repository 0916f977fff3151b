//! Reading and writing a socket by polls, with bounded buffers. Both ends of a
//! connection use it.

mod socket;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

pub(crate) use socket::{Socket, tune};

/// How much room is made before each read.
const READ_BYTES: usize = 16 << 10;
/// A buffer that has grown beyond this is given back when it is empty.
const KEEP_BYTES: usize = 256 << 10;
/// Pieces that are given to the system at once.
const MOST_SLICES: usize = 32;

/// What has come in and is not yet decoded. It grows as bytes arrive, never
/// by what a frame claims.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    pub(crate) bytes: BytesMut,
}

impl Inbound {
    /// Reads once; 0 is the end of the stream.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP_BYTES {
            self.bytes = BytesMut::new();
        }
        self.bytes.reserve(READ_BYTES);
        // The future keeps nothing between polls, so it may be made anew.
        pin!(stream.read_buf(&mut self.bytes)).poll(cx)
    }

    /// Reads once, and takes the end of the stream for an error.
    pub(crate) async fn read(&mut self, stream: &mut Socket) -> io::Result<()> {
        match std::future::poll_fn(|cx| self.poll_read(stream, cx)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Frames that wait to be written. Large pieces of bodies are not copied into
/// the rest but stand beside it, at their places.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pub(crate) bytes: Vec<u8>,
    /// By the number of `bytes` before them.
    large: VecDeque<(usize, Bytes)>,
    large_bytes: usize,
}

impl Frames {
    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.large_bytes
    }

    /// Adds what belongs behind everything that is there.
    pub(crate) fn push_large(&mut self, data: Bytes) {
        self.large_bytes += data.len();
        self.large.push_back((self.bytes.len(), data));
    }

    /// Moves everything of another queue behind this one.
    pub(crate) fn append(&mut self, other: &mut Self) {
        let before = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        let large = other.large.drain(..);
        self.large
            .extend(large.map(|(at, data)| (before + at, data)));
        self.large_bytes += std::mem::take(&mut other.large_bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
        }
        self.large.clear();
        self.large_bytes = 0;
    }
}

/// Frames that are being written.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) frames: Frames,
    /// Of the bytes beside the large ones.
    written: usize,
    /// The socket may still hold some of what it was given, as TLS does.
    unflushed: bool,
}

impl Outbound {
    /// How much is still to be written.
    pub(crate) fn remaining(&self) -> usize {
        self.frames.len() - self.written
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_done(&self) -> bool {
        self.remaining() == 0 && !self.unflushed
    }

    /// Writes until nothing is left.
    pub(crate) fn poll_flush(
        &mut self,
        stream: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.remaining() > 0 {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let count = self.fill(&mut slices);
            let stream = Pin::new(&mut *stream);
            let written = match &slices[..count] {
                [only] => ready!(stream.poll_write(cx, only))?,
                several => ready!(stream.poll_write_vectored(cx, several))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        self.written = 0;
        self.frames.clear();
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until nothing is left.
    pub(crate) async fn flush(&mut self, stream: &mut Socket) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(stream, cx)).await
    }

    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut places = slices.iter_mut();
        let mut count = 0;
        let mut at = self.written;
        let mut add = |slice: &'a [u8]| {
            if !slice.is_empty()
                && let Some(place) = places.next()
            {
                *place = IoSlice::new(slice);
                count += 1;
            }
        };
        for (before, data) in self.frames.large.iter().take(MOST_SLICES) {
            add(&self.frames.bytes[at..*before]);
            add(data);
            at = *before;
        }
        add(&self.frames.bytes[at..]);
        count
    }

    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let frames = &mut self.frames;
            let next = frames
                .large
                .front()
                .map_or(frames.bytes.len(), |(at, _)| *at);
            let small = written.min(next - self.written);
            self.written += small;
            written -= small;
            let Some((_, data)) = frames.large.front_mut().filter(|_| written > 0) else {
                return;
            };
            let large = written.min(data.len());
            data.advance(large);
            let is_empty = data.is_empty();
            frames.large_bytes -= large;
            written -= large;
            if is_empty {
                frames.large.pop_front();
            }
        }
    }
}

/// Milliseconds since 1970, for messages that say when they were sent.
pub(crate) fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left to be written, in its order.
    fn left(outbound: &Outbound) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); MOST_SLICES];
        let count = outbound.fill(&mut slices);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn large_pieces_keep_their_places_however_they_are_written() {
        let mut frames = Frames::default();
        frames.bytes.extend_from_slice(b"ab");
        frames.push_large(Bytes::from_static(b"LARGE"));
        let mut more = Frames::default();
        more.push_large(Bytes::from_static(b"FIRST"));
        more.bytes.extend_from_slice(b"cd");
        more.push_large(Bytes::from_static(b"LAST"));
        frames.append(&mut more);
        assert_eq!(more.len(), 0);
        frames.bytes.extend_from_slice(b"e");
        let whole = b"abLARGEFIRSTcdLASTe";
        assert_eq!(frames.len(), whole.len());
        for step in 1..=whole.len() {
            let mut outbound = Outbound::default();
            outbound.frames.append(&mut Frames {
                bytes: frames.bytes.clone(),
                large: frames.large.clone(),
                large_bytes: frames.large_bytes,
            });
            let mut done = 0;
            while outbound.remaining() > 0 {
                assert_eq!(left(&outbound), whole[done..], "{step}");
                let written = step.min(whole.len() - done);
                outbound.advance(written);
                done += written;
                assert_eq!(outbound.remaining(), whole.len() - done);
            }
        }
    }
}
