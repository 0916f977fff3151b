use super::*;
use brotli::enc::BrotliEncoderParams;
use flate2::{Compression, write};
use http::HeaderValue;
use proptest::{collection::vec, prelude::*, sample::Index};
use std::{
    cell::Cell,
    io::{self, Write},
};

const RATIO: u32 = 100;
const ROOM: usize = 1 << 20;

/// Codings, and whether `deflate` is without the zlib format.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Gzip,
    Members,
    Zlib,
    Raw,
    Brotli,
    Zstd,
    Frames,
}

impl Encoding {
    const ALL: [Self; 7] = [
        Self::Gzip,
        Self::Members,
        Self::Zlib,
        Self::Raw,
        Self::Brotli,
        Self::Zstd,
        Self::Frames,
    ];

    fn kind(self) -> CodingKind {
        match self {
            Self::Gzip | Self::Members => CodingKind::Gzip,
            Self::Zlib | Self::Raw => CodingKind::Deflate,
            Self::Brotli => CodingKind::Brotli,
            Self::Zstd | Self::Frames => CodingKind::Zstd,
        }
    }

    fn encode(self, data: &[u8]) -> Vec<u8> {
        let (first, second) = data.split_at(data.len() / 2);
        match self {
            Self::Gzip => {
                let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Self::Members => [Self::Gzip.encode(first), Self::Gzip.encode(second)].concat(),
            Self::Zlib => {
                let mut encoder = write::ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Self::Raw => {
                let mut encoder = write::DeflateEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Self::Brotli => brotli_encoded(data, 5, 22),
            Self::Zstd => zstd::encode_all(data, 1).unwrap(),
            Self::Frames => {
                let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0][..], b"??"].concat();
                [
                    Self::Zstd.encode(first),
                    skippable,
                    Self::Zstd.encode(second),
                ]
                .concat()
            }
        }
    }
}

/// Where an encoder writes to, and others take from.
struct Taken<'a>(&'a Cell<Vec<u8>>);

impl Write for Taken<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.take();
        written.extend(bytes);
        self.0.set(written);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn brotli_encoded(mut data: &[u8], quality: i32, window_bits: i32) -> Vec<u8> {
    let mut encoded = Vec::new();
    let parameters = BrotliEncoderParams {
        quality,
        lgwin: window_bits,
        large_window: window_bits > 24,
        ..Default::default()
    };
    brotli::BrotliCompress(&mut data, &mut encoded, &parameters).unwrap();
    encoded
}

fn decode(kind: CodingKind, pieces: &[&[u8]], room: usize) -> Result<Vec<u8>, Undecodable> {
    let mut decoder = Decoder::new(kind, RATIO).unwrap();
    let mut out = Vec::new();
    for piece in pieces {
        decoder.feed(piece, room - out.len(), &mut out)?;
    }
    decoder.finish(room - out.len(), &mut out)?;
    Ok(out)
}

fn is_broken(result: &Result<Vec<u8>, Undecodable>) -> bool {
    matches!(result, Err(Undecodable::Broken(_)))
}

#[test]
fn codings_of_a_message() {
    use CodingKind::{Brotli, Deflate, Gzip, Zstd};
    let table: [(&[&[u8]], Coding); 18] = [
        (&[], Coding::Identity),
        (&[b""], Coding::Identity),
        (&[b"identity"], Coding::Identity),
        (&[b" , identity,"], Coding::Identity),
        (&[b"gzip"], Coding::Coded(Gzip)),
        (&[b"X-GZip"], Coding::Coded(Gzip)),
        (&[b"\t deflate "], Coding::Coded(Deflate)),
        (&[b"BR"], Coding::Coded(Brotli)),
        (&[b"zstd"], Coding::Coded(Zstd)),
        (&[b"identity, gzip"], Coding::Coded(Gzip)),
        (&[b"", b"identity", b"br,"], Coding::Coded(Brotli)),
        (&[b"gzip, gzip"], Coding::Unknown),
        (&[b"gzip", b"br"], Coding::Unknown),
        (&[b"compress"], Coding::Unknown),
        (&[b"gzip;q=1"], Coding::Unknown),
        (&[b"gzip br"], Coding::Unknown),
        (&[b"\xffgzip"], Coding::Unknown),
        (&[b"*"], Coding::Unknown),
    ];
    for (lines, expected) in table {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_ENCODING, HeaderValue::from_bytes(line).unwrap());
        }
        assert_eq!(Coding::of(&headers), expected, "{headers:?}");
    }
}

#[test]
fn a_body_without_bytes_is_fine() {
    for encoding in Encoding::ALL {
        assert_eq!(decode(encoding.kind(), &[], 0), Ok(Vec::new()));
        assert_eq!(decode(encoding.kind(), &[b"", b""], 0), Ok(Vec::new()));
        let nothing = encoding.encode(b"");
        assert_eq!(decode(encoding.kind(), &[&nothing], 0), Ok(Vec::new()));
    }
}

#[test]
fn what_is_cut_off_is_broken() {
    let data = b"nothing of this is said, unless all of it is said: said, said, said".repeat(3);
    for encoding in [
        Encoding::Gzip,
        Encoding::Zlib,
        Encoding::Raw,
        Encoding::Brotli,
        Encoding::Zstd,
    ] {
        let encoded = encoding.encode(&data);
        for length in 1..encoded.len() {
            let decoded = decode(encoding.kind(), &[&encoded[..length]], ROOM);
            assert!(is_broken(&decoded), "{encoding:?} {length} {decoded:?}");
        }
    }
    // Between two members and between two frames a body may end.
    let members = Encoding::Members.encode(&data);
    let first = Encoding::Gzip.encode(&data[..data.len() / 2]).len();
    for length in 1..members.len() {
        let decoded = decode(CodingKind::Gzip, &[&members[..length]], ROOM);
        assert_eq!(is_broken(&decoded), length != first, "{length}");
    }
}

#[test]
fn what_is_behind_the_end_is_broken() {
    for encoding in Encoding::ALL {
        let encoded = encoding.encode(b"the end");
        for behind in [&b"\0"[..], b"\0\0\0\0\0\0\0\0", b"once more", &[0x1f]] {
            let at_once = [&encoded, behind].concat();
            let decoded = decode(encoding.kind(), &[&at_once], ROOM);
            assert!(is_broken(&decoded), "{encoding:?} {behind:?} {decoded:?}");
            let later = decode(encoding.kind(), &[&encoded, behind], ROOM);
            assert!(is_broken(&later), "{encoding:?} {behind:?} {later:?}");
        }
    }
}

#[test]
fn what_is_something_else_is_broken() {
    let legacy_zstd = b"\x27\xb5\x2f\xfd\0\0\0\0";
    let needs_dictionary = b"\x78\xbb\x00\x00\x00\x01\x03\x00";
    let table: [(CodingKind, &[u8]); 8] = [
        (CodingKind::Gzip, b"plain text"),
        (CodingKind::Gzip, &Encoding::Zlib.encode(b"zlib")),
        (CodingKind::Deflate, &Encoding::Gzip.encode(b"gzip")),
        (CodingKind::Deflate, needs_dictionary),
        (CodingKind::Brotli, &[0xff; 100]),
        (CodingKind::Zstd, b"plain text"),
        (CodingKind::Zstd, legacy_zstd),
        (CodingKind::Zstd, &Encoding::Gzip.encode(b"gzip")),
    ];
    for (kind, data) in table {
        let decoded = decode(kind, &[data], ROOM);
        assert!(is_broken(&decoded), "{kind:?} {decoded:?}");
    }
    let mut wrong_sum = Encoding::Gzip.encode(b"a body with a checksum");
    let sum = wrong_sum.len() - 8;
    wrong_sum[sum] ^= 1;
    assert!(is_broken(&decode(CodingKind::Gzip, &[&wrong_sum], ROOM)));
}

#[test]
fn windows_have_a_limit() {
    let data = vec![7; 100];
    for (window_bits, is_fine) in [(10, true), (24, true), (25, false), (30, false)] {
        let encoded = brotli_encoded(&data, 5, window_bits);
        let decoded = decode(CodingKind::Brotli, &[&encoded], ROOM);
        assert_eq!(decoded.is_ok(), is_fine, "{window_bits} {decoded:?}");
    }
    for (window_log, is_fine) in [(10, true), (23, true), (24, false), (27, false)] {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(&data).unwrap();
        let encoded = encoder.finish().unwrap();
        let decoded = decode(CodingKind::Zstd, &[&encoded], ROOM);
        assert_eq!(decoded.is_ok(), is_fine, "{window_log} {decoded:?}");
    }
}

#[test]
fn no_more_comes_out_than_there_is_room() {
    let data: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    for encoding in Encoding::ALL {
        let encoded = encoding.encode(&data);
        let mut decoder = Decoder::new(encoding.kind(), RATIO).unwrap();
        for (room, expected) in [
            (data.len(), Ok(data.clone())),
            (data.len() - 1, Err(Undecodable::Exploding)),
            (1, Err(Undecodable::Exploding)),
            (0, Err(Undecodable::Exploding)),
        ] {
            assert_eq!(decode(encoding.kind(), &[&encoded], room), expected);
        }
        let mut out = Vec::new();
        let fed = decoder.feed(&encoded, 100_000, &mut out);
        assert_eq!(fed, Err(Undecodable::Exploding), "{encoding:?}");
        assert!(out.capacity() <= 100_000, "{encoding:?} {}", out.capacity());
        // It stays like this.
        assert_eq!(
            decoder.feed(b"", ROOM, &mut out),
            Err(Undecodable::Exploding)
        );
        assert_eq!(decoder.finish(ROOM, &mut out), Err(Undecodable::Exploding));
    }
}

#[test]
fn bombs_explode_early() {
    let data = vec![0; 64 << 20];
    for encoding in Encoding::ALL {
        let bomb = encoding.encode(&data);
        assert!(bomb.len() < data.len() / RATIO as usize, "{encoding:?}");
        // All the room there could be, and a piece that is the whole.
        let mut decoder = Decoder::new(encoding.kind(), RATIO).unwrap();
        let mut out = Vec::new();
        let fed = decoder.feed(&bomb, usize::MAX, &mut out);
        assert_eq!(fed, Err(Undecodable::Exploding), "{encoding:?}");
        let allowed = bomb.len() * RATIO as usize + SINK_BYTES;
        assert!(out.len() <= allowed.max(RATIO_FREE_BYTES as usize + SINK_BYTES));
        assert!(out.capacity() <= out.len() * 2 + SINK_BYTES);
        // Byte by byte.
        let mut decoder = Decoder::new(encoding.kind(), RATIO).unwrap();
        let mut out = Vec::new();
        let fed = bomb
            .chunks(1)
            .try_for_each(|byte| decoder.feed(byte, usize::MAX, &mut out));
        assert_eq!(fed, Err(Undecodable::Exploding), "{encoding:?}");
        assert!(out.len() <= bomb.len() * RATIO as usize + RATIO_FREE_BYTES as usize + SINK_BYTES);
    }
}

#[test]
fn the_ratio_says_nothing_about_small_bodies() {
    for encoding in Encoding::ALL {
        let free = vec![0; RATIO_FREE_BYTES as usize];
        let encoded = encoding.encode(&free);
        assert_eq!(decode(encoding.kind(), &[&encoded], ROOM), Ok(free));
        let more = encoding.encode(&vec![0; RATIO_FREE_BYTES as usize + 1]);
        let decoded = decode(encoding.kind(), &[&more], ROOM);
        assert_eq!(decoded, Err(Undecodable::Exploding), "{encoding:?}");
    }
}

// Nobody waits for a piece that its sender has let go.
#[test]
fn what_is_flushed_comes_out() {
    fn flushed(mut encoder: impl Write, written: &Cell<Vec<u8>>) -> [Vec<u8>; 2] {
        encoder.write_all(b"data: 1\n\n").unwrap();
        encoder.flush().unwrap();
        let first = written.take();
        encoder.write_all(b"data: 2\n\n").unwrap();
        encoder.flush().unwrap();
        let second = written.take();
        drop(encoder);
        // What it has written last.
        written.take();
        [first, second]
    }
    let (cell, level) = (Cell::default(), Compression::default());
    let sent = [
        (
            CodingKind::Gzip,
            flushed(write::GzEncoder::new(Taken(&cell), level), &cell),
        ),
        (
            CodingKind::Deflate,
            flushed(write::ZlibEncoder::new(Taken(&cell), level), &cell),
        ),
        (
            CodingKind::Deflate,
            flushed(write::DeflateEncoder::new(Taken(&cell), level), &cell),
        ),
        (
            CodingKind::Brotli,
            flushed(
                brotli::CompressorWriter::new(Taken(&cell), 4096, 5, 22),
                &cell,
            ),
        ),
        (
            CodingKind::Zstd,
            flushed(zstd::Encoder::new(Taken(&cell), 1).unwrap(), &cell),
        ),
    ];
    for (kind, pieces) in sent {
        let mut decoder = Decoder::new(kind, RATIO).unwrap();
        for (piece, expected) in pieces.iter().zip([b"data: 1\n\n", b"data: 2\n\n"]) {
            let mut out = Vec::new();
            decoder.feed(piece, ROOM, &mut out).unwrap();
            assert_eq!(out, expected, "{kind:?}");
        }
    }
}

/// Pieces without a byte are nothing to stumble over.
#[test]
fn nothing_may_come_often() {
    for encoding in Encoding::ALL {
        let encoded = encoding.encode(b"something, in two halves");
        let (first, second) = encoded.split_at(encoded.len() / 2);
        let nothing = &[&b""[..]; 100][..];
        let pieces = [nothing, &[first], nothing, &[second], nothing].concat();
        let decoded = decode(encoding.kind(), &pieces, ROOM);
        assert_eq!(
            decoded.as_deref(),
            Ok(&b"something, in two halves"[..]),
            "{encoding:?}"
        );
    }
}

#[test]
fn a_start_fills_up() {
    let mut start = Start::<4>::NONE;
    assert!(start.is_empty());
    assert_eq!((start.fill(b"ab"), start.complete()), (2, None));
    assert_eq!((start.fill(b""), start.is_empty()), (0, false));
    assert_eq!((start.fill(b"cdef"), start.complete()), (2, Some(*b"abcd")));
    assert_eq!(start.fill(b"ef"), 0);
}

/// Cuts data at these places.
fn split<'a>(data: &'a [u8], places: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|at| at.index(data.len() + 1)).collect();
    places.sort_unstable();
    places.push(data.len());
    let mut start = 0;
    let pieces = places.into_iter().map(|end| {
        let piece = &data[start..end];
        start = end;
        piece
    });
    pieces.collect()
}

/// Something that can be made smaller, and something that cannot.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let repeated = (vec(any::<u8>(), 0..50), 1_usize..200);
    prop_oneof![
        vec(any::<u8>(), 0..2000),
        repeated.prop_map(|(part, times)| part.repeat(times)),
    ]
}

fn encoding() -> impl Strategy<Value = Encoding> {
    prop::sample::select(&Encoding::ALL[..])
}

proptest! {
    #[test]
    fn pieces_decode_to_the_whole(
        encoding in encoding(),
        data in data(),
        places in vec(any::<Index>(), 0..12),
    ) {
        let encoded = encoding.encode(&data);
        let decoded = decode(encoding.kind(), &split(&encoded, &places), data.len());
        prop_assert_eq!(decoded, Ok(data));
    }

    #[test]
    fn one_byte_at_a_time_decodes_too(encoding in encoding(), data in data()) {
        let encoded = encoding.encode(&data);
        let pieces: Vec<&[u8]> = encoded.chunks(1).collect();
        prop_assert_eq!(decode(encoding.kind(), &pieces, data.len()), Ok(data));
    }

    #[test]
    fn a_part_is_broken(
        encoding in encoding(),
        data in data(),
        end in any::<Index>(),
        places in vec(any::<Index>(), 0..3),
    ) {
        let encoded = encoding.encode(&data);
        let part = &encoded[..end.index(encoded.len())];
        let decoded = decode(encoding.kind(), &split(part, &places), ROOM);
        match decoded {
            // Nothing at all, or whole members or frames.
            Ok(decoded) => {
                let is_several = matches!(encoding, Encoding::Members | Encoding::Frames);
                prop_assert!(part.is_empty() || is_several);
                prop_assert!(data.starts_with(&decoded));
            }
            Err(error) => prop_assert!(matches!(error, Undecodable::Broken(_))),
        }
    }

    // What comes out of a damaged body does not matter, as long as it comes to an end and there is not too much of it.
    #[test]
    fn garbage_does_no_harm(
        encoding in encoding(),
        data in data(),
        damage in vec((any::<Index>(), any::<u8>()), 0..6),
        places in vec(any::<Index>(), 0..4),
        room in 0_usize..100_000,
    ) {
        let mut garbage = encoding.encode(&data);
        for (at, byte) in damage {
            let at = at.index(garbage.len());
            garbage[at] ^= byte;
        }
        if let Ok(decoded) = decode(encoding.kind(), &split(&garbage, &places), room) {
            prop_assert!(decoded.len() <= room);
        }
    }

    #[test]
    fn pure_garbage_does_no_harm(
        encoding in encoding(),
        garbage in vec(any::<u8>(), 0..500),
        places in vec(any::<Index>(), 0..4),
    ) {
        let whole = decode(encoding.kind(), &[&garbage], ROOM);
        let pieces = decode(encoding.kind(), &split(&garbage, &places), ROOM);
        prop_assert_eq!(whole.is_ok(), pieces.is_ok());
    }
}
