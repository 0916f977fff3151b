//! What each mode means in the plainest case, with the library's agent and with an old one.

use super::{Framing, saying, send, through};
use crate::harness::{
    Origin, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
};
use portcullis_agent_protocol::Decision;

const DIALECTS: [Dialect; 4] = [
    Dialect::Binary,
    Dialect::NumberedJson,
    Dialect::Json,
    Dialect::Legacy,
];
const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::Chunks(3)];

#[test]
fn a_request_body_passes_unchanged() {
    for mode in ["buffer", "stream"] {
        for dialect in DIALECTS {
            let origin = Origin::start();
            let agent = TestAgent::named("waf").speaking(dialect).start();
            let inspect = format!("request-headers; request-body \"{mode}\"");
            let proxy = through(&agent, &inspect, &origin);
            for framing in FRAMINGS {
                let case = format!("{mode} {dialect:?} {framing:?}");
                assert_eq!(send(&proxy, b"hello world", framing).status, 200, "{case}");
                assert_eq!(origin.last().body, b"hello world", "{case}");
                assert!(origin.last().complete, "{case}");
            }
            let seen = agent.seen("request_body_chunk");
            let text: String = seen
                .iter()
                .map(|chunk| chunk["data"].as_str().unwrap())
                .collect();
            assert_eq!(text, "hello worldhello world", "{mode} {dialect:?}");
            assert_eq!(seen.last().unwrap()["is_last"], true);
        }
    }
}

#[test]
fn d03_a_blocked_body_does_not_reach_the_upstream() {
    for dialect in DIALECTS {
        let origin = Origin::start();
        let agent = TestAgent::named("waf")
            .speaking(dialect)
            .then(
                Phase::RequestBody,
                When::Holds("attack".into()),
                Decision::block(403).with_body("no"),
            )
            .start();
        let proxy = through(&agent, "request-body \"buffer\"", &origin);
        for framing in FRAMINGS {
            let response = send(&proxy, b"an attack", framing);
            assert_eq!(response.status, 403, "{dialect:?} {framing:?}");
            assert_eq!(response.body, b"no");
        }
        assert_eq!(origin.connections(), 0, "{dialect:?}");
        let line = proxy.access_line(|line| line["status"] == 403);
        assert_eq!(line["blocked_by"], "waf");
        assert_eq!(line["agents"][0]["phase"], "request_body");
        assert_eq!(line["agents"][0]["verdict"], "block");
    }
}

#[test]
fn a_request_body_is_replaced() {
    for mode in ["buffer", "stream"] {
        for dialect in DIALECTS {
            let origin = Origin::start();
            let agent = TestAgent::named("waf")
                .speaking(dialect)
                .then(
                    Phase::RequestBody,
                    When::Holds("secret".into()),
                    Reaction::Replace("[$DATA]".into()),
                )
                .start();
            let proxy = through(&agent, &format!("request-body \"{mode}\""), &origin);
            for framing in [Framing::Length, Framing::Chunks(64)] {
                let case = format!("{mode} {dialect:?} {framing:?}");
                assert_eq!(send(&proxy, b"a secret", framing).status, 200, "{case}");
                assert_eq!(origin.last().body, b"[a secret]", "{case}");
                assert!(origin.last().complete, "{case}");
            }
        }
    }
}

#[test]
fn a_response_passes_is_replaced_or_blocked() {
    for mode in ["buffer", "stream"] {
        for dialect in DIALECTS {
            let agent = TestAgent::named("dlp")
                .speaking(dialect)
                .then(
                    Phase::ResponseBody,
                    When::Holds("secret".into()),
                    Reaction::Replace("[$DATA]".into()),
                )
                .start();
            for (said, got) in [("hello", "hello"), ("a secret", "[a secret]")] {
                let origin = saying(said);
                let proxy = through(&agent, &format!("response-body \"{mode}\""), &origin);
                let response = proxy.get("/");
                let case = format!("{mode} {dialect:?} {said}");
                assert_eq!(response.status, 200, "{case}");
                assert_eq!(String::from_utf8_lossy(&response.body), got, "{case}");
            }
        }
    }
}

#[test]
fn d01_a_response_is_blocked_and_nothing_of_it_leaks() {
    for (phase, inspect) in [
        (Phase::ResponseHeaders, "response-headers"),
        (Phase::ResponseBody, "response-body \"buffer\""),
    ] {
        for dialect in DIALECTS {
            let origin = saying("a secret");
            let block = Decision::block(451)
                .with_body("no")
                .with_header("x-why", "dlp");
            let agent = TestAgent::named("dlp")
                .speaking(dialect)
                .then(phase, When::Always, block)
                .start();
            let proxy = through(&agent, inspect, &origin);
            let response = proxy.get("/");
            let case = format!("{inspect} {dialect:?}");
            assert_eq!(response.status, 451, "{case}");
            assert_eq!(response.body, b"no", "{case}");
            assert_eq!(response.header("x-why"), Some("dlp"), "{case}");
            assert_eq!(response.header("etag"), None, "{case}");
        }
    }
}

#[test]
fn an_agent_is_told_that_a_request_is_over() {
    for dialect in DIALECTS {
        let origin = saying("four");
        let agent = TestAgent::named("log")
            .speaking(dialect)
            .on("/blocked", Decision::block(403))
            .start();
        let proxy = through(&agent, "request-headers; request-complete", &origin);
        assert_eq!(proxy.get("/blocked").status, 403);
        assert_eq!(proxy.get("/").status, 200);
        let statuses: Vec<_> = agent
            .wait_seen("request_complete", 2)
            .iter()
            .map(|event| event["status"].clone())
            .collect();
        assert_eq!(statuses, [403, 200], "{dialect:?}");
    }
}
