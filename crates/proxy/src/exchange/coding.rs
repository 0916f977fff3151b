//! Content codings, taken off so that agents see what a body says.
//!
//! Whoever sends a body says with a few bytes what it becomes, so that nothing here may grow with what is decoded: a
//! [`Decoder`] writes through a sink of fixed size, and stops as soon as there is more than the caller has room for, or
//! more than the ratio of decoded to encoded bytes allows. Beside the sink a decoder holds what its library keeps of the
//! past of a body: 32 KiB for gzip and deflate, at most 8 MiB for zstd (RFC 9659 allows no more in HTTP) and 16 MiB for
//! br, whose extension for large windows is refused.
//!
//! A body is decoded whole or it is broken: what does not end, and what goes on behind its end, could be read in two ways.

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, enc::StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, header::CONTENT_ENCODING};
use zstd::stream::raw::{self, DParameter, Operation};

/// The coding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// There is none.
    Identity,
    /// One that can be decoded.
    Coded(CodingKind),
    /// Another one, or several.
    Unknown,
}

/// A coding that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodingKind {
    /// `gzip`, also as `x-gzip`: one member or several.
    Gzip,
    /// `deflate`: in the zlib format, or without it, as some send it.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`: one frame or several.
    Zstd,
}

impl Coding {
    /// What all the content-encoding lines of a message say together. `identity` counts for nothing.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(CONTENT_ENCODING).into_iter();
        let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        let mut coding = Self::Identity;
        for name in names.map(<[u8]>::trim_ascii) {
            if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
                continue;
            }
            coding = match (coding, CodingKind::named(name)) {
                (Self::Identity, Some(kind)) => Self::Coded(kind),
                _ => return Self::Unknown,
            };
        }
        coding
    }
}

impl CodingKind {
    fn named(name: &[u8]) -> Option<Self> {
        let names: [(&[u8], Self); 5] = [
            (b"gzip", Self::Gzip),
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
            (b"br", Self::Brotli),
            (b"zstd", Self::Zstd),
        ];
        let known = names
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        known.map(|(_, kind)| kind)
    }
}

/// Why a body cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undecodable {
    /// It is not what its coding says; why, for the log.
    Broken(String),
    /// It becomes larger than there is room, or than the ratio allows.
    Exploding,
}

/// What is decoded at a time.
const SINK_BYTES: usize = 16 << 10;
/// The ratio says nothing about bodies that stay below this.
const RATIO_FREE_BYTES: u64 = 64 << 10;

/// Decodes one body, in pieces as they come. After an error it gives that error again.
pub(crate) struct Decoder {
    form: Form,
    max_ratio: u32,
    encoded: u64,
    decoded: u64,
    sink: Box<[u8]>,
    failure: Option<Undecodable>,
}

impl Decoder {
    /// `max_ratio`: how many decoded bytes there may be for each encoded one so far. It holds from the moment on at which
    /// more than 64 KiB have been decoded.
    ///
    /// # Errors
    /// The library cannot be set up.
    pub(crate) fn new(kind: CodingKind, max_ratio: u32) -> Result<Self, Undecodable> {
        let form = match kind {
            CodingKind::Gzip => Form::Gzip(Gzip::Between),
            CodingKind::Deflate => Form::Deflate(Deflate::Undetermined(Start::NONE)),
            CodingKind::Brotli => Form::Brotli(Brotli::new()),
            CodingKind::Zstd => Form::Zstd(Zstd::new().map_err(Undecodable::Broken)?),
        };
        Ok(Self {
            form,
            max_ratio,
            encoded: 0,
            decoded: 0,
            sink: vec![0; SINK_BYTES].into(),
            failure: None,
        })
    }

    /// Appends what comes out to `out`; at most `room` bytes may be appended, more is [`Undecodable::Exploding`].
    ///
    /// # Errors
    /// The body cannot be decoded. Some of it may have been appended.
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Undecodable> {
        self.encoded += input.len() as u64;
        self.lasting(|decoder| decoder.decode(input, room, out))
    }

    /// The input is complete. A coding that ends in the middle is [`Undecodable::Broken`]; a body without any bytes is
    /// fine and becomes nothing.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub(crate) fn finish(&mut self, room: usize, out: &mut Vec<u8>) -> Result<(), Undecodable> {
        self.lasting(|decoder| {
            decoder.decode(&[], room, out)?;
            match decoder.encoded == 0 || decoder.form.may_end() {
                true => Ok(()),
                false => Err(Undecodable::Broken("it ends in the middle".to_owned())),
            }
        })
    }

    fn lasting(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), Undecodable>,
    ) -> Result<(), Undecodable> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = work(self);
        self.failure = result.as_ref().err().cloned();
        result
    }

    fn decode(
        &mut self,
        mut input: &[u8],
        mut room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Undecodable> {
        // Nothing is left in a library from the piece before.
        let mut is_flushed = true;
        while !(input.is_empty() && is_flushed) {
            let step = self.form.step(input, &mut self.sink);
            let step = step.map_err(Undecodable::Broken)?;
            if step == Step::NOTHING && !input.is_empty() {
                return Err(Undecodable::Broken("it goes on behind its end".to_owned()));
            }
            let decoded = self.sink.get(..step.written).unwrap_or_default();
            room = room
                .checked_sub(decoded.len())
                .ok_or(Undecodable::Exploding)?;
            append(out, decoded, room);
            self.decoded += decoded.len() as u64;
            let allowed = self.encoded.saturating_mul(self.max_ratio.into());
            if self.decoded > allowed.max(RATIO_FREE_BYTES) {
                return Err(Undecodable::Exploding);
            }
            input = input.get(step.read..).unwrap_or_default();
            is_flushed = step.written < self.sink.len();
        }
        Ok(())
    }
}

/// Doubles the capacity like the library, but never beyond what may come.
fn append(out: &mut Vec<u8>, decoded: &[u8], room_left: usize) {
    if out.capacity() - out.len() < decoded.len() {
        let ahead = out.len().min(room_left);
        out.reserve_exact(decoded.len() + ahead);
    }
    out.extend_from_slice(decoded);
}

/// Bytes that were taken and given at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    read: usize,
    written: usize,
}

impl Step {
    const NOTHING: Self = Self {
        read: 0,
        written: 0,
    };
}

enum Form {
    Gzip(Gzip),
    Deflate(Deflate),
    Brotli(Brotli),
    Zstd(Zstd),
}

impl Form {
    /// Decodes until the input is used up or the sink is full. Takes nothing of what is behind the end.
    fn step(&mut self, input: &[u8], sink: &mut [u8]) -> Result<Step, String> {
        match self {
            Self::Gzip(gzip) => gzip.step(input, sink),
            Self::Deflate(deflate) => deflate.step(input, sink),
            Self::Brotli(brotli) => brotli.step(input, sink),
            Self::Zstd(zstd) => zstd.step(input, sink),
        }
    }

    /// Whether a body may end here. A body of no bytes may too, which is not asked here.
    fn may_end(&self) -> bool {
        match self {
            Self::Gzip(gzip) => matches!(gzip, Gzip::Between),
            Self::Deflate(deflate) => matches!(deflate, Deflate::Ended),
            Self::Brotli(brotli) => brotli.is_ended,
            Self::Zstd(zstd) => zstd.start.is_some_and(|start| start.is_empty()),
        }
    }
}

/// The first bytes of something, which say what it is.
#[derive(Debug, Clone, Copy)]
struct Start<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Start<N> {
    const NONE: Self = Self {
        bytes: [0; N],
        length: 0,
    };

    fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Takes what is missing, and returns how much it took.
    fn fill(&mut self, input: &[u8]) -> usize {
        let missing = self.bytes.iter_mut().skip(self.length);
        let taken = missing
            .zip(input)
            .map(|(place, byte)| *place = *byte)
            .count();
        self.length += taken;
        taken
    }

    fn complete(&self) -> Option<[u8; N]> {
        (self.length == N).then_some(self.bytes)
    }
}

/// The largest window of deflate, as the base of which it is a power of two.
const DEFLATE_WINDOW_BITS: u8 = 15;

enum Gzip {
    /// Before the first member or behind one.
    Between,
    Member(Decompress),
}

impl Gzip {
    fn step(&mut self, input: &[u8], sink: &mut [u8]) -> Result<Step, String> {
        if matches!(self, Self::Between) && !input.is_empty() {
            *self = Self::Member(Decompress::new_gzip(DEFLATE_WINDOW_BITS));
        }
        let Self::Member(member) = self else {
            return Ok(Step::NOTHING);
        };
        let (step, ended) = inflate(member, input, sink)?;
        if ended {
            *self = Self::Between;
        }
        Ok(step)
    }
}

enum Deflate {
    Undetermined(Start<2>),
    Stream(Decompress),
    Ended,
}

impl Deflate {
    fn step(&mut self, input: &[u8], sink: &mut [u8]) -> Result<Step, String> {
        match self {
            Self::Ended => Ok(Step::NOTHING),
            Self::Undetermined(start) => {
                let read = start.fill(input);
                let Some(bytes) = start.complete() else {
                    return Ok(Step { read, written: 0 });
                };
                let mut stream = Decompress::new(is_zlib(bytes));
                // Two bytes are at most half a dozen decoded ones, so that all of them are taken.
                let (Step { written, .. }, ended) = inflate(&mut stream, &bytes, sink)?;
                *self = match ended {
                    true => Self::Ended,
                    false => Self::Stream(stream),
                };
                Ok(Step { read, written })
            }
            Self::Stream(stream) => {
                let (step, ended) = inflate(stream, input, sink)?;
                if ended {
                    *self = Self::Ended;
                }
                Ok(step)
            }
        }
    }
}

/// Whether these are the first bytes of the zlib format (RFC 1950, section 2.2). No encoder begins a stream without the
/// format like this: it would be a stored block whose padding is not zero.
fn is_zlib([method, flags]: [u8; 2]) -> bool {
    method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]) % 31 == 0
}

/// Also says whether the end was reached.
fn inflate(stream: &mut Decompress, input: &[u8], sink: &mut [u8]) -> Result<(Step, bool), String> {
    let (read, written) = (stream.total_in(), stream.total_out());
    let status = stream
        .decompress(input, sink, FlushDecompress::None)
        .map_err(|error| error.to_string())?;
    let since = |total: u64, before: u64| usize::try_from(total - before).unwrap_or(usize::MAX);
    let step = Step {
        read: since(stream.total_in(), read),
        written: since(stream.total_out(), written),
    };
    Ok((step, status == Status::StreamEnd))
}

struct Brotli {
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    is_ended: bool,
}

impl Brotli {
    fn new() -> Self {
        let alloc = StandardAlloc::default;
        Self {
            state: Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())),
            is_ended: false,
        }
    }

    fn step(&mut self, input: &[u8], sink: &mut [u8]) -> Result<Step, String> {
        if self.is_ended {
            return Ok(Step::NOTHING);
        }
        let (mut unread, mut read) = (input.len(), 0);
        let (mut free, mut written) = (sink.len(), 0);
        let result = BrotliDecompressStream(
            &mut unread,
            &mut read,
            input,
            &mut free,
            &mut written,
            sink,
            &mut 0,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultSuccess => self.is_ended = true,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultFailure => return Err("it is not in the brotli format".to_owned()),
        }
        Ok(Step { read, written })
    }
}

struct Zstd {
    decoder: raw::Decoder<'static>,
    /// The first bytes of a frame while they are not complete, `None` within a frame.
    start: Option<Start<4>>,
}

impl Zstd {
    /// 8 MiB, as the power of two.
    const WINDOW_LOG: u32 = 23;

    fn new() -> Result<Self, String> {
        let set_up = || {
            let mut decoder = raw::Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(Self::WINDOW_LOG))?;
            Ok(decoder)
        };
        let decoder = set_up().map_err(|error: std::io::Error| error.to_string())?;
        Ok(Self {
            decoder,
            start: Some(Start::NONE),
        })
    }

    fn step(&mut self, input: &[u8], sink: &mut [u8]) -> Result<Step, String> {
        let Some(start) = &mut self.start else {
            return self.decode(input, sink);
        };
        let read = start.fill(input);
        if let Some(bytes) = start.complete() {
            if !is_zstd(bytes) {
                return Err("a frame does not begin as one".to_owned());
            }
            self.start = None;
            self.decode(&bytes, sink)?;
        }
        Ok(Step { read, written: 0 })
    }

    fn decode(&mut self, input: &[u8], sink: &mut [u8]) -> Result<Step, String> {
        let status = self
            .decoder
            .run_on_buffers(input, sink)
            .map_err(|error| error.to_string())?;
        if status.remaining == 0 {
            self.start = Some(Start::NONE);
        }
        Ok(Step {
            read: status.bytes_read,
            written: status.bytes_written,
        })
    }
}

/// Whether a frame or a skippable frame begins like this (RFC 8878, section 3.1). The library could be built so that it
/// takes the formats from before the standard too, which no one who reads the standard would.
fn is_zstd(start: [u8; 4]) -> bool {
    let magic = u32::from_le_bytes(start);
    magic == 0xFD2F_B528 || magic & 0xFFFF_FFF0 == 0x184D_2A50
}

#[cfg(test)]
mod tests;
