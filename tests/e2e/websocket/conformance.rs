//! Whatever one end sends: both ends see the same with the proxy, and agents that see every frame, as without. One end is a
//! well-known library, the other is written by hand.

use super::{
    inspected,
    peers::{FRAME_BYTES, Server, Step, by_hand, by_library, close_data, echo, frame, upgraded},
};
use crate::harness::TestAgent;
use std::net::SocketAddr;
use tungstenite::protocol::Role;

/// What one end sends by hand, and whether it may.
struct Case {
    name: String,
    steps: Vec<Step>,
    /// The code with which the other end closes, for what is not allowed.
    refused: Option<u16>,
    /// A proxy ends both connections with the first, so what comes back to whoever has ended is nobody's.
    ends: bool,
}

const CLOSES: [u8; 4] = [0x88, 2, 0x03, 0xe8];

/// What masks is a client.
struct Cases {
    masked: bool,
    cases: Vec<Case>,
}

impl Cases {
    fn frame(&self, first: u8, data: &[u8]) -> Vec<u8> {
        frame(first, data, self.masked)
    }

    /// These frames, and then a close.
    fn good(&mut self, name: impl Into<String>, frames: &[(u8, &[u8])]) {
        let mut bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(first, data)| self.frame(*first, data))
            .collect();
        bytes.extend(self.frame(CLOSES[0], &CLOSES[2..]));
        self.steps(name, vec![Step::Send(bytes)]);
    }

    fn steps(&mut self, name: impl Into<String>, steps: Vec<Step>) {
        self.cases.push(Case {
            name: name.into(),
            ends: steps.iter().any(|step| matches!(step, Step::Finish)),
            steps,
            refused: None,
        });
    }

    fn bad(&mut self, name: impl Into<String>, code: u16, frames: &[(u8, &[u8])]) {
        let bytes = frames
            .iter()
            .flat_map(|(first, data)| self.frame(*first, data))
            .collect();
        self.raw(name, code, bytes);
    }

    fn raw(&mut self, name: impl Into<String>, code: u16, bytes: Vec<u8>) {
        self.cases.push(Case {
            name: name.into(),
            steps: vec![Step::Send(bytes)],
            refused: Some(code),
            ends: false,
        });
    }

    fn of(masked: bool) -> Vec<Case> {
        let mut all = Self {
            masked,
            cases: Vec::new(),
        };
        all.messages();
        all.fragments();
        all.control();
        all.closes();
        all.ends();
        all.broken();
        all.broken_texts();
        all.oversize();
        all.cases
    }

    fn messages(&mut self) {
        for size in [0, 1, 125, 126, 127, 255, 256, 65535, FRAME_BYTES] {
            let data = vec![b'x'; size];
            self.good(format!("text of {size}"), &[(0x81, &data)]);
            self.good(format!("binary of {size}"), &[(0x82, &data)]);
        }
        self.good("all bytes", &[(0x82, &(0..=255).collect::<Vec<u8>>())]);
        self.good(
            "a text of many scripts",
            &[(0x81, "κόσμε €𐍈 日本".as_bytes())],
        );
        let both: &[(u8, &[u8])] = &[(0x81, b"one"), (0x82, b"two"), (0x81, b"three")];
        self.good("several messages", both);
    }

    fn fragments(&mut self) {
        let text = "κ€𐍈".as_bytes();
        for cut in 0..=text.len() {
            for other in cut..=text.len() {
                let frames: &[(u8, &[u8])] = &[
                    (0x01, &text[..cut]),
                    (0x89, b"between"),
                    (0x00, &text[cut..other]),
                    (0x8a, b""),
                    (0x80, &text[other..]),
                ];
                self.good(format!("text cut at {cut} and {other}"), frames);
            }
        }
        let frames: &[(u8, &[u8])] = &[(0x02, b""), (0x00, b""), (0x80, b"")];
        self.good("empty fragments", frames);
        // It comes back in one frame.
        let piece = vec![7; FRAME_BYTES / 2];
        self.good(
            "fragments up to the limit",
            &[(0x02, &piece), (0x80, &piece)],
        );
        let mut bytes = self.frame(0x01, b"byte ");
        bytes.extend(self.frame(0x80, b"by byte"));
        bytes.extend(self.frame(0x88, &CLOSES[2..]));
        self.steps("byte by byte", vec![Step::Slowly(bytes)]);
    }

    fn control(&mut self) {
        let most = [b'p'; 125];
        for (name, data) in [("empty", &b""[..]), ("some", b"data"), ("most", &most)] {
            self.good(format!("ping, {name}"), &[(0x89, data)]);
            self.good(format!("pong nobody asked for, {name}"), &[(0x8a, data)]);
        }
        let pings: Vec<(u8, &[u8])> = vec![(0x89, b"1"), (0x89, b"2"), (0x89, b"3")];
        self.good("several pings", &pings);
    }

    fn closes(&mut self) {
        self.steps("close", vec![Step::Send(self.frame(0x88, b""))]);
        for code in [
            1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000,
            4999,
        ] {
            for reason in ["", "a reason: ä"] {
                let data = close_data(code, reason.as_bytes());
                let steps = vec![Step::Send(self.frame(0x88, &data))];
                self.steps(format!("close {code} {reason}"), steps);
            }
        }
        let longest = close_data(1000, &[b'r'; 123]);
        self.steps(
            "longest close",
            vec![Step::Send(self.frame(0x88, &longest))],
        );
        for code in [
            0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535,
        ] {
            let data = close_data(code, b"");
            self.bad(format!("close {code}"), 1002, &[(0x88, &data)]);
        }
        self.bad("close of one byte", 1002, &[(0x88, b"\x03")]);
        self.bad("close with no text", 1007, &[(0x88, b"\x03\xe8\xff")]);
        if self.masked {
            // A client that is told to close has no reason to listen; libraries differ in what they do.
            let mut behind = self.frame(0x88, &CLOSES[2..]);
            behind.extend(self.frame(0x81, b"too late"));
            self.steps("a message behind the close", vec![Step::Send(behind)]);
        }
    }

    fn ends(&mut self) {
        let whole = self.frame(0x81, b"whole");
        let half = whole[..whole.len() - 2].to_vec();
        for (name, bytes) in [
            ("at once", Vec::new()),
            ("behind a message", whole),
            ("within a frame", half),
            ("within a message", self.frame(0x01, b"half")),
        ] {
            let steps = vec![Step::Send(bytes), Step::Finish];
            self.steps(format!("end {name}"), steps);
        }
        let ping = Step::Send(self.frame(0x89, b""));
        self.steps("reset", vec![ping, Step::Await, Step::Reset]);
    }

    fn broken(&mut self) {
        for (name, bit) in [("first", 0x40), ("second", 0x20), ("third", 0x10)] {
            for opcode in [0x81, 0x82, 0x89, 0x88] {
                let name = format!("{name} reserved bit of {opcode:x}");
                self.bad(name, 1002, &[(opcode | bit, b"")]);
            }
        }
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            self.bad(format!("opcode {opcode}"), 1002, &[(0x80 | opcode, b"")]);
        }
        self.raw("wrong masking", 1002, frame(0x81, b"text", !self.masked));
        self.bad("ping in fragments", 1002, &[(0x09, b"half")]);
        self.bad("close in fragments", 1002, &[(0x08, b"")]);
        self.bad("long ping", 1002, &[(0x89, &[0; 126])]);
        self.bad(
            "long close",
            1002,
            &[(0x88, &close_data(1000, &[b'r'; 124]))],
        );
        self.bad("nothing to go on with", 1002, &[(0x80, b"text")]);
        self.bad(
            "nothing to go on with, in fragments",
            1002,
            &[(0x00, b"text")],
        );
        self.bad(
            "text within a text",
            1002,
            &[(0x01, b"one"), (0x81, b"two")],
        );
        let again: &[(u8, &[u8])] = &[(0x81, b"one"), (0x80, b"two")];
        self.bad("more behind the end", 1002, again);
    }

    fn broken_texts(&mut self) {
        for (name, text) in [
            ("no UTF-8", &b"\xff"[..]),
            ("half a character", b"ab\xc3"),
            ("a surrogate", b"\xed\xa0\x80"),
            ("overlong", b"\xc0\xaf"),
            ("beyond Unicode", b"\xf4\x90\x80\x80"),
        ] {
            self.bad(name, 1007, &[(0x81, text)]);
            let frames: &[(u8, &[u8])] = &[(0x01, text), (0x80, b"")];
            self.bad(format!("{name}, in fragments"), 1007, frames);
        }
    }

    fn oversize(&mut self) {
        let large = vec![b'x'; FRAME_BYTES + 1];
        self.bad("a large frame", 1009, &[(0x82, &large)]);
        let piece = vec![b'x'; FRAME_BYTES];
        let frames: &[(u8, &[u8])] = &[(0x02, &piece), (0x00, &piece), (0x80, b"x")];
        self.bad("a large message", 1009, frames);
    }
}

/// What the end that is written by hand saw, and what the library.
type Seen = (Vec<String>, Vec<String>);

/// Runs all cases, directly and through the proxy.
fn compare(cases: &[Case], server: &Server, run: impl Fn(SocketAddr, &str, &Case) -> Seen) {
    let agent = TestAgent::named("frames").start();
    let settings = "websocket { frame-bytes \"64KiB\"; message-bytes \"128KiB\"; idle \"5s\" }";
    let proxy = inspected(&agent, server, settings).start();
    proxy.wait_ready();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let direct = run(server.address(), &format!("/ws/direct/{number}"), case);
        let proxied = run(proxy.address_of("http"), &format!("/ws/{number}"), case);
        let as_expected = match case.refused {
            None if case.ends => direct.1 == proxied.1,
            None => direct == proxied,
            Some(code) => {
                // What else is in a close frame is everybody's own affair. The other end is told that this one is gone.
                let code = format!("close {code} ");
                let told = |seen: &[String]| seen.iter().any(|event| event.starts_with(&code));
                let other = |seen: &[String]| !seen.iter().any(|event| event.starts_with("error"));
                told(&direct.0) && told(&proxied.0) && other(&proxied.1)
            }
        };
        if !as_expected {
            wrong.push(format!(
                "{}:\n  without: {direct:?}\n  with:    {proxied:?}",
                case.name
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert!(cases.len() > 130, "{}", cases.len());
    // Otherwise nothing of this was about frames that agents see.
    assert!(agent.seen("websocket_frame").len() > cases.len());
}

#[test]
fn a_server_sees_what_clients_send() {
    let cases = Cases::of(true);
    let server = Server::echoing();
    compare(&cases, &server, |address, path, case| {
        let (stream, _) = upgraded(address, path, "");
        let by_hand = by_hand(stream, &case.steps);
        (by_hand, server.saw(path))
    });
}

#[test]
fn a_client_sees_what_servers_send() {
    let cases: std::sync::Arc<[Case]> = Cases::of(false).into();
    let known = cases.clone();
    let server = Server::start(move |stream, path| {
        let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        by_hand(stream, &known[number].steps)
    });
    compare(&cases, &server, |address, path, _| {
        let (stream, _) = upgraded(address, path, "");
        let library = echo(&mut by_library(stream, Role::Client));
        (server.saw(path), library)
    });
}

#[test]
fn lengths_are_written_in_the_shortest_form() {
    let agent = TestAgent::named("frames").start();
    let server = Server::echoing();
    let proxy = inspected(&agent, &server, "websocket").start();
    proxy.wait_ready();
    for (number, head) in [
        &[0x81, 0xfe, 0, 1][..],
        &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 200],
        &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/ws/{number}");
        let (stream, _) = upgraded(proxy.address_of("http"), &path, "");
        let seen = by_hand(stream, &[Step::Send([head, &[0; 8]].concat())]);
        assert!(seen[0].starts_with("close 1002 "), "{seen:?}");
        assert_eq!(server.saw(&path)[0], "close 1001 ");
        let line = proxy.access_line_of(&path);
        assert_eq!(line["reason"], "websocket_protocol_error", "{line}");
        assert_eq!(line["websocket"]["close_code"], 1002, "{line}");
    }
}
