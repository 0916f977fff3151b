//! Compressing a body piece by piece. Nothing is held back: a client has at once what the upstream has sent.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use pingora::{Error, ErrorType::InternalError, OrErr, Result};
use portcullis_config::{Algorithm, CompressLevels};
use std::{
    io::Write,
    mem,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};
use zstd::stream::raw::CParameter;

/// How far back an encoder looks, as a power of two: 256 KiB. It bounds what each of them holds in memory, which at the
/// higher levels would be megabytes otherwise.
const WINDOW_LOG: u32 = 18;
/// Between brotli's state and the output.
const BROTLI_BUFFER: usize = 4096;
/// Responses that are compressed at the same time, in the whole process.
const MOST: usize = 2000;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Leave to compress one more response, until it is dropped.
pub(super) struct Slot(());

impl Slot {
    pub(super) fn take() -> Option<Self> {
        if RUNNING.fetch_add(1, Relaxed) < MOST {
            return Some(Self(()));
        }
        RUNNING.fetch_sub(1, Relaxed);
        None
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Relaxed);
    }
}

pub(super) struct Encoder {
    coder: Coder,
    _slot: Slot,
}

enum Coder {
    Zstd(zstd::Encoder<'static, Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
    /// Nothing comes behind the end.
    Ended,
}

impl Encoder {
    /// None: there is no memory for it.
    pub(super) fn new(algorithm: Algorithm, levels: CompressLevels, slot: Slot) -> Option<Self> {
        let coder = match algorithm {
            Algorithm::Zstd => {
                let mut coder = zstd::Encoder::new(Vec::new(), levels.zstd.into()).ok()?;
                coder
                    .set_parameter(CParameter::WindowLog(WINDOW_LOG))
                    .ok()?;
                Coder::Zstd(coder)
            }
            Algorithm::Br => {
                let level = levels.br.into();
                let coder =
                    brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, level, WINDOW_LOG);
                Coder::Br(Box::new(coder))
            }
            Algorithm::Gzip => {
                let level = Compression::new(levels.gzip.into());
                Coder::Gzip(GzEncoder::new(Vec::new(), level))
            }
        };
        Some(Self { coder, _slot: slot })
    }

    /// What a piece becomes; the end is said behind the last one.
    ///
    /// # Errors
    /// The library cannot go on.
    pub(super) fn push(&mut self, piece: &[u8], ends: bool) -> Result<Bytes> {
        if ends {
            return self.end(piece);
        }
        let compressed = match &mut self.coder {
            Coder::Zstd(coder) => written(coder, piece).map(|()| mem::take(coder.get_mut())),
            Coder::Br(coder) => written(coder, piece).map(|()| mem::take(coder.get_mut())),
            Coder::Gzip(coder) => written(coder, piece).map(|()| mem::take(coder.get_mut())),
            Coder::Ended => Error::e_explain(InternalError, "a body behind its end"),
        };
        compressed.map(Bytes::from)
    }

    fn end(&mut self, piece: &[u8]) -> Result<Bytes> {
        let ended = match mem::replace(&mut self.coder, Coder::Ended) {
            Coder::Zstd(mut coder) => coder.write_all(piece).and_then(|()| coder.finish()),
            Coder::Br(mut coder) => coder.write_all(piece).map(|()| coder.into_inner()),
            Coder::Gzip(mut coder) => coder.write_all(piece).and_then(|()| coder.finish()),
            Coder::Ended => Ok(Vec::new()),
        };
        ended.map(Bytes::from).or_err(InternalError, CANNOT)
    }
}

const CANNOT: &str = "a response that cannot be compressed";

fn written(coder: &mut impl Write, piece: &[u8]) -> Result<()> {
    let written = coder.write_all(piece).and_then(|()| coder.flush());
    written.or_err(InternalError, CANNOT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    const ALL: [Algorithm; 3] = [Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip];

    fn encoder(algorithm: Algorithm) -> Encoder {
        let slot = Slot::take().unwrap();
        Encoder::new(algorithm, CompressLevels::default(), slot).unwrap()
    }

    fn decoder<'a>(algorithm: Algorithm, bytes: &'a [u8]) -> Box<dyn Read + 'a> {
        match algorithm {
            Algorithm::Zstd => Box::new(zstd::Decoder::new(bytes).unwrap()),
            Algorithm::Br => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Algorithm::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        }
    }

    #[test]
    fn each_piece_can_be_read_as_soon_as_it_is_there() {
        for algorithm in ALL {
            let mut encoder = encoder(algorithm);
            let mut sent = Vec::new();
            let mut plain = Vec::new();
            for number in 0..20 {
                let piece = format!("data: {number}\n\n");
                sent.extend(encoder.push(piece.as_bytes(), false).unwrap());
                plain.extend(piece.into_bytes());
                let mut read = vec![0; plain.len()];
                decoder(algorithm, &sent).read_exact(&mut read).unwrap();
                assert_eq!(read, plain, "{algorithm:?}");
            }
        }
    }

    #[test]
    fn there_is_leave_for_so_many() {
        let slots: Vec<Slot> = std::iter::from_fn(Slot::take).take(MOST + 1).collect();
        assert!(slots.len() <= MOST);
        drop(slots);
        assert!(Slot::take().is_some());
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_what_was_encoded(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..6),
            repeat in 1usize..40,
            last in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            for algorithm in ALL {
                let mut encoder = encoder(algorithm);
                let mut sent = Vec::new();
                let mut plain = Vec::new();
                for piece in &pieces {
                    let piece = piece.repeat(repeat);
                    sent.extend(encoder.push(&piece, false).unwrap());
                    plain.extend(piece);
                }
                sent.extend(encoder.push(&last, true).unwrap());
                plain.extend(&last);
                let mut read = Vec::new();
                decoder(algorithm, &sent).read_to_end(&mut read).unwrap();
                prop_assert_eq!(&read, &plain);
            }
        }
    }
}
