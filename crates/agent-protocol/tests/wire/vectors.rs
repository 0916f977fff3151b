//! Exact bytes: what others have to be able to rely on.

use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_protocol::codec::{Answer, EventId, NoDecision, binary, json};
use portcullis_agent_protocol::{Decision, Extensions, Verdict};
use serde_json::{Value, json};

use crate::support::{Request, block, edit, legacy_answer};

const ERRORS: Extensions = Extensions {
    error: true,
    ..Extensions::NONE
};

fn vector_request() -> Request {
    let mut request = Request::new("c-1", "/a?b=1");
    request.headers = HeaderMap::new();
    request
        .headers
        .append("host", "example.com".parse().unwrap());
    request.headers.append("cookie", "a=1".parse().unwrap());
    request.headers.append("cookie", "b=\"2\"".parse().unwrap());
    request
}

#[test]
fn a_json_event() {
    let request = vector_request();
    let mut view = request.view();
    view.metadata.request_id = "r-1";
    view.metadata.server_name = Some("example.com");
    view.metadata.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let mut out = Vec::new();
    json::encode_request_headers(&mut out, None, &view);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"correlation_id":"c-1","metadata":{"correlation_id":"c-1","request_id":"r-1","#,
            r#""client_ip":"203.0.113.7","client_port":51234,"server_name":"example.com","#,
            r#""protocol":"HTTP/1.1","tls_version":null,"tls_cipher":null,"route_id":"api","#,
            r#""upstream_id":"backend","timestamp":"2026-07-01T12:00:00Z","#,
            r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},"#,
            r#""method":"GET","uri":"/a?b=1","#,
            r#""headers":{"host":["example.com"],"cookie":["a=1","b=\"2\""]}}"#,
        )
    );
}

#[test]
fn a_json_event_without_what_is_optional() {
    let mut request = vector_request();
    request.headers.clear();
    let mut view = request.view();
    view.metadata.route_id = None;
    view.metadata.upstream_id = None;
    let mut out = Vec::new();
    json::encode_request_headers(&mut out, Some(1_048_576), &view);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"correlation_id":"c-1","event_id":1048576,"metadata":{"correlation_id":"c-1","#,
            r#""request_id":"c-1","client_ip":"203.0.113.7","client_port":51234,"#,
            r#""server_name":null,"protocol":"HTTP/1.1","tls_version":null,"tls_cipher":null,"#,
            r#""route_id":null,"upstream_id":null,"timestamp":"2026-07-01T12:00:00Z"},"#,
            r#""method":"GET","uri":"/a?b=1","headers":{}}"#,
        )
    );
}

#[test]
fn a_binary_event() {
    let mut request = vector_request();
    request.headers.remove("cookie");
    let mut out = Vec::new();
    binary::encode_request_headers(&mut out, 0x0010_0000, &request.view());
    let expected = concat!(
        "0000000000100000", // event id
        "01",
        "0000004b", // section 1: metadata, 75 bytes
        "00000003",
        "632d31", // correlation id
        "00000003",
        "632d31", // request id
        "04",
        "cb007107",         // 203.0.113.7
        "c822",             // port 51234
        "18be28a6f37c8000", // 2026-07-01T12:00:00Z in nanoseconds
        "00000008",
        "485454502f312e31", // HTTP/1.1
        "ffffffff",         // no server name
        "ffffffff",         // no version of TLS
        "ffffffff",         // no cipher
        "00000003",
        "617069", // route id
        "00000007",
        "6261636b656e64", // upstream id
        "ffffffff",       // no traceparent
        "02",
        "00000011", // section 2: request line, 17 bytes
        "00000003",
        "474554", // GET
        "00000006",
        "2f613f623d31", // /a?b=1
        "03",
        "0000001b", // section 3: headers, 27 bytes
        "00000001", // one
        "00000004",
        "686f7374", // host
        "0000000b",
        "6578616d706c652e636f6d",
    );
    assert_eq!(hex(&out), expected);
}

#[test]
fn binary_answers() {
    let table: [(_, &str); 4] = [
        (Ok(Decision::allow()), "00000000000000070000"),
        (
            Ok(Decision::block(403).with_body("no").reason("r")),
            concat!(
                "0000000000000007",
                "0100", // block
                "01",
                "0000000d",
                "0193",
                "01",
                "00000002",
                "6e6f",
                "00000000",
                "04",
                "00000016",
                "00000000",
                "00000000",
                "00000001",
                "00000001",
                "72",
                "00",
                "00000000",
            ),
        ),
        (
            Ok(Decision::redirect("/x")
                .set_request_header("a", "b")
                .provisional()),
            concat!(
                "0000000000000007",
                "0201", // redirect, needs more
                "01",
                "00000008",
                "012e",
                "00000002",
                "2f78",
                "02",
                "0000000f",
                "00000001",
                "01",
                "00000001",
                "61",
                "00000001",
                "62",
            ),
        ),
        (
            failed("no"),
            concat!(
                "0000000000000007",
                "0400",
                "01",
                "00000006",
                "00000002",
                "6e6f"
            ),
        ),
    ];
    for (answer, expected) in table {
        let mut out = Vec::new();
        binary::encode_answer(&mut out, 7, &answer, Extensions::ALL).unwrap();
        assert_eq!(hex(&out), expected, "{answer:?}");
        assert_eq!(
            binary::decode_answer(&out, Extensions::ALL),
            Ok((EventId::Number(7), answer))
        );
    }
}

#[test]
fn what_a_later_version_appends_is_passed_over() {
    // A redirect with a longer first section, an unknown section, and an
    // unknown flag.
    let payload = unhex(concat!(
        "0000000000000007",
        "0282",
        "01",
        "0000000a",
        "012e",
        "00000002",
        "2f78",
        "beef",
        "77",
        "00000003",
        "010203",
    ));
    let expected = (EventId::Number(7), Ok(Decision::redirect("/x")));
    assert_eq!(
        binary::decode_answer(&payload, Extensions::ALL),
        Ok(expected)
    );
}

#[test]
fn binary_answers_that_are_refused_but_have_an_id() {
    let table = [
        ("000000000000000700", "it ends too early"),
        ("00000000000000070600", "the verdict is of an unknown kind"),
        (
            "00000000000000070500",
            "the details of the verdict are missing",
        ),
        ("000000000000000705000100000000", "it ends too early"),
        (
            "00000000000000070500010000000401000000",
            "it ends too early",
        ),
        (
            "00000000000000070500010000000102",
            "a presence byte is neither 0 nor 1",
        ),
        (
            "00000000000000070100",
            "the details of the verdict are missing",
        ),
        ("000000000000000700000100", "it ends too early"),
        ("00000000000000070200010000000701", "it ends too early"),
        (
            "0000000000000007000001000000000100000000",
            "a section appears twice",
        ),
        (
            "000000000000000700000200000004ffffffff",
            "a list claims more entries than fit",
        ),
        (
            "00000000000000070000020000000a00000001090000000161",
            "a header operation is of an unknown kind",
        ),
        (
            "0000000000000007040001000000060000000261ff",
            "a string is not UTF-8",
        ),
        (
            "0000000000000007040001000000060000000261",
            "it ends too early",
        ),
        (
            "000000000000000700000400000015000000000000000000000000017f80000000000000",
            "the confidence is out of range",
        ),
    ];
    for (payload, expected) in table {
        let bad = binary::decode_answer(&unhex(payload), Extensions::ALL).unwrap_err();
        assert_eq!(bad.id, Some(EventId::Number(7)), "{payload}");
        assert!(
            bad.error.to_string().ends_with(expected),
            "{payload}: {}",
            bad.error
        );
    }
    let bad = binary::decode_answer(&unhex("00000000000000"), Extensions::ALL).unwrap_err();
    assert_eq!(bad.id, None);
    let error = unhex("0000000000000007040001000000060000000261");
    assert!(
        binary::decode_answer(&error, Extensions::NONE).is_err(),
        "`error` must be negotiated"
    );
}

#[test]
fn the_legacy_answer_has_every_member() {
    let id = EventId::Correlation("c-1".to_owned());
    let answer = Ok(block()
        .set_request_header("x-a", "1")
        .remove_request_header("x-c"));
    let mut out = Vec::new();
    json::encode_answer(&mut out, &id, 0, &answer, Extensions::NONE).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"version":2,"decision":{"block":{"status":403,"body":"no","headers":{"x-why":"waf"}}},"#,
            r#""request_headers":[{"set":{"name":"x-a","value":"1"}},{"remove":{"name":"x-c"}}],"#,
            r#""response_headers":[],"routing_metadata":{},"#,
            r#""audit":{"tags":["t"],"rule_ids":["942100"],"confidence":0.9,"#,
            r#""reason_codes":["SQLI"],"custom":{"n":1,"correlation_id":"c-1"}},"#,
            r#""needs_more":false,"request_body_mutation":null,"response_body_mutation":null,"#,
            r#""websocket_decision":null}"#,
        )
    );
}

#[test]
fn d08_a_failure_is_an_error_or_a_block_but_never_an_allow() {
    let id = EventId::Correlation("c-1".to_owned());
    let failure = failed("no idea");
    let mut out = Vec::new();
    json::encode_answer(&mut out, &id, 0, &failure, ERRORS).unwrap();
    assert_eq!(
        json::decode_answer(&out, ERRORS),
        Ok((id.clone(), failure.clone()))
    );
    assert!(
        json::decode_answer(&out, Extensions::NONE).is_err(),
        "`error` must be negotiated"
    );

    out.clear();
    json::encode_answer(&mut out, &id, 0, &failure, Extensions::NONE).unwrap();
    let (_, answer) = json::decode_answer(&out, Extensions::NONE).unwrap();
    let decision = answer.unwrap();
    let expected = Verdict::Block {
        status: 500,
        body: None,
        headers: Vec::new(),
    };
    assert_eq!(decision.verdict, expected);
    let audit = decision.audit.unwrap();
    assert_eq!(audit.reason_codes, ["agent_error"]);
    assert_eq!(audit.custom["error"], "no idea");
}

pub(crate) fn failed(message: &str) -> Answer {
    Err(NoDecision::Failed(message.to_owned()))
}

#[test]
fn legacy_answers_are_read() {
    let full = json!({
        "version": 2, "decision": "allow",
        "request_headers": [{"set": {"name": "x-a", "value": "1"}}, {"add": {"name": "x-b", "value": "2"}},
            {"remove": {"name": "x-c"}}],
        "response_headers": [{"set": {"name": "x-d", "value": "3"}}, {"add": {"name": "x-e", "value": "4"}},
            {"remove": {"name": "x-f"}}],
        "routing_metadata": {"upstream": "b"},
        "audit": {"tags": [], "rule_ids": [], "confidence": null, "reason_codes": [],
            "custom": {"correlation_id": "c-1"}},
        "needs_more": true, "request_body_mutation": {"data": "", "chunk_index": 0},
        "response_body_mutation": null, "websocket_decision": {"close": {"code": 1008, "reason": "policy"}},
        "some_future_member": [1, 2]
    });
    let at_top = json!({"version": 2, "decision": "allow", "correlation_id": "c-1"});
    let nulls = json!({"version": 1, "decision": "allow", "correlation_id": "c-1",
        "request_headers": null, "response_headers": null, "audit": null, "needs_more": null});
    let redirect = json!({"redirect": {"url": "https://e.com/", "status": 301}});
    let found = json!({"redirect": {"url": "/x"}});
    let challenge =
        json!({"challenge": {"challenge_type": "captcha", "params": {"b": "1", "a": "2"}}});
    let bare_block = json!({"block": {"status": 429, "body": null}});
    let full_block = json!({"block": {"status": 403, "body": "no", "headers": {"x-why": "waf"}}});
    let params = Decision::challenge("captcha")
        .with_param("a", "2")
        .with_param("b", "1");
    let table: [(Value, Decision); 8] = [
        (
            full,
            edit()
                .replace_request_body("")
                .close_websocket(1008, "policy"),
        ),
        (at_top, Decision::allow()),
        (nulls, Decision::allow()),
        (
            legacy_answer("c-1", &redirect),
            Decision::redirect_with_status("https://e.com/", 301),
        ),
        (legacy_answer("c-1", &found), Decision::redirect("/x")),
        // Our JSON values sort their members, hence the order.
        (legacy_answer("c-1", &challenge), params),
        (legacy_answer("c-1", &bare_block), Decision::block(429)),
        (
            legacy_answer("c-1", &full_block),
            Decision::block(403)
                .with_body("no")
                .with_header("x-why", "waf"),
        ),
    ];
    for (message, decision) in table {
        let decoded = json::decode_answer(message.to_string().as_bytes(), Extensions::NONE);
        let expected = (EventId::Correlation("c-1".to_owned()), Ok(decision));
        assert_eq!(decoded, Ok(expected), "{message}");
    }
}

#[test]
fn legacy_answers_that_are_refused_but_have_an_id() {
    let decisions = [
        json!("maybe"),
        json!("block"),
        json!(null),
        json!({"block": {"body": "no status"}}),
        json!({"block": {"status": 70000}}),
        json!({"redirect": {"status": 302}}),
        json!({"quarantine": {}}),
        json!({"allow": null, "block": {"status": 403}}),
    ];
    let mut messages: Vec<_> = decisions
        .iter()
        .map(|it| legacy_answer("c-1", it))
        .collect();
    for (member, value) in [
        ("version", json!(3)),
        ("version", json!(0)),
        (
            "request_headers",
            json!([{"replace": {"name": "a", "value": "b"}}]),
        ),
        ("request_headers", json!([{"set": {"name": "a"}}])),
        ("response_headers", json!({})),
        ("needs_more", json!("yes")),
        (
            "audit",
            json!({"confidence": 1e300, "custom": {"correlation_id": "c-1"}}),
        ),
    ] {
        let mut message = legacy_answer("c-1", &json!("allow"));
        message[member] = value;
        messages.push(message);
    }
    for message in messages {
        let bad = json::decode_answer(message.to_string().as_bytes(), Extensions::NONE);
        let id = bad.unwrap_err().id;
        assert_eq!(
            id,
            Some(EventId::Correlation("c-1".to_owned())),
            "{message}"
        );
    }
}

#[test]
fn answers_without_a_readable_id() {
    let table = [
        "",
        "{",
        "[]",
        "\"allow\"",
        r#"{"version":2,"decision":"allow"}"#,
        r#"{"version":2,"decision":"allow","audit":{"custom":{"correlation_id":7}}}"#,
    ];
    for text in table {
        let bad = json::decode_answer(text.as_bytes(), Extensions::NONE).unwrap_err();
        assert_eq!(bad.id, None, "{text}");
    }
}

#[test]
fn events_that_are_refused_keep_their_id_when_it_can_be_read() {
    let request = vector_request();
    let mut out = Vec::new();
    json::encode_request_headers(&mut out, None, &request.view());
    let good: Value = serde_json::from_slice(&out).unwrap();
    for (place, value) in [
        ("/metadata/client_ip", json!("nowhere")),
        ("/metadata/timestamp", json!("yesterday")),
        ("/headers", json!({"bad name": ["v"]})),
        ("/headers", json!({"name": ["line\nbreak"]})),
        ("/headers", json!({"name": "no list"})),
        ("/method", json!(1)),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        let bad = json::decode_request_headers(bad.to_string().as_bytes(), false).map(drop);
        let id = bad.unwrap_err().id;
        assert_eq!(id, Some(EventId::Correlation("c-1".to_owned())), "{place}");
    }
    let short = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 7, 1]);
    let bad = binary::decode_request_headers(&short)
        .map(drop)
        .unwrap_err();
    assert_eq!(bad.id, Some(EventId::Number(7)));
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
