//! Nobody gets a verdict about another: each part of the key has requests that differ in it alone.

use super::{KEPT, LONG, held, kept, record, was_known};
use crate::harness::{Origin, Proxy, RawClient, Response, TestAgent, proxy::Builder};
use portcullis_agent_protocol::{Decision, KeyPart};

/// What the agent is made to tell of what it saw. Earlier agents tell less, so that nothing is in the key by way of them.
const SEEN: [&str; 8] = [
    ":method",
    ":target",
    "host",
    "authorization",
    "cookie",
    "x-from",
    "x-first",
    "x-mine",
];

/// Two listeners, two routes with one path, a header filter and two agents in front of the one whose verdicts are kept.
fn everything(first: &TestAgent, owner: &TestAgent, judge: &TestAgent, origin: &Origin) -> Builder {
    let filters = r#"filters {
            request-headers { set "x-from" "{client.ip}" }
            agent "first"
            agent "owner"
            agent "judge"
        }
        upstream "origin""#;
    Proxy::builder(format!(
        r#"
system {{ worker-threads 2; trusted-proxies "127.0.0.0/8" }}
listeners {{
    listener "http" {{ address "127.0.0.1:0" }}
    listener "other" {{ address "127.0.0.1:0" }}
}}
routes {{
    route "marked" {{ match {{ path-prefix "/"; header "x-route" "marked" }}; {filters} }}
    route "all" {{ match {{ path-prefix "/" }}; {filters} }}
}}
"#
    ))
    .origin(origin)
    .agent(first)
    .agent_with(owner, "timeout \"10s\"; owns-headers \"x-mine\"")
    .agent_with(judge, KEPT)
}

/// A request, by what is to differ.
#[derive(Clone)]
struct Case {
    listener: &'static str,
    method: &'static str,
    target: &'static str,
    host: &'static str,
    lines: Vec<&'static str>,
}

fn usual() -> Case {
    Case {
        listener: "http",
        method: "GET",
        target: "/p?q=1",
        host: "a.test",
        lines: vec![
            "authorization: Basic one",
            "cookie: user=one",
            "x-forwarded-for: 192.0.2.1",
        ],
    }
}

fn with(change: impl FnOnce(&mut Case)) -> Case {
    let mut case = usual();
    change(&mut case);
    case
}

/// The part of the key, and a request that differs from the usual one in it.
fn cases() -> Vec<(&'static str, Case)> {
    let line = |number: usize, line| with(|case| case.lines[number] = line);
    let and = |line| with(|case| case.lines.push(line));
    vec![
        ("listener", with(|case| case.listener = "other")),
        ("route", and("x-route: marked")),
        ("scheme", and("x-forwarded-proto: https")),
        ("host", with(|case| case.host = "b.test")),
        ("method", with(|case| case.method = "POST")),
        ("path", with(|case| case.target = "/other?q=1")),
        ("query", with(|case| case.target = "/p?q=2")),
        ("query", with(|case| case.target = "/p")),
        ("authorization", line(0, "authorization: Basic two")),
        (
            "authorization",
            with(|case| {
                case.lines.swap_remove(0);
            }),
        ),
        ("cookie", line(1, "cookie: user=two")),
        ("cookie", and("cookie: user=two")),
        ("changes", line(2, "x-forwarded-for: 192.0.2.2")),
        ("changes", and("x-for-first: second")),
        ("owned", and("x-for-owner: second")),
    ]
}

fn send(proxy: &Proxy, case: &Case) -> Response {
    let Case {
        method,
        target,
        host,
        lines,
        ..
    } = case;
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    let mut client = RawClient::connect(proxy.address_of(case.listener));
    client.send(format!("{head}\r\n")).response()
}

#[test]
fn a_verdict_is_used_for_the_same_request_and_for_no_other() {
    let origin = Origin::start();
    // Earlier agents make of what they see a header that the judge sees.
    let first = TestAgent::named("first")
        .telling("x-first", &["x-for-first"])
        .start();
    let owner = TestAgent::named("owner")
        .telling("x-mine", &["x-for-owner"])
        .start();
    let judge = TestAgent::named("judge")
        .otherwise(held())
        .telling("x-judged", &SEEN)
        .start();
    let proxy = everything(&first, &owner, &judge, &origin).start();
    proxy.wait_ready();
    let usual_verdict = send(&proxy, &usual());
    let usual_verdict = usual_verdict.header("x-judged").unwrap().to_owned();
    for (part, case) in cases() {
        let asked = judge.requests().len();
        let response = send(&proxy, &case);
        assert_eq!(response.status, 200, "{part}");
        assert_eq!(judge.requests().len(), asked + 1, "{part}: it was asked");
        let told = response.header("x-judged").unwrap().to_owned();
        // And both are there from now on.
        for (case, told) in [(&case, &told), (&usual(), &usual_verdict)] {
            let again = send(&proxy, case);
            assert_eq!(again.header("x-judged").unwrap(), told, "{part}");
        }
        assert_eq!(judge.requests().len(), asked + 1, "{part}: it was known");
    }
    // What is not in the key makes no difference, as documented.
    let asked = judge.requests().len();
    let other = send(&proxy, &with(|case| case.lines.push("user-agent: other")));
    assert_eq!(other.header("x-judged").unwrap(), usual_verdict);
    assert_eq!(judge.requests().len(), asked);
    // What a client sends of an owned header is taken out before it could be in a key.
    let forged = send(&proxy, &with(|case| case.lines.push("x_mine: forged")));
    assert_eq!(forged.header("x-judged").unwrap(), usual_verdict);
}

/// What it may ignore, what it says that it ignores, and whether one verdict then serves both users.
#[test]
fn only_what_may_be_ignored_is() {
    for (may_ignore, shared) in [
        ("", false),
        ("{ may-ignore \"query\" }", false),
        ("{ may-ignore \"query\" \"cookie\" }", true),
    ] {
        let origin = Origin::start();
        let judge = TestAgent::named("judge")
            .otherwise(held().whatever_the(KeyPart::Cookie))
            .start();
        let proxy = kept(&judge, &origin, &format!("{KEPT} {may_ignore}"));
        let get = |user: &str, authorization: &str| {
            let lines = [
                format!("cookie: user={user}"),
                format!("authorization: {authorization}"),
            ];
            proxy.get_with("/p", &[&lines[0], &lines[1]])
        };
        assert!(!was_known(&proxy, &get("one", "a")));
        assert!(was_known(&proxy, &get("one", "a")));
        assert_eq!(was_known(&proxy, &get("two", "a")), shared, "{may_ignore}");
        assert!(!was_known(&proxy, &get("one", "b")), "that is not ignored");
        let asked = judge.requests().len();
        assert_eq!(asked, if shared { 2 } else { 3 }, "{may_ignore}");
    }
}

/// Each part can be ignored by name, and then makes no difference.
#[test]
fn every_part_can_be_ignored() {
    for (part, lines) in [
        (
            KeyPart::Authorization,
            ["authorization: a", "authorization: b"],
        ),
        (KeyPart::Cookie, ["cookie: a", "cookie: b"]),
        (
            KeyPart::EarlierChanges,
            ["x-for-first: a", "x-for-first: b"],
        ),
        (KeyPart::OwnedHeaders, ["x-for-owner: a", "x-for-owner: b"]),
    ] {
        let origin = Origin::start();
        let first = TestAgent::named("first")
            .telling("x-first", &["x-for-first"])
            .start();
        let owner = TestAgent::named("owner")
            .telling("x-mine", &["x-for-owner"])
            .start();
        let judge = TestAgent::named("judge")
            .on("/ignores", held().whatever_the(part))
            .otherwise(held())
            .start();
        let proxy = Proxy::builder(
            r#"routes { route "all" { filters { agent "first"; agent "owner"; agent "judge" }; upstream "origin" } }"#,
        )
        .origin(&origin)
        .agent(&first)
        .agent_with(&owner, "timeout \"10s\"; owns-headers \"x-mine\"")
        .agent_with(&judge, &format!("{KEPT} {{ may-ignore \"{}\" }}", part.name()))
        .start();
        proxy.wait_ready();
        for (path, asked) in [("/minds", 2), ("/ignores", 3)] {
            for line in lines {
                assert_eq!(proxy.get_with(path, &[line]).status, 200);
            }
            assert_eq!(judge.requests().len(), asked, "{part:?} {path}");
        }
    }
    let origin = Origin::start();
    let judge = TestAgent::named("judge")
        .otherwise(held().whatever_the(KeyPart::Query))
        .start();
    let proxy = kept(
        &judge,
        &origin,
        &format!("{KEPT} {{ may-ignore \"query\" }}"),
    );
    for target in ["/p?a", "/p?b", "/p"] {
        assert_eq!(proxy.get(target).status, 200);
    }
    assert_eq!(judge.requests().len(), 1);
}

/// An agent all of whose verdicts may be kept, by the path.
fn knowing_every_verdict() -> TestAgent {
    let block = Decision::block(418)
        .with_body("short and stout\n")
        .with_header("x-why", "waf")
        .reason("rule-1")
        .tag("bot");
    TestAgent::named("judge")
        .on("/block", block.hold_for(LONG))
        .on("/redirect", Decision::redirect("/login").hold_for(LONG))
        .on(
            "/challenge",
            Decision::challenge("http")
                .with_param("www-authenticate", "Basic")
                .hold_for(LONG),
        )
        .on(
            "/allow",
            held()
                .set_request_header("x-set", "by the agent")
                .remove_request_header("x-removed")
                .set_response_header("x-answer", "by the agent"),
        )
        .start()
}

#[test]
fn a_known_verdict_does_all_that_it_did_the_first_time() {
    let origin = Origin::start();
    let judge = knowing_every_verdict();
    let proxy = kept(&judge, &origin, KEPT);
    for known in [false, true, true] {
        let block = proxy.get("/block");
        assert_eq!(
            (block.status, block.text()),
            (418, "short and stout\n".into())
        );
        assert_eq!(block.header("x-why"), Some("waf"));
        let said = record(&proxy, &block);
        assert_eq!(said["cached"] == true, known);
        assert_eq!(said["verdict"], "block");
        assert_eq!(said["reason"], "rule-1");
        assert_eq!(said["tags"][0], "bot");
        let id = block.header("x-request-id").unwrap();
        let line = proxy.access_line(|line| line["request_id"] == id);
        assert_eq!(
            (&line["blocked_by"], &line["reason"]),
            (&"judge".into(), &"rule-1".into())
        );
        let redirect = proxy.get("/redirect");
        assert_eq!(
            (redirect.status, redirect.header("location")),
            (302, Some("/login"))
        );
        let challenge = proxy.get("/challenge");
        assert_eq!(
            (challenge.status, challenge.header("www-authenticate")),
            (401, Some("Basic"))
        );
        let allow = proxy.get_with("/allow", &["x-removed: by the client"]);
        assert_eq!(allow.header("x-answer"), Some("by the agent"));
        let seen = origin.requests();
        let seen = seen.last().unwrap();
        assert_eq!(seen.header("x-set"), Some("by the agent".to_owned()));
        assert_eq!(seen.header("x-removed"), None);
    }
    assert_eq!(judge.requests().len(), 4);
    for outcome in ["block", "redirect", "challenge", "allow"] {
        let hits =
            format!(r#"portcullis_verdict_cache_hits_total{{agent="judge",outcome="{outcome}"}}"#);
        proxy.wait_metric(&hits, 2.0);
        let calls = format!(r#"portcullis_agent_calls_total{{agent="judge",outcome="{outcome}"}}"#);
        proxy.wait_metric(&calls, 1.0);
    }
}

#[test]
fn nothing_is_kept_unless_operator_and_agent_both_say_so() {
    let origin = Origin::start();
    for (decision, settings) in [
        (held(), "timeout \"10s\""),
        (Decision::allow(), KEPT),
        (held().provisional(), KEPT),
    ] {
        let judge = TestAgent::named("judge").otherwise(decision).start();
        let proxy = kept(&judge, &origin, settings);
        for asked in 1..=3 {
            let response = proxy.get("/p");
            assert!(!was_known(&proxy, &response), "{settings}");
            assert_eq!(judge.requests().len(), asked, "{settings}");
        }
    }
}

/// All agents of a group have their own verdicts, some of which are known.
#[test]
fn in_parallel_each_agent_has_its_own() {
    let origin = Origin::start();
    let one = TestAgent::named("one")
        .otherwise(held())
        .telling("x-one", &["cookie"])
        .start();
    let two = TestAgent::named("two")
        .otherwise(held())
        .telling("x-two", &["cookie"])
        .start();
    let three = TestAgent::named("three").start();
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { parallel { agent "one"; agent "two"; agent "three" } }; upstream "origin" } }"#,
    )
    .origin(&origin)
    .agent_with(&one, KEPT)
    .agent_with(&two, KEPT)
    .agent(&three)
    .start();
    proxy.wait_ready();
    for (user, asked) in [("a", 1), ("a", 1), ("b", 2), ("a", 2)] {
        let response = proxy.get_with("/p", &[&format!("cookie: {user}")]);
        let told = format!("cookie={user}");
        for header in ["x-one", "x-two"] {
            assert_eq!(response.header(header), Some(told.as_str()));
        }
        assert_eq!(one.requests().len(), asked);
        assert_eq!(two.requests().len(), asked);
    }
    assert_eq!(three.requests().len(), 4);
}
