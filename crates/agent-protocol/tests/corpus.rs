//! Runs every decoder over its corpus, as the fuzz targets do, and keeps the
//! seeds in the corpora what they should be. With `UPDATE_CORPUS=1` the seeds
//! are written. Other files in a corpus, such as what a fuzzer has found, are
//! run and left alone.
#![expect(clippy::unwrap_used, reason = "it is what the tests assert")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use portcullis_agent_protocol::codec::frame::{self, MAX_FRAME_BYTES, MessageType};
use portcullis_agent_protocol::codec::{Answer, EventId, NoDecision, binary, json};
use portcullis_agent_protocol::{
    BodyChunk, Decision, Event, Extensions, FrameOpcode, GuardrailResult, KeyPart, RequestHeaders,
    RequestMetadata, WebSocketFrame,
};

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets reach it")]
mod decoders;
mod protocol_page;

type Decoder = fn(&[u8]);

/// The fuzz targets, and which examples of docs/protocol.md are their seeds.
const TARGETS: [(&str, Decoder, &[&str]); 10] = [
    ("frame", decoders::frame, &["frame-allow"]),
    (
        "handshake_request",
        decoders::handshake_request,
        &[
            "handshake-request",
            "configure",
            "configure-event-id",
            "configure-later",
            "registration",
        ],
    ),
    (
        "handshake_response",
        decoders::handshake_response,
        &["handshake-response", "registration-reply"],
    ),
    (
        "json_event",
        decoders::json_event,
        &[
            "request-headers",
            "request-headers-event-id",
            "request-body-chunk",
            "response-headers",
            "response-body-chunk",
            "response-body-chunk-event-id",
            "websocket-frame",
            "guardrail-inspect",
            "guardrail-inspect-event-id",
            "request-complete",
        ],
    ),
    (
        "json_answer",
        decoders::json_answer,
        &[
            "answer",
            "answer-body",
            "answer-close",
            "answer-frame",
            "answer-guardrail",
            "answer-ttl",
            "answer-event-id",
            "answer-error",
            "answer-overloaded",
        ],
    ),
    (
        "json_control",
        decoders::json_control,
        &[
            "cancel",
            "cancel-event-id",
            "ping",
            "health",
            "flow-control",
            "verdict-purge",
            "metrics-report",
            "config-update-request",
        ],
    ),
    (
        "binary_event",
        decoders::binary_event,
        &[
            "binary-request-headers",
            "binary-body-chunk",
            "binary-body-chunk-last",
            "binary-response-headers",
            "binary-websocket-frame",
            "binary-guardrail-inspect",
            "binary-request-complete",
        ],
    ),
    (
        "binary_answer",
        decoders::binary_answer,
        &[
            "binary-block",
            "binary-redirect",
            "binary-replace",
            "binary-drop",
            "binary-error",
            "binary-overloaded",
            "binary-frame-replace",
            "binary-frame-close",
            "binary-ttl",
            "binary-guardrail",
        ],
    ),
    (
        "protobuf_event",
        decoders::protobuf_event,
        &[
            "protobuf-handshake-request",
            "protobuf-request-headers",
            "protobuf-request-headers-legacy",
            "protobuf-body-chunk-last",
            "protobuf-guardrail-inspect",
            "protobuf-cancel",
        ],
    ),
    (
        "protobuf_answer",
        decoders::protobuf_answer,
        &[
            "protobuf-answer",
            "protobuf-answer-block",
            "protobuf-answer-body",
            "protobuf-answer-frame",
            "protobuf-answer-error",
            "protobuf-answer-overloaded",
            "protobuf-answer-ttl",
            "protobuf-answer-guardrail",
        ],
    ),
];

/// Messages of other makes, and such that leave nearly everything out.
const TEXTS: [(&str, &str, &str); 22] = [
    (
        "handshake_request",
        "shortest",
        r#"{"supported_versions":[1,2]}"#,
    ),
    (
        "handshake_response",
        "shortest",
        r#"{"protocol_version":2,"success":true}"#,
    ),
    (
        "handshake_response",
        "refusal",
        r#"{"protocol_version":2,"success":false,"error":"no"}"#,
    ),
    (
        "handshake_response",
        "not-offered",
        r#"{"protocol_version":2,"success":true,"encoding":"msgpack","extensions":["telepathy"]}"#,
    ),
    (
        "json_event",
        "offset",
        r#"{"metadata":{"correlation_id":"c","client_ip":"::1","timestamp":"2026-07-01T14:00:00.1234567891+02:00"},"method":"GET","uri":"/\u00e9","headers":{"X":["\"\\","é"]}}"#,
    ),
    (
        "json_event",
        "chunk-shortest",
        r#"{"correlation_id":"c","data":"","is_last":false}"#,
    ),
    (
        "json_event",
        "chunk-escaped",
        r#"{"correlation_id":"c","event_id":7,"data":"\u0061GVs\/+==","is_last":true,"bytes_sent":1,"truncated":false,"trailers":{"x":["1","2"],"y":[]}}"#,
    ),
    (
        "json_event",
        "chunk-not-base64",
        r#"{"correlation_id":"c","event_id":7,"data":"hello, world","is_last":true}"#,
    ),
    (
        "json_event",
        "frame-shortest",
        r#"{"correlation_id":"c","event_id":7,"opcode":"close","data":"","client_to_server":false,"fin":true,"client_ip":"::1"}"#,
    ),
    (
        "json_event",
        "frame-escaped",
        r#"{"correlation_id":"c","event_id":7,"budget_left_us":1,"opcode":"\u0070ing","data":"AA==","client_to_server":true,"frame_index":18446744073709551615,"fin":true,"route_id":"\u00e9","client_ip":"::1"}"#,
    ),
    (
        "json_event",
        "complete-shortest",
        r#"{"correlation_id":"c","status":0}"#,
    ),
    (
        "json_answer",
        "not-base64",
        r#"{"version":2,"decision":"allow","correlation_id":"c","event_id":7,"response_body_mutation":{"data":"hello, world"}}"#,
    ),
    (
        "json_answer",
        "legacy-mutation",
        r#"{"version":2,"decision":{"challenge":{"challenge_type":"captcha","params":{"b":"1","a":"2"}}},"audit":{"custom":{"correlation_id":"c-1"}},"needs_more":true,"request_body_mutation":{"data":"","chunk_index":0},"websocket_decision":{"close":{"code":1008,"reason":"policy"}}}"#,
    ),
    (
        "json_answer",
        "nulls",
        r#"{"version":1,"decision":{"redirect":{"url":"/"}},"correlation_id":"c","request_headers":null,"response_headers":null,"audit":null,"needs_more":null}"#,
    ),
    (
        "json_answer",
        "ttl-unknown-parts",
        r#"{"version":2,"decision":"allow","correlation_id":"c","event_id":7,"websocket_decision":"drop","ttl_ms":99999999999,"vary_ignores":["cookie","telepathy","cookie"]}"#,
    ),
    ("json_control", "purge-bare", "{}"),
    ("json_control", "health-number", r#"{"state":1}"#),
    (
        "json_control",
        "health-object",
        r#"{"agent_id":"a","state":{"status":"draining"}}"#,
    ),
    ("json_control", "flow-number", r#"{"action":1}"#),
    (
        "json_control",
        "flow-object",
        r#"{"correlation_id":null,"action":{"type":"resume"},"timestamp_ms":1}"#,
    ),
    (
        "json_control",
        "metrics",
        r#"{"agent_id":"waf","timestamp_ms":1,"counters":[{"name":"n","labels":{"k":"v"},"value":7}],"histograms":[{"buckets":[{"le":"+Inf","count":3}]}]}"#,
    ),
    (
        "json_control",
        "config-update",
        r#"{"update_type":{"type":"request_reload"},"request_id":"u1","timestamp_ms":1}"#,
    ),
];

/// One answer of each kind.
fn answers() -> [(&'static str, Answer); 14] {
    let block = Decision::block(403)
        .with_body("no")
        .with_header("x-why", "waf")
        .tag("t")
        .rule_id("942100")
        .confidence(0.9)
        .custom("n", 1)
        .custom("f", 1.5);
    let challenge = Decision::challenge("captcha")
        .with_param("site_key", "k")
        .add_response_header("x-d", "3")
        .remove_request_header("x-c");
    let bodies = Decision::allow()
        .replace_request_body(vec![0xff; 100])
        .replace_response_body("");
    let ttl = KeyPart::ALL.into_iter().fold(
        Decision::allow().hold_for(Duration::MAX),
        Decision::whatever_the,
    );
    [
        ("bodies", Ok(bodies)),
        ("allow", Ok(Decision::allow())),
        ("block-bare", Ok(Decision::block(451))),
        ("block", Ok(block)),
        (
            "redirect",
            Ok(Decision::redirect_with_status("https://e.com/", 308)),
        ),
        ("challenge", Ok(challenge.provisional())),
        ("failure", Err(NoDecision::Failed("no idea".to_owned()))),
        ("frame-drop", Ok(Decision::allow().drop_frame())),
        (
            "frame-replace",
            Ok(Decision::allow().replace_frame(vec![0xff; 100])),
        ),
        (
            "frame-close",
            Ok(Decision::allow().close_websocket(4999, "é")),
        ),
        ("ttl", Ok(ttl)),
        (
            "guardrail",
            Ok(Decision::block(403).with_guardrail(
                GuardrailResult::found_at("é", "", 0..usize::MAX)
                    .and("x", "y", None)
                    .with_redacted_content("\u{0}"),
            )),
        ),
        ("overload-bare", overloaded(None)),
        ("overload-far", overloaded(Some(Duration::MAX))),
    ]
}

fn overloaded(retry_after: Option<Duration>) -> Answer {
    Err(NoDecision::Overloaded { retry_after })
}

/// An event with what the one on the page does not have, and a section that nobody knows yet.
fn event() -> Vec<u8> {
    let mut headers = HeaderMap::new();
    for value in [&b"a=1"[..], b"\xff\xfe", b""] {
        headers.append("cookie", HeaderValue::from_bytes(value).unwrap());
    }
    let event = RequestHeaders {
        metadata: RequestMetadata {
            correlation_id: "",
            request_id: "r",
            client_ip: IpAddr::V6(Ipv6Addr::LOCALHOST),
            client_port: 0,
            server_name: Some("example.com"),
            protocol: "HTTP/2",
            tls_version: Some("TLSv1.3"),
            tls_cipher: Some(""),
            client_certificate: None,
            route_id: None,
            upstream_id: None,
            timestamp: UNIX_EPOCH,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        },
        method: "POST",
        uri: "/",
        headers: &headers,
        budget_left: None,
    };
    let mut out = Vec::new();
    binary::encode_request_headers(&mut out, u64::MAX, &event);
    out.extend_from_slice(b"\x99\0\0\0\x01z");
    out
}

/// A piece of a body with everything that there can be, and what nobody knows.
fn chunk() -> Vec<u8> {
    let mut trailers = HeaderMap::new();
    for value in [&b"0"[..], b"\xff", b""] {
        trailers.append("x-t", HeaderValue::from_bytes(value).unwrap());
    }
    let event = Event::ResponseBodyChunk(BodyChunk {
        correlation_id: "c",
        index: u32::MAX,
        data: Bytes::from_static(b"\0\xff"),
        is_last: true,
        total_size: Some(u64::MAX),
        transferred: u64::MAX,
        truncated: true,
        trailers: Some(&trailers),
        budget_left: Some(Duration::MAX),
    });
    let mut out = Vec::new();
    binary::encode_event(&mut out, u64::MAX, &event);
    out.extend_from_slice(b"\x99\0\0\0\x01z");
    out
}

/// A frame with everything that there can be, and what nobody knows.
fn websocket_frame() -> Vec<u8> {
    let event = Event::WebSocketFrame(WebSocketFrame {
        correlation_id: "c",
        opcode: FrameOpcode::Pong,
        data: Bytes::from_static(b"\0\xff"),
        client_to_server: true,
        index: u64::MAX,
        fin: true,
        route_id: Some(""),
        client_ip: IpAddr::V6(Ipv6Addr::LOCALHOST),
        budget_left: Some(Duration::MAX),
    });
    let mut out = Vec::new();
    binary::encode_event(&mut out, u64::MAX, &event);
    out.extend_from_slice(b"\x99\0\0\0\x01z");
    out
}

/// The seeds that are not on the page.
fn further_seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let texts = TEXTS.iter().filter(|(of, _, _)| *of == target);
    let mut seeds: Vec<_> = texts
        .map(|(_, name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    for (name, answer) in answers() {
        let mut out = Vec::new();
        match target {
            "binary_answer" => {
                binary::encode_answer(&mut out, 7, &answer, Extensions::ALL).unwrap()
            }
            "json_answer" => {
                let id = EventId::Number(7);
                json::encode_answer(&mut out, &id, 0, &answer, Extensions::ALL).unwrap();
            }
            _ => continue,
        }
        seeds.push((name.to_owned(), out));
    }
    if target == "binary_event" {
        seeds.push(("with-tls".to_owned(), event()));
        seeds.push(("chunk-with-all".to_owned(), chunk()));
        seeds.push(("frame-with-all".to_owned(), websocket_frame()));
    }
    if target == "frame" {
        let mut frames = Vec::new();
        for kind in MessageType::ALL {
            let payload = |out: &mut Vec<u8>| out.extend_from_slice(b"{}");
            frame::append(&mut frames, kind, MAX_FRAME_BYTES, payload).unwrap();
        }
        seeds.push(("one-of-each".to_owned(), frames));
        seeds.push(("too-long".to_owned(), vec![0xff, 0xff, 0xff, 0xff, 0x20]));
    }
    seeds
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

#[test]
fn the_seeds_are_complete() {
    let page = protocol_page::vectors();
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    let mut used = BTreeSet::new();
    for (target, _, names) in TARGETS {
        let folder = corpus(target);
        let from_page = names.iter().map(|name| {
            used.insert(*name);
            ((*name).to_owned(), page[*name].clone())
        });
        for (name, seed) in from_page.chain(further_seeds(target)) {
            let path = folder.join(&name);
            if update {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, &seed).unwrap();
            }
            let kept = fs::read(&path);
            assert!(
                kept.is_ok_and(|kept| kept == seed),
                "{} is not what it should be; UPDATE_CORPUS=1 writes it",
                path.display()
            );
        }
    }
    let unused: Vec<_> = page
        .keys()
        .filter(|name| !used.contains(&***name))
        .collect();
    assert_eq!(unused, Vec::<&String>::new(), "examples without a target");
}

#[test]
fn every_decoder_bears_its_corpus() {
    for (target, decode, _) in TARGETS {
        let mut files = 0;
        for entry in fs::read_dir(corpus(target)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let borne = std::panic::catch_unwind(|| decode(&bytes));
            assert!(borne.is_ok(), "{}", path.display());
            files += 1;
        }
        assert!(files > 1, "{target} has {files} files");
    }
}

#[test]
fn every_decoder_bears_the_corpora_of_the_others_in_pieces() {
    for (target, _, _) in TARGETS {
        for entry in fs::read_dir(corpus(target)).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            for length in 0..=bytes.len().min(600) {
                for (_, decode, _) in TARGETS {
                    decode(&bytes[..length]);
                }
            }
        }
    }
}

#[test]
fn every_target_is_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let files = fs::read_dir(folder).unwrap();
    let names: BTreeSet<String> = files
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let here: BTreeSet<String> = TARGETS.map(|(name, _, _)| name.to_owned()).into();
    assert_eq!(names, here);
}
