//! Bodies with a content coding: what agents see of them and what arrives.

use super::{
    DIRECTIONS, Direction, Framing, MODES, body, line_of, outcomes, past, post, sizes, text,
};
use crate::harness::{
    Answer, Origin, Proxy, TestAgent,
    agent::{Reaction, When},
};
use brotli::enc::BrotliEncoderParams;
use flate2::{Compression, write};
use serde_json::Value;
use std::{collections::BTreeMap, io::Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    pub(super) const ALL: [Self; 4] = [Self::Gzip, Self::Deflate, Self::Brotli, Self::Zstd];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn encode(self, mut text: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        match self {
            Self::Gzip => {
                let mut encoder = write::GzEncoder::new(&mut encoded, Compression::default());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap();
            }
            Self::Deflate => {
                let mut encoder = write::ZlibEncoder::new(&mut encoded, Compression::default());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap();
            }
            Self::Brotli => {
                let parameters = BrotliEncoderParams {
                    quality: 5,
                    ..BrotliEncoderParams::default()
                };
                brotli::BrotliCompress(&mut text, &mut encoded, &parameters).unwrap();
            }
            Self::Zstd => encoded = zstd::encode_all(text, 1).unwrap(),
        }
        encoded
    }
}

/// What describes a body as it was before anybody changed it.
const DESCRIPTIONS: [(&str, &str); 4] = [
    ("etag", "\"1\""),
    ("accept-ranges", "bytes"),
    ("content-digest", "sha-256=:AA==:"),
    ("content-md5", "AA=="),
];

/// An origin that answers with this body.
fn saying(coding: &'static str, body: Vec<u8>) -> Origin {
    Origin::answering(move |_| {
        let mut headers = vec![("content-encoding", coding)];
        headers.extend(DESCRIPTIONS);
        Answer::with(200, &headers, &body)
    })
}

/// What has come of a message on the other side.
struct Arrived {
    /// Those that describe the body.
    headers: BTreeMap<&'static str, String>,
    body: Vec<u8>,
}

impl Arrived {
    fn new(body: Vec<u8>, header: impl Fn(&str) -> Option<String>) -> Self {
        let names = DESCRIPTIONS.map(|(name, _)| name).into_iter();
        let names = names.chain(["content-encoding", "content-length"]);
        let headers = names.filter_map(|name| Some((name, header(name)?)));
        Self {
            headers: headers.collect(),
            body,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Checks that it is this text, without a coding, and that nothing is said of what it was.
    fn assert_decoded(&self, text: &[u8], case: &str) {
        assert!(self.body == text, "{case}: {} bytes", self.body.len());
        for name in ["content-encoding", "content-digest", "content-md5"] {
            assert_eq!(self.header(name), None, "{case}");
        }
        let length = self.header("content-length");
        let length = length.map(|length| length.parse::<usize>().unwrap());
        assert!(length.is_none_or(|length| length == text.len()), "{case}");
    }
}

/// An agent that puts brackets around what holds this word, before a proxy.
pub(super) struct Way {
    direction: Direction,
    agent: TestAgent,
    pub(super) origin: Origin,
    pub(super) proxy: Proxy,
}

const MARK: &str = "secret";

impl Way {
    pub(super) fn new(
        direction: Direction,
        mode: &str,
        properties: &str,
        coding: &'static str,
        body: &[u8],
    ) -> Self {
        let agent = TestAgent::named("waf")
            .preferring(8 << 20)
            .then(
                direction.phase(),
                When::Holds(MARK.into()),
                Reaction::Replace("[$DATA]".into()),
            )
            .start();
        let origin = saying(coding, body.to_vec());
        let proxy = past(r#"agent "waf""#, &origin)
            .agent_with(&agent, &direction.inspect(mode, properties))
            .start();
        proxy.wait_ready();
        Self {
            direction,
            agent,
            origin,
            proxy,
        }
    }

    /// Has a body go in the direction.
    fn carry(&self, coding: &str, body: &[u8], framing: Framing) -> Arrived {
        let mut client = self.proxy.client();
        if self.direction == Direction::Response {
            let response = client.get("/", &[]);
            assert_eq!((response.status, response.complete), (200, true));
            return Arrived::new(response.body.clone(), |name| {
                response.header(name).map(str::to_owned)
            });
        }
        let coding = format!("content-encoding: {coding}");
        let mut lines = vec![coding.as_str()];
        lines.extend(["content-digest: sha-256=:AA==:", "content-md5: AA=="]);
        client.send(post("/", body, framing, &lines));
        assert_eq!(client.response().status, 200);
        let request = self.origin.last();
        assert!(request.complete);
        Arrived::new(request.body.clone(), |name| request.header(name))
    }

    pub(super) fn seen(&self) -> Vec<Value> {
        self.agent.seen(self.direction.event())
    }
}

pub(super) const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::Chunks(100)];

#[test]
fn a_held_body_that_nobody_changes_arrives_as_it_came() {
    for direction in DIRECTIONS {
        for coding in Coding::ALL {
            let clear = body(3000);
            let coded = coding.encode(&clear);
            let way = Way::new(direction, "buffer", "", coding.name(), &coded);
            for framing in FRAMINGS {
                let case = format!("{direction:?} {coding:?} {framing:?}");
                let arrived = way.carry(coding.name(), &coded, framing);
                assert!(arrived.body == coded, "{case}");
                assert_eq!(
                    arrived.header("content-encoding"),
                    Some(coding.name()),
                    "{case}"
                );
                let length = coded.len().to_string();
                assert_eq!(arrived.header("content-length"), Some(&*length), "{case}");
                let digest = Some("sha-256=:AA==:");
                assert_eq!(arrived.header("content-digest"), digest, "{case}");
                if direction == Direction::Response {
                    assert_eq!(arrived.header("etag"), Some("\"1\""), "{case}");
                }
            }
            let seen = way.seen();
            assert_eq!(sizes(&seen), [3000; 2], "{direction:?} {coding:?}");
            let beginning = String::from_utf8_lossy(&clear[..256]).into_owned();
            assert_eq!(text(&seen), beginning.repeat(2), "{direction:?} {coding:?}");
        }
    }
}

#[test]
fn a_held_body_that_is_replaced_arrives_decoded() {
    for direction in DIRECTIONS {
        for coding in Coding::ALL {
            let clear = [&body(3000), MARK.as_bytes()].concat();
            let coded = coding.encode(&clear);
            let way = Way::new(direction, "buffer", "", coding.name(), &coded);
            for framing in FRAMINGS {
                let case = format!("{direction:?} {coding:?} {framing:?}");
                let arrived = way.carry(coding.name(), &coded, framing);
                let replaced = [b"[", &clear[..], b"]"].concat();
                arrived.assert_decoded(&replaced, &case);
                let length = replaced.len().to_string();
                assert_eq!(arrived.header("content-length"), Some(&*length), "{case}");
                assert_eq!(arrived.header("etag"), None, "{case}");
                assert_eq!(arrived.header("accept-ranges"), None, "{case}");
            }
        }
    }
}

#[test]
fn a_streamed_body_arrives_decoded() {
    for direction in DIRECTIONS {
        for coding in Coding::ALL {
            let clear = body(300_000);
            let coded = coding.encode(&clear);
            let way = Way::new(direction, "stream", "", coding.name(), &coded);
            for framing in FRAMINGS {
                let case = format!("{direction:?} {coding:?} {framing:?}");
                let arrived = way.carry(coding.name(), &coded, framing);
                arrived.assert_decoded(&clear, &case);
                assert_ne!(arrived.header("etag"), Some("\"1\""), "{case}");
                assert_eq!(arrived.header("accept-ranges"), None, "{case}");
            }
            let seen = sizes(&way.seen()).iter().sum::<u64>();
            assert_eq!(seen, 600_000, "{direction:?} {coding:?}");
        }
    }
}

#[test]
fn an_agent_can_see_a_body_as_it_is_transferred() {
    for direction in DIRECTIONS {
        for mode in MODES {
            // Nobody looks into it, so that it need not be what its coding says.
            for (coding, body) in [
                ("gzip", Coding::Gzip.encode(&body(3000))),
                ("pack", body(9)),
            ] {
                let case = format!("{direction:?} {mode} {coding}");
                let way = Way::new(direction, mode, "encoded=\"raw\"", coding, &body);
                let arrived = way.carry(coding, &body, Framing::Length);
                assert!(arrived.body == body, "{case}");
                assert_eq!(arrived.header("content-encoding"), Some(coding), "{case}");
                let seen = sizes(&way.seen()).iter().sum::<u64>();
                assert_eq!(seen, body.len() as u64, "{case}");
            }
        }
    }
}

/// How much it becomes is what counts, not how much it is.
#[test]
fn the_limit_is_that_of_the_decoded_body() {
    let clear = body(2000);
    let coded = Coding::Zstd.encode(&clear);
    assert!(coded.len() < 1000);
    let way = Way::new(Direction::Request, "buffer", "limit=\"1000B\"", "zstd", b"");
    let request = post("/", &coded, Framing::Length, &["content-encoding: zstd"]);
    assert_eq!(way.proxy.client().send(request).response().status, 413);
    assert_eq!(
        outcomes(&line_of(&way.proxy, "/"), "request_body"),
        [("waf".to_owned(), "oversize".to_owned())]
    );
    assert_eq!(way.origin.connections(), 0);
}

/// No bytes are no coding that is broken.
#[test]
fn an_empty_body_with_a_coding_passes() {
    for direction in DIRECTIONS {
        for mode in MODES {
            for coding in Coding::ALL {
                let way = Way::new(direction, mode, "", coding.name(), b"");
                for framing in FRAMINGS {
                    let arrived = way.carry(coding.name(), b"", framing);
                    assert_eq!(
                        arrived.body, b"",
                        "{direction:?} {mode} {coding:?} {framing:?}"
                    );
                }
            }
        }
    }
}

/// What grows more than usual can be permitted.
#[test]
fn the_ratio_is_what_is_configured() {
    let zeros = vec![0; 4 << 20];
    let coded = Coding::Gzip.encode(&zeros);
    let ratio = zeros.len() / coded.len();
    assert!(ratio > 100);
    for direction in DIRECTIONS {
        for mode in MODES {
            let properties = format!("limit=\"8MiB\" max-ratio={}", ratio * 2);
            let way = Way::new(direction, mode, &properties, "gzip", &coded);
            let arrived = way.carry("gzip", &coded, Framing::Length);
            let expected = if mode == "buffer" { &coded } else { &zeros };
            assert!(arrived.body == *expected, "{direction:?} {mode}");
            let seen = sizes(&way.seen()).iter().sum::<u64>();
            assert_eq!(seen, zeros.len() as u64, "{direction:?} {mode}");
        }
    }
}

/// The agent judges the decoded beginning, and what goes on is what came, unless the agent has changed the beginning.
#[test]
fn a_coded_body_over_the_limit_goes_on_as_it_came_unless_it_is_changed() {
    const LIMIT: usize = 100 << 10;
    for direction in DIRECTIONS {
        for on_oversize in ["truncate", "skip"] {
            for mark in ["", MARK] {
                // Much comes behind the limit.
                let clear = [mark.as_bytes(), &body(3 << 20)].concat();
                let coded = Coding::Gzip.encode(&clear);
                assert!(coded.len() > 5 * LIMIT);
                let properties = format!("limit=\"{LIMIT}B\" on-oversize=\"{on_oversize}\"");
                let way = Way::new(direction, "buffer", &properties, "gzip", &coded);
                for framing in [Framing::Length, Framing::Chunks(10_000)] {
                    let case = format!("{direction:?} {on_oversize} {mark:?} {framing:?}");
                    let arrived = way.carry("gzip", &coded, framing);
                    if on_oversize == "skip" || mark.is_empty() {
                        assert!(arrived.body == coded, "{case}");
                        assert_eq!(arrived.header("content-encoding"), Some("gzip"), "{case}");
                    } else {
                        let (shown, rest) = clear.split_at(LIMIT);
                        let replaced = [b"[", shown, b"]", rest].concat();
                        arrived.assert_decoded(&replaced, &case);
                    }
                }
                let seen = sizes(&way.seen());
                let expected = match on_oversize {
                    "truncate" => vec![LIMIT as u64; 2],
                    _ => Vec::new(),
                };
                assert_eq!(seen, expected, "{direction:?} {on_oversize} {mark:?}");
            }
        }
    }
}
