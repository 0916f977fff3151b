//! Agents of version 1, over a Unix socket and over HTTP: they decide like any other, and what they do wrong is a failure like
//! any other.

use crate::harness::{
    Answer, Origin, Proxy, RawClient, eventually,
    old_agent::{OldAgent, Over, Reply},
    proxy::Builder,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

const BOTH: [Over; 2] = [Over::Socket, Over::Http];

/// A proxy that asks this agent about everything, by the name `old`. Not started yet.
fn asking(agent: &OldAgent, origin: &Origin, kdl: &str) -> Builder {
    Proxy::builder(r#"routes { route "all" { filters { agent "old" }; upstream "origin" } }"#)
        .origin(origin)
        .agent_block("old", &agent.block(kdl))
}

fn asked(agent: &OldAgent, origin: &Origin, kdl: &str) -> Proxy {
    let proxy = asking(agent, origin, kdl).start();
    proxy.wait_ready();
    proxy
}

fn path_of(payload: &Value) -> &str {
    let uri = payload["uri"].as_str().unwrap();
    uri.split('?').next().unwrap()
}

fn post(proxy: &Proxy, path: &str, body: &str) -> crate::harness::Response {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a.example\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    proxy.client().send(request).response()
}

#[test]
fn heads_are_allowed_blocked_redirected_and_changed() {
    for over in BOTH {
        let agent = OldAgent::start(over, |_, payload| {
            Reply::Answer(match path_of(payload) {
                "/block" => json!({"decision": {"block":
                    {"status": 451, "body": "not here", "headers": {"x-why": "old"}}}}),
                "/redirect" => json!({"decision": {"redirect":
                    {"url": "https://elsewhere.example/", "status": 307}}}),
                _ => json!({"decision": "allow",
                    "request_headers": [
                        {"set": {"name": "x-seen", "value": payload["metadata"]["client_ip"]}},
                        {"remove": {"name": "x-secret"}}],
                    "response_headers": [{"add": {"name": "x-judged", "value": "yes"}}]}),
            })
        });
        let origin = Origin::start();
        let proxy = asked(&agent, &origin, r#"timeout "10s""#);

        let allowed = proxy.get_with("/a?b=c", &["x-secret: 1"]);
        assert_eq!(allowed.status, 200);
        assert_eq!(allowed.header("x-judged"), Some("yes"));
        let request = origin.last();
        assert_eq!(request.header("x-seen").as_deref(), Some("127.0.0.1"));
        assert_eq!(request.header("x-secret"), None);

        let blocked = proxy.get("/block");
        assert_eq!(blocked.status, 451);
        assert_eq!(blocked.text(), "not here");
        assert_eq!(blocked.header("x-why"), Some("old"));
        let line = proxy.access_line_of("/block");
        assert_eq!(line["blocked_by"], "old");

        let redirected = proxy.get("/redirect");
        assert_eq!(redirected.status, 307);
        assert_eq!(
            redirected.header("location"),
            Some("https://elsewhere.example/")
        );
        assert_eq!(origin.requests().len(), 1);
        let kinds: Vec<Value> = agent
            .questions()
            .iter()
            .map(|question| question["event_type"].clone())
            .collect();
        assert_eq!(kinds, ["request_headers"; 3]);
    }
}

#[test]
fn bodies_are_judged_and_changed_in_both_directions() {
    for over in BOTH {
        let agent = OldAgent::start(over, |kind, payload| {
            let data = payload["data"]
                .as_str()
                .map(|data| STANDARD.decode(data).unwrap());
            let text = String::from_utf8(data.unwrap_or_default()).unwrap();
            let replace = |from: &str, to: &str| STANDARD.encode(text.replace(from, to));
            Reply::Answer(match kind {
                "request_body_chunk" if text.contains("attack") => {
                    json!({"decision": {"block": {"status": 403}}})
                }
                "request_body_chunk" => json!({"decision": "allow",
                    "request_body_mutation": {"data": replace("cat", "tiger")}}),
                "response_headers" => json!({"decision": "allow",
                    "response_headers": [{"set": {"name": "x-status", "value": payload["status"].to_string()}}]}),
                "response_body_chunk" => json!({"decision": "allow",
                    "response_body_mutation": {"data": replace("secret", "***"), "chunk_index": 0}}),
                _ => json!({"decision": "allow"}),
            })
        });
        let origin = Origin::answering(|_| Answer::ok("my secret"));
        let inspect = r#"timeout "10s"; inspect { request-headers; request-body "buffer"; response-headers; response-body "buffer"; request-complete }"#;
        let proxy = asked(&agent, &origin, inspect);

        let answer = post(&proxy, "/", "a cat");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), "my ***");
        assert_eq!(answer.header("x-status"), Some("200"));
        assert_eq!(origin.last().body, b"a tiger");
        agent.saw(|question| {
            question["event_type"] == "request_complete" && question["payload"]["status"] == 200
        });

        assert_eq!(post(&proxy, "/", "an attack").status, 403);
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn failures_are_named_and_the_mode_decides() {
    for over in BOTH {
        let agent = OldAgent::start(over, |_, payload| match path_of(payload) {
            "/hang" => Reply::Hang,
            "/close" => Reply::Close,
            "/garbage" => Reply::Garbage,
            "/invalid" => Reply::Answer(json!({"decision": {"block": {"status": 99}}})),
            "/future" => Reply::Answer(json!({"decision": {"overloaded": {"retry_after_ms": 1}}})),
            _ => Reply::allow(),
        });
        let origin = Origin::start();
        let table = [
            ("/hang", 504, "timeout"),
            ("/close", 503, "unreachable"),
            ("/garbage", 502, "protocol_error"),
            ("/invalid", 502, "protocol_error"),
            ("/future", 502, "protocol_error"),
        ];
        for mode in ["closed", "open"] {
            let kdl =
                format!(r#"timeout "300ms"; failure-mode "{mode}"; circuit-breaker failures=1000"#);
            let proxy = asked(&agent, &origin, &kdl);
            for (path, status, reason) in table {
                let expected = if mode == "open" { 200 } else { status };
                assert_eq!(proxy.get(path).status, expected, "{over:?} {path} {mode}");
                let line = proxy.access_line_of(path);
                assert!(
                    line.to_string().contains(reason),
                    "{over:?} {path} {mode}: {line}"
                );
                // Nothing of it is left for the next request.
                eventually("the next verdict", || {
                    (proxy.get("/fine").status == 200).then_some(())
                });
            }
        }
    }
}

#[test]
fn d12_no_late_answer_is_the_verdict_of_another_request() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 60;
    for over in BOTH {
        let numbers = AtomicU64::new(1);
        let agent = OldAgent::start(over, move |_, payload| {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            // Between nothing and twice the timeout.
            let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            thread::sleep(Duration::from_micros(random % 40_000));
            let set = json!({"set": {"name": "x-verdict", "value": path_of(payload)}});
            let answer = json!({"decision": "allow", "response_headers": [set]});
            match number % 10 {
                0 => Reply::Twice(answer),
                1 => Reply::Close,
                _ => Reply::Answer(answer),
            }
        });
        let origin = Origin::start();
        let kdl = r#"timeout "20ms"; pool max=8; circuit-breaker failures=1000000"#;
        let proxy = asked(&agent, &origin, kdl);
        let address = proxy.address_of("http");
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                thread::spawn(move || {
                    let mut statuses = BTreeMap::new();
                    for request in 0..REQUESTS {
                        let path = format!("/{client}/{request}");
                        let answer = RawClient::connect(address).get(&path, &[]);
                        if answer.status == 200 {
                            assert_eq!(answer.header("x-verdict"), Some(&*path));
                        }
                        *statuses.entry(answer.status).or_insert(0) += 1;
                    }
                    statuses
                })
            })
            .collect();
        let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
        for client in clients {
            for (status, count) in client.join().unwrap() {
                *statuses.entry(status).or_default() += count;
            }
        }
        let count = |status| statuses.get(&status).copied().unwrap_or_default();
        assert!(count(200) > 20 && count(504) > 20, "{over:?}: {statuses:?}");
        eventually("nothing under way", || {
            let under_way = proxy.metric(r#"portcullis_agent_in_flight{agent="old"}"#);
            (under_way == 0.0).then_some(())
        });
    }
}

#[test]
fn an_agent_that_is_taken_away_is_unreachable_until_it_is_back() {
    for over in BOTH {
        let agent = OldAgent::start(over, |_, payload| {
            let set = json!({"set": {"name": "x-seen", "value": path_of(payload)}});
            Reply::Answer(json!({"decision": "allow", "request_headers": [set]}))
        });
        let origin = Origin::start();
        let proxy = asked(&agent, &origin, r#"timeout "1s""#);
        for _ in 0..3 {
            // Each worker finds its own way back.
            eventually("verdicts", || {
                (proxy.get("/before").status == 200).then_some(())
            });
            agent.stop();
            eventually("refusals", || {
                (proxy.get("/away").status == 503).then_some(())
            });
            let line = proxy.access_line_of("/away");
            assert_eq!(line["reason"], "unreachable", "{over:?}: {line}");
            agent.start_again();
            eventually("verdicts", || {
                (proxy.get("/back").status == 200).then_some(())
            });
        }
        let seen = origin.requests();
        assert!(
            seen.iter()
                .all(|request| request.header("x-seen").is_some())
        );
    }
}

#[test]
fn the_configuration_is_handed_over_and_may_be_refused() {
    for over in BOTH {
        let agent = OldAgent::start(over, |kind, payload| {
            match (kind, payload["config"]["rules"].as_str()) {
                ("configure", Some("good.conf")) => Reply::allow(),
                ("configure", _) => Reply::Answer(json!({"decision":
                    {"block": {"status": 500, "body": "no such rule"}}})),
                _ => Reply::allow(),
            }
        });
        let origin = Origin::start();
        let proxy = asked(
            &agent,
            &origin,
            r#"timeout "10s"; config { rules "good.conf" }"#,
        );
        assert_eq!(proxy.get("/").status, 200);
        let configured = agent.questions().swap_remove(0);
        let payload = json!({"agent_id": "old", "config": {"rules": "good.conf"}});
        let expected = json!({"version": 1, "event_type": "configure", "payload": payload});
        assert_eq!(configured, expected);

        let proxy = asking(
            &agent,
            &origin,
            r#"timeout "10s"; config { rules "bad.conf" }"#,
        )
        .start();
        eventually("the refusal", || {
            let answer = proxy.probe("/readyz?verbose");
            assert_eq!(answer.status, 503);
            answer.text().contains("no such rule").then_some(())
        });
        assert_eq!(proxy.get("/").status, 503);
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn texts_are_shown_and_what_is_found_in_them_is_obeyed() {
    for over in BOTH {
        let agent = OldAgent::start(over, |kind, payload| {
            assert_eq!(kind, "guardrail_inspect");
            let detected = payload["content"].as_str().unwrap().contains("123");
            let result =
                json!({"detected": detected, "detections": [{"category": "phone"}]}).to_string();
            let result = json!({"guardrail_response": result});
            Reply::Answer(json!({"decision": "allow", "routing_metadata": result}))
        });
        let origin = Origin::start();
        let proxy = Proxy::builder(
            r#"routes { route "llm" {
                filters { guardrail agent="old" inspect="pii-detection" { request "/prompt" } }
                upstream "origin"
            } }"#,
        )
        .origin(&origin)
        .agent_block("old", &agent.block("timeout \"10s\""))
        .start();
        proxy.wait_ready();
        assert_eq!(
            post(&proxy, "/found", r#"{"prompt":"call 123"}"#).status,
            403
        );
        let line = proxy.access_line_of("/found");
        assert_eq!(line["reason"], "phone", "{over:?}: {line}");
        assert_eq!(
            post(&proxy, "/clean", r#"{"prompt":"call me"}"#).status,
            200
        );
        assert_eq!(origin.requests().len(), 1, "{over:?}");
    }
}

#[test]
fn no_more_questions_at_once_than_the_pool_has_sockets() {
    let agent = OldAgent::start(Over::Socket, |_, payload| match path_of(payload) {
        "/slow/hang" => Reply::Hang,
        _ => Reply::allow(),
    });
    let origin = Origin::start();
    let kdl = r#"
routes {
    route "slow" { match { path-prefix "/slow" }; filters { agent "old" timeout="2s" }; upstream "origin" }
    route "fast" { match { path-prefix "/" }; filters { agent "old" timeout="100ms" }; upstream "origin" }
}
system { worker-threads 1 }"#;
    let proxy = Proxy::builder(kdl)
        .origin(&origin)
        .agent_block("old", &agent.block("pool min=1 max=2"))
        .start();
    proxy.wait_ready();
    let mut slow: Vec<_> = (0..2)
        .map(|_| {
            let mut client = proxy.client();
            client.send("GET /slow/hang HTTP/1.1\r\nhost: a.example\r\n\r\n");
            client
        })
        .collect();
    eventually("two questions", || {
        (agent.questions().len() == 2).then_some(())
    });
    // Waiting for a socket is no fault of the agent's.
    assert_eq!(proxy.get("/fast").status, 503);
    assert_eq!(proxy.access_line_of("/fast")["reason"], "saturated");
    assert_eq!(agent.questions().len(), 2);
    for client in &mut slow {
        assert_eq!(client.response().status, 504);
    }
    // Both have taken their sockets with them, and others are there at once.
    assert_eq!(proxy.get("/fast").status, 200);
}
