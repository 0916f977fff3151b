//! Guardrails: texts within bodies are shown to an agent, and what it finds decides.

mod limits;

use crate::harness::{
    Answer, Origin, Proxy, Response, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
};
use portcullis_agent_protocol::{Decision, GuardrailResult};
use serde_json::json;

const CHAT: &str = r#"{"model":"m-1", "messages":[{"role":"user","content":"hello"},{"role":"user","content":[{"type":"text","text":"my number is 123"}]}], "n":1.50}"#;
const REPLY: &str = r#"{"choices":[{"message":{"content":"call 123 or 456"}}]}"#;

/// What the guardrail looks at, in both directions.
const BOTH: &str = r#"request "/messages/*/content"; response "/choices/*/message/content"; model "/model"; categories "phone""#;

/// Finds this word where it is.
fn finding(name: &str, dialect: Dialect) -> TestAgent {
    let found = |at: usize| {
        let found = GuardrailResult::found_at("phone", "a number", at..at + 3);
        Decision::allow().with_guardrail(found)
    };
    let two =
        GuardrailResult::found("phone", "two numbers").with_redacted_content("call *** or \"***\"");
    TestAgent::named(name)
        .speaking(dialect)
        .then(
            Phase::Texts,
            When::Holds("456".into()),
            Decision::allow().with_guardrail(two),
        )
        .then(Phase::Texts, When::Holds("number is 123".into()), found(13))
        .start()
}

/// A proxy with one worker whose route has this guardrail.
fn guarded(agent: &TestAgent, origin: &Origin, properties: &str, looks_at: &str) -> Proxy {
    let name = agent.name();
    let proxy = Proxy::builder(format!(
        r#"system {{ worker-threads 1 }}
routes {{ route "llm" {{
    filters {{ guardrail agent="{name}" inspect="pii-detection" {properties} {{ {looks_at} }} }}
    upstream "origin"
}} }}"#
    ))
    .origin(origin)
    .agent(agent)
    .start();
    proxy.wait_ready();
    proxy
}

fn post(proxy: &Proxy, body: &str) -> Response {
    post_with(proxy, "content-type: application/json", body.as_bytes())
}

fn post_with(proxy: &Proxy, line: &str, body: &[u8]) -> Response {
    let length = body.len();
    let head =
        format!("POST /chat HTTP/1.1\r\nhost: x\r\n{line}\r\ncontent-length: {length}\r\n\r\n");
    let mut client = proxy.client();
    client.send(head).send(body);
    client.response()
}

fn replying(body: &'static str) -> Origin {
    Origin::answering(move |_| {
        let headers = [("content-type", "application/json"), ("etag", "\"1\"")];
        Answer::with(200, &headers, body.as_bytes())
    })
}

#[test]
fn a_request_with_something_in_it_is_blocked() {
    for dialect in [
        Dialect::Binary,
        Dialect::NumberedJson,
        Dialect::Json,
        Dialect::Legacy,
    ] {
        let origin = Origin::start();
        let agent = finding("pii", dialect);
        let proxy = guarded(&agent, &origin, "status=422", BOTH);
        let response = post(&proxy, CHAT);
        assert_eq!(response.status, 422, "{dialect:?}");
        assert_eq!(origin.connections(), 0, "{dialect:?}");
        let line = proxy.access_line(|line| line["status"] == 422);
        assert_eq!(
            (&line["blocked_by"], &line["reason"]),
            (&json!("pii"), &json!("phone"))
        );
        let record = &line["agents"][0];
        assert_eq!(record["phase"], "request_guardrail");
        assert_eq!(
            (&record["verdict"], &record["calls"]),
            (&json!("detected"), &json!(3))
        );
        // Text by text, those in parts of a message too.
        let seen = agent.wait_seen("guardrail_inspect", 3);
        let texts: Vec<_> = seen.iter().map(|it| it["content"].clone()).collect();
        assert_eq!(texts, ["hello", "text", "my number is 123"], "{dialect:?}");
        assert_eq!(seen[0]["inspection_type"], "pii_detection");
        assert_eq!(seen[0]["model"], "m-1");
        assert_eq!(seen[0]["categories"], json!(["phone"]));
        assert_eq!(seen[0]["route_id"], "llm");
        assert_eq!(seen[0]["metadata"]["direction"], "request");
        proxy.wait_metric(
            r#"portcullis_agent_calls_total{agent="pii",phase="request_guardrail",outcome="detected"}"#,
            3.0,
        );
    }
}

#[test]
fn what_is_clean_passes_byte_by_byte() {
    let origin = replying(r#"{"choices":[{"message":{"content":"nothing"}}] }"#);
    let agent = finding("pii", Dialect::Binary);
    let proxy = guarded(&agent, &origin, "", BOTH);
    let body = r#"{ "messages": [ {"content":"h\u0069"} ],"n":1.50 }"#;
    let response = post(&proxy, body);
    assert_eq!(response.status, 200);
    assert_eq!(
        response.text(),
        r#"{"choices":[{"message":{"content":"nothing"}}] }"#
    );
    assert_eq!(origin.last().body, body.as_bytes());
    let line = proxy.access_line_of("/chat");
    assert_eq!(line["agents"][0]["verdict"], "allow");
    assert_eq!(line["agents"][1]["phase"], "response_guardrail");
    // A request without a body has nothing to look at.
    assert_eq!(proxy.get("/models").status, 200);
}

#[test]
fn what_is_found_is_taken_out_in_both_directions() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let origin = replying(REPLY);
        let agent = finding("pii", dialect);
        let proxy = guarded(
            &agent,
            &origin,
            r#"on-detect="redact" replacement="<phone>""#,
            BOTH,
        );
        let response = post(&proxy, CHAT);
        assert_eq!(response.status, 200, "{dialect:?}");
        let request = origin.last();
        let expected = CHAT.replace("123", "<phone>");
        assert_eq!(String::from_utf8_lossy(&request.body), expected);
        assert_eq!(
            request.header("content-length"),
            Some(expected.len().to_string())
        );
        let expected = REPLY.replace("call 123 or 456", r#"call *** or \"***\""#);
        assert_eq!(response.text(), expected, "{dialect:?}");
        let length = expected.len().to_string();
        assert_eq!(response.header("content-length"), Some(length.as_str()));
        assert_eq!(response.header("etag"), None);
        let line = proxy.access_line_of("/chat");
        assert_eq!(line["agents"][1]["verdict"], "detected");
        assert_eq!(line["blocked_by"], json!(null));
    }
}

#[test]
fn what_cannot_be_taken_out_is_blocked() {
    let origin = Origin::start();
    let found = GuardrailResult::found("phone", "somewhere");
    let agent = TestAgent::named("pii")
        .then(
            Phase::Texts,
            When::Holds("somewhere".into()),
            Decision::allow().with_guardrail(found),
        )
        .then(
            Phase::Texts,
            When::Holds("block".into()),
            Decision::block(451),
        )
        .start();
    let proxy = guarded(&agent, &origin, r#"on-detect="redact""#, r#"request "/a""#);
    for text in ["somewhere", "block"] {
        assert_eq!(
            post(&proxy, &json!({"a": text}).to_string()).status,
            403,
            "{text}"
        );
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn what_is_only_logged_passes_as_it_is() {
    let origin = replying(REPLY);
    let agent = finding("pii", Dialect::Binary);
    let proxy = guarded(&agent, &origin, r#"on-detect="log""#, BOTH);
    let response = post(&proxy, CHAT);
    assert_eq!((response.status, response.text()), (200, REPLY.to_owned()));
    assert_eq!(origin.last().body, CHAT.as_bytes());
    let line = proxy.access_line_of("/chat");
    for (number, phase) in ["request_guardrail", "response_guardrail"]
        .iter()
        .enumerate()
    {
        let record = &line["agents"][number];
        assert_eq!(record["phase"], *phase);
        assert_eq!(
            (&record["verdict"], &record["reason"]),
            (&json!("detected"), &json!("phone"))
        );
    }
}

#[test]
fn a_response_with_something_in_it_is_blocked() {
    let origin = replying(REPLY);
    let agent = finding("pii", Dialect::Binary);
    let proxy = guarded(&agent, &origin, "", r#"response "/choices""#);
    let response = proxy.get("/chat");
    assert_eq!(response.status, 403);
    assert!(!response.text().contains("123"));
    let line = proxy.access_line_of("/chat");
    assert_eq!(line["blocked_by"], "pii");
    assert_eq!(line["agents"][0]["phase"], "response_guardrail");
}

#[test]
fn a_guardrail_that_fails_is_obeyed_by_its_failure_mode() {
    for (reaction, status) in [(Reaction::Fail, 502), (Reaction::Hang, 504)] {
        let origin = Origin::start();
        let agent = TestAgent::named("pii")
            .then(Phase::Texts, When::Always, reaction)
            .start();
        for (mode, expected) in [("closed", status), ("open", 200)] {
            let properties = format!(r#"timeout="300ms" failure-mode="{mode}""#);
            let proxy = guarded(&agent, &origin, &properties, r#"request "/a""#);
            assert_eq!(post(&proxy, r#"{"a":"x"}"#).status, expected, "{mode}");
            let line = proxy.access_line_of("/chat");
            assert_eq!(line["agents"][0]["failure_mode"], mode);
        }
    }
    // One that does not take texts at all is missed before there is a request.
    let origin = Origin::start();
    let agent = TestAgent::named("pii").supporting(&[1]).start();
    let proxy = Proxy::builder(
        r#"routes { route "llm" { filters { guardrail agent="pii" inspect="pii-detection" { request "/a" } }; upstream "origin" } }"#,
    )
    .origin(&origin)
    .agent(&agent)
    .start();
    let missing = proxy.probe("/readyz?verbose");
    assert_eq!(missing.status, 503);
    assert_eq!(post(&proxy, r#"{"a":"x"}"#).status, 503);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn an_agent_of_guardrails_alone_needs_to_take_nothing_else() {
    let origin = Origin::start();
    let agent = TestAgent::named("pii").supporting(&[7]).start();
    let proxy = guarded(&agent, &origin, "", r#"request "/a""#);
    assert_eq!(post(&proxy, r#"{"a":"x"}"#).status, 200);
}

#[test]
fn what_cannot_be_looked_into_is_refused_whatever_the_failure_mode() {
    let origin = Origin::start();
    let agent = finding("pii", Dialect::Binary);
    let looks_at = r#"request "/a" limit="64B" max-texts=2"#;
    let proxy = guarded(&agent, &origin, r#"failure-mode="open""#, looks_at);
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(64));
    for (body, status) in [
        ("plain text", 415),
        (r#"{"a":"x","a":"y"}"#, 415),
        (r#"{"a":"\ud800"}"#, 415),
        (r#"{"a":["1","2","3"]}"#, 413),
        (&long, 413),
    ] {
        // What the sender says that it is makes no difference.
        for line in ["content-type: text/plain", "content-encoding: identity"] {
            let response = post_with(&proxy, line, body.as_bytes());
            assert_eq!(response.status, status, "{body} {line}");
        }
    }
    assert_eq!(origin.connections(), 0);
    let line = proxy.access_line(|line| line["status"] == 415);
    assert_eq!(line["agents"][0]["failure"], "undecodable");
    assert_eq!(line["reason"], "undecodable");
    let text = r#"{"a":"my number is 123"}"#;
    assert_eq!(
        post_with(&proxy, "content-type: text/plain", text.as_bytes()).status,
        403
    );
}

#[test]
fn what_others_could_read_as_another_text_is_not_json() {
    // In UTF-7 this is a text in quotation marks, here it is none.
    let body = r#"{"a":"x+ACI-"}"#;
    for (charset, properties, status) in [
        ("utf-8", "", 200),
        ("utf-7", "", 415),
        ("utf-7", r#" not-json="pass""#, 200),
    ] {
        let origin = Origin::start();
        let agent = finding("pii", Dialect::Binary);
        let looks_at = format!(r#"request "/a"{properties}"#);
        let proxy = guarded(&agent, &origin, "", &looks_at);
        let line = format!("Content-Type: application/json; charset={charset}");
        let response = post_with(&proxy, &line, body.as_bytes());
        assert_eq!(response.status, status, "{charset} {properties}");
        let shown = usize::from(charset == "utf-8");
        assert_eq!(agent.seen("guardrail_inspect").len(), shown, "{charset}");
    }
    let origin = Origin::answering(move |_| {
        let headers = [("content-type", "application/json; charset=utf-16")];
        Answer::with(200, &headers, body.as_bytes())
    });
    let agent = finding("pii", Dialect::Binary);
    let proxy = guarded(&agent, &origin, "", r#"response "/a""#);
    assert_eq!(proxy.get("/chat").status, 502);
}

#[test]
fn a_large_body_is_looked_into_too() {
    let origin = Origin::start();
    let agent = finding("pii", Dialect::Binary);
    let redact = r#"on-detect="redact""#;
    let proxy = guarded(&agent, &origin, redact, r#"request "/a/*/b""#);
    // Many elements, all of them on the way to the text.
    let many = "{},".repeat(200_000);
    let body = format!(r#"{{"a":[{many}{{"b":"my number is 123"}}]}}"#);
    assert_eq!(post(&proxy, &body).status, 200);
    let expected = body.replace("123", "[redacted]");
    assert_eq!(origin.last().body, expected.as_bytes());
}

#[test]
fn what_takes_the_place_of_a_text_is_bounded_like_the_body() {
    let origin = Origin::start();
    let long = GuardrailResult::found("phone", "all").with_redacted_content("x".repeat(200));
    let agent = TestAgent::named("pii")
        .then(
            Phase::Texts,
            When::Always,
            Decision::allow().with_guardrail(long),
        )
        .start();
    let redact = r#"on-detect="redact""#;
    let proxy = guarded(&agent, &origin, redact, r#"request "/a" limit="300B""#);
    assert_eq!(post(&proxy, r#"{"a":["one"]}"#).status, 200);
    assert_eq!(post(&proxy, r#"{"a":["one","two"]}"#).status, 413);
    let line = proxy.access_line(|line| line["status"] == 413);
    assert_eq!(line["reason"], "oversize");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_route_may_let_pass_what_cannot_be_looked_into() {
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(64));
    let table = [
        (r#"not-json="pass""#, "plain text", 200, "skipped"),
        (
            r#"on-oversize="skip" limit="64B""#,
            long.as_str(),
            200,
            "skipped",
        ),
        ("", r#"{"b":"x"}"#, 200, "skipped"),
        (r#"unmatched="fail""#, r#"{"b":"x"}"#, 415, "failed"),
    ];
    for (settings, body, status, verdict) in table {
        let origin = Origin::start();
        let agent = finding("pii", Dialect::Binary);
        let proxy = guarded(&agent, &origin, "", &format!(r#"request "/a" {settings}"#));
        assert_eq!(post(&proxy, body).status, status, "{settings}");
        let line = proxy.access_line_of("/chat");
        assert_eq!(line["agents"][0]["verdict"], verdict, "{settings}");
        assert!(agent.seen("guardrail_inspect").is_empty(), "{settings}");
        if status == 200 {
            assert_eq!(origin.last().body, body.as_bytes());
        }
    }
}

#[test]
fn a_response_that_is_not_json_is_refused() {
    let origin = replying("data: {\"choices\":[]}\n\n");
    let agent = finding("pii", Dialect::Binary);
    let proxy = guarded(&agent, &origin, "", r#"response "/choices""#);
    assert_eq!(proxy.get("/chat").status, 502);
}

#[test]
fn a_later_step_sees_what_the_guardrail_has_left() {
    let origin = Origin::start();
    let guard = finding("pii", Dialect::Binary);
    let later = TestAgent::named("later").start();
    let proxy = Proxy::builder(
        r#"system { worker-threads 1 }
routes { route "llm" {
    filters { guardrail agent="pii" inspect="pii-detection" on-detect="redact" { request "/a" }; agent "later" }
    upstream "origin"
} }"#,
    )
    .origin(&origin)
    .agent(&guard)
    .agent_with(&later, "timeout \"10s\"; inspect { request-body \"buffer\" }")
    .start();
    proxy.wait_ready();
    assert_eq!(post(&proxy, r#"{"a":"my number is 123!"}"#).status, 200);
    let expected = r#"{"a":"my number is [redacted]!"}"#;
    assert_eq!(origin.last().body, expected.as_bytes());
    assert_eq!(later.seen("request_body_chunk")[0]["data"], expected);
}
