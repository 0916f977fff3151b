use super::{
    close,
    frame::{Frame, Opcode, Violation},
    reader::{Limits, Reader},
    writer::Writer,
};
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    frame_bytes: 1000,
    message_bytes: 2000,
};

fn frame(opcode: Opcode, fin: bool, data: impl Into<Bytes>) -> Frame {
    Frame {
        opcode,
        fin,
        data: data.into(),
    }
}

/// All frames in this, and how it ends.
fn read(reader: &mut Reader, bytes: &[u8]) -> Result<Vec<Frame>, Violation> {
    reader.push(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn from_server(bytes: &[u8]) -> Result<Vec<Frame>, Violation> {
    read(&mut Reader::new(false, LIMITS, None), bytes)
}

#[test]
fn what_breaks_a_rule_has_its_code() {
    let table: [(&str, Vec<u8>, u16); 26] = [
        ("first reserved bit", vec![0xc1, 0], 1002),
        ("second", vec![0xa1, 0], 1002),
        ("third", vec![0x91, 0], 1002),
        ("a bit, seen at once", vec![0x91], 1002),
        ("reserved opcode", vec![0x83, 0], 1002),
        ("reserved control opcode", vec![0x8b, 0], 1002),
        ("an opcode, seen at once", vec![0x83], 1002),
        ("masked", vec![0x81, 0x80, 0, 0, 0, 0], 1002),
        ("ping in pieces", vec![0x09, 0], 1002),
        (
            "long ping",
            [&[0x89, 126, 0, 126][..], &[0; 126]].concat(),
            1002,
        ),
        (
            "long head of a short frame",
            vec![0x81, 126, 0, 1, b'a'],
            1002,
        ),
        (
            "longest head of a short frame",
            vec![0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            1002,
        ),
        ("64 bits", vec![0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], 1002),
        ("too long", vec![0x82, 126, 0x03, 0xe9], 1009),
        (
            "far too long",
            vec![0x82, 127, 0x7f, 0, 0, 0, 0, 0, 0, 0],
            1009,
        ),
        ("nothing to go on with", vec![0x80, 0], 1002),
        ("a message within another", vec![0x01, 0, 0x81, 0], 1002),
        ("no text", vec![0x81, 1, 0xff], 1007),
        ("no text, seen before its end", vec![0x01, 1, 0xff], 1007),
        ("half a character", vec![0x81, 1, 0xc3], 1007),
        (
            "half a character in pieces",
            vec![0x01, 1, 0xc3, 0x80, 0],
            1007,
        ),
        ("surrogates", vec![0x81, 3, 0xed, 0xa0, 0x80], 1007),
        ("close of one byte", vec![0x88, 1, 3], 1002),
        ("close code", vec![0x88, 2, 0x03, 0xed], 1002),
        ("close reason", vec![0x88, 3, 0x03, 0xe8, 0xff], 1007),
        (
            "long message",
            [
                &[0x02, 126, 3, 232][..],
                &[0; 1000],
                &[0x00, 126, 3, 232],
                &[0; 1000],
                &[0x80, 1, 0],
            ]
            .concat(),
            1009,
        ),
    ];
    for (name, bytes, code) in table {
        let found = from_server(&bytes);
        assert_eq!(
            found.map_err(|violation| violation.code),
            Err(code),
            "{name}"
        );
    }
    let unmasked = read(&mut Reader::new(true, LIMITS, None), &[0x81, 0]);
    assert_eq!(unmasked.unwrap_err().code, 1002);
}

#[test]
fn control_frames_come_between_the_pieces_of_a_message() {
    let bytes = [
        0x01, 1, 0xc3, 0x89, 1, b'p', 0x00, 0, 0x8a, 0, 0x80, 1, 0xa4, 0x88, 2, 0x03, 0xe8, 0x81, 1,
    ];
    let frames = from_server(&bytes).unwrap();
    let kinds: Vec<(Opcode, bool)> = frames
        .iter()
        .map(|frame| (frame.opcode, frame.fin))
        .collect();
    assert_eq!(
        kinds,
        [
            (Opcode::Text, false),
            (Opcode::Ping, true),
            (Opcode::Continuation, false),
            (Opcode::Pong, true),
            (Opcode::Continuation, true),
            (Opcode::Close, true),
        ],
        "nothing counts behind a close frame"
    );
}

/// What goes out when the agents do this with each frame: pass, leave out, replace.
fn rewritten(frames: &[(Frame, Option<&'static str>)]) -> Vec<(Opcode, bool, String)> {
    let mut writer = Writer::new(false);
    let mut bytes = Vec::new();
    for (frame, fate) in frames {
        let out = match *fate {
            Some("drop") => writer.leave_out(frame),
            Some(other) => writer.pass(Frame {
                data: other.into(),
                ..frame.clone()
            }),
            None => writer.pass(frame.clone()),
        };
        bytes.extend_from_slice(&out.unwrap());
    }
    let frames = from_server(&bytes).unwrap();
    frames
        .into_iter()
        .map(|frame| {
            let text = String::from_utf8(frame.data.to_vec()).unwrap();
            (frame.opcode, frame.fin, text)
        })
        .collect()
}

#[test]
fn the_stream_stays_valid_whatever_is_left_out() {
    use Opcode::{Continuation, Ping, Text};
    let message = |fates: [Option<&'static str>; 4]| {
        let frames = [
            frame(Text, false, "a"),
            frame(Continuation, false, "b"),
            frame(Ping, true, "p"),
            frame(Continuation, true, "c"),
        ];
        let out = rewritten(&frames.into_iter().zip(fates).collect::<Vec<_>>());
        out.into_iter()
            .map(|(opcode, fin, text)| format!("{opcode:?} {fin} {text}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let drop = Some("drop");
    for (fates, expected) in [
        (
            [None; 4],
            "Text false a, Continuation false b, Ping true p, Continuation true c",
        ),
        (
            [drop, None, None, None],
            "Text false b, Ping true p, Continuation true c",
        ),
        ([drop, drop, None, None], "Ping true p, Text true c"),
        ([drop, drop, None, drop], "Ping true p"),
        (
            [None, None, drop, drop],
            "Text false a, Continuation false b, Continuation true ",
        ),
        (
            [None, Some("ü"), Some("q"), None],
            "Text false a, Continuation false ü, Ping true q, Continuation true c",
        ),
        (
            [Some(""), drop, drop, Some("")],
            "Text false , Continuation true ",
        ),
    ] {
        assert_eq!(message(fates), expected, "{fates:?}");
    }
}

#[test]
fn what_agents_make_of_a_text_is_a_text() {
    let mut writer = Writer::new(false);
    assert!(
        writer
            .pass(frame(Opcode::Text, false, "ä".as_bytes()[..1].to_vec()))
            .is_ok()
    );
    assert!(
        writer
            .leave_out(&frame(Opcode::Continuation, true, "x"))
            .is_err()
    );
    let mut writer = Writer::new(false);
    assert!(writer.pass(frame(Opcode::Text, true, vec![0xff])).is_err());
    assert!(writer.pass(frame(Opcode::Binary, true, vec![0xff])).is_ok());
}

#[test]
fn nothing_goes_out_behind_a_close_frame() {
    let mut writer = Writer::new(true);
    assert!(writer.close(1001, "").is_some());
    assert!(writer.close(1001, "").is_none());
    assert!(
        writer
            .pass(frame(Opcode::Ping, true, ""))
            .unwrap()
            .is_empty()
    );
    assert_eq!(writer.closed(), Some(1001));
    let mut writer = Writer::new(true);
    let passed = writer.pass(frame(Opcode::Close, true, close::payload(3000, "x")));
    assert!(!passed.unwrap().is_empty());
    assert_eq!(writer.closed(), Some(3000));
}

/// The data of one compressed message.
fn compressed(stream: &mut Compress, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 1024);
    stream
        .compress_vec(data, &mut out, FlushCompress::Sync)
        .unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn on_the_wire(first: u8, data: &[u8]) -> Vec<u8> {
    assert!(data.len() < 126);
    [&[first, u8::try_from(data.len()).unwrap()][..], data].concat()
}

#[test]
fn compressed_messages_are_inflated_with_a_window_in_common() {
    let mut stream = Compress::new(Compression::default(), false);
    let mut reader = Reader::new(false, LIMITS, Some(100));
    let text = "the same words again and again, and a few others: äöü";
    for _ in 0..3 {
        let data = compressed(&mut stream, text.as_bytes());
        let (one, two) = data.split_at(data.len() / 2);
        // In pieces, with a message of nobody's in between, and then one that is not compressed.
        let bytes = [
            on_the_wire(0x41, one),
            on_the_wire(0x89, b""),
            on_the_wire(0x80, two),
            on_the_wire(0x81, b"plain"),
        ]
        .concat();
        let frames = read(&mut reader, &bytes).unwrap();
        let whole = [&frames[0].data[..], &frames[2].data[..]].concat();
        assert_eq!(String::from_utf8(whole).unwrap(), text);
        assert_eq!(frames[3].data, "plain");
    }
    let broken = read(&mut reader, &on_the_wire(0xc1, &[0xff; 20]));
    assert_eq!(broken.unwrap_err().code, 1007);
}

#[test]
fn what_inflates_to_too_much_is_refused() {
    let zeros = vec![0; 1 << 20];
    let limits = |frame_bytes| Limits {
        frame_bytes,
        message_bytes: 1 << 30,
    };
    let wire = |stream: &mut Compress| {
        let data = compressed(stream, &zeros);
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        [&[0xc2, 126][..], &length, &data].concat()
    };
    for (name, limits, ratio, good) in [
        ("frame", limits(1 << 19), 100_000, false),
        ("ratio", limits(1 << 21), 10, false),
        ("neither", limits(1 << 21), 100_000, true),
    ] {
        let mut stream = Compress::new(Compression::default(), false);
        let found = read(
            &mut Reader::new(false, limits, Some(ratio)),
            &wire(&mut stream),
        );
        match good {
            true => assert_eq!(found.unwrap()[0].data, zeros),
            false => assert_eq!(found.unwrap_err().code, 1009, "{name}"),
        }
    }
}

#[test]
fn a_message_may_end_its_last_block_for_good() {
    let mut stream = Compress::new(Compression::default(), false);
    let mut data = Vec::with_capacity(100);
    stream
        .compress_vec(b"for good", &mut data, FlushCompress::Finish)
        .unwrap();
    // RFC 7692 section 7.2.3.4
    data.push(0);
    let mut reader = Reader::new(false, LIMITS, Some(100));
    for _ in 0..2 {
        let frames = read(&mut reader, &on_the_wire(0xc1, &data)).unwrap();
        assert_eq!(frames[0].data, "for good");
    }
}

prop_compose! {
    fn any_frame()(kind in 0u8..4, fin in any::<bool>(), data in proptest::collection::vec(any::<u8>(), 0..300)) -> (u8, bool, Vec<u8>) {
        (kind, fin, data)
    }
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        parts in proptest::collection::vec(any_frame(), 0..12),
        masked in any::<bool>(),
        size in 1usize..50,
    ) {
        let mut open = false;
        let mut frames = Vec::new();
        for (kind, fin, mut data) in parts {
            let opcode = match kind {
                0 => Opcode::Ping,
                1 => Opcode::Pong,
                _ if open => Opcode::Continuation,
                _ => Opcode::Binary,
            };
            if opcode.is_control() {
                data.truncate(125);
                frames.push(frame(opcode, true, data));
            } else {
                open = !fin;
                frames.push(frame(opcode, fin, data));
            }
        }
        let mut writer = Writer::new(masked);
        let mut bytes = Vec::new();
        for frame in &frames {
            bytes.extend_from_slice(&writer.pass(frame.clone()).unwrap());
        }
        let limits = Limits { frame_bytes: 1000, message_bytes: 1 << 20 };
        let mut reader = Reader::new(masked, limits, None);
        let mut found = Vec::new();
        for piece in bytes.chunks(size) {
            found.extend(read(&mut reader, piece).unwrap());
        }
        prop_assert_eq!(found, frames);
        prop_assert_eq!(reader.waiting(), 0);
    }

    #[test]
    fn no_bytes_break_the_reader(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        masked in any::<bool>(),
        ratio in proptest::option::of(1u32..200),
    ) {
        let mut reader = Reader::new(masked, LIMITS, ratio);
        let _ = read(&mut reader, &bytes);
    }
}
