//! Heads of requests and responses: what the agent is told of them, and what it may do to them.

use super::{REJECTED, all_gone, through};
use crate::harness::{
    Answer, Origin, Proxy, Response,
    ext_proc::{ExtProcAgent, answer, header, pass, set, setting},
};
use portcullis_agent_protocol::ext_proc::messages::{
    CommonResponse, HeaderMutation, HeaderValue, HeaderValueOption, Kind, ProcessingRequest,
    Struct, Told, Value,
};

/// Does this to heads of requests.
fn doing(common: CommonResponse) -> ExtProcAgent {
    ExtProcAgent::start(move |told| answer(told, common.clone()).into())
}

fn all(response: &Response, wanted: &str) -> Vec<String> {
    let headers = response.headers.iter();
    headers
        .filter(|(name, _)| name == wanted)
        .map(|(_, value)| value.clone())
        .collect()
}

/// What the origin gets as `x-there`, which the client sends as `client`, and as `x-new`.
fn seen(agent: &ExtProcAgent, settings: &str) -> (Vec<String>, Vec<String>) {
    let origin = Origin::start();
    let proxy = through(agent, settings, &origin);
    assert_eq!(proxy.get_with("/", &["x-there: client"]).status, 200);
    let request = origin.last();
    (
        request.header_values("x-there"),
        request.header_values("x-new"),
    )
}

#[test]
fn an_agent_is_told_the_heads_as_envoy_tells_them() {
    let agent = ExtProcAgent::passing();
    let origin = Origin::answering(|_| Answer::with(201, &[("x-origin", "yes")], b"made"));
    let proxy = through(
        &agent,
        "inspect { request-headers; response-headers }",
        &origin,
    );
    let lines = ["host: Example.com", "X-Test: Value"];
    assert_eq!(proxy.get_with("/x?q=1", &lines).status, 201);
    assert_eq!(agent.parts(), ["request_headers", "response_headers"]);
    let told = agent.told();
    let Some(Told::RequestHeaders(head)) = &told[0].request else {
        panic!("{told:?}");
    };
    assert!(head.end_of_stream);
    let names: Vec<_> = head
        .headers
        .as_ref()
        .unwrap()
        .headers
        .iter()
        .map(|line| line.key.as_str())
        .collect();
    assert_eq!(names[..4], [":authority", ":path", ":method", ":scheme"]);
    assert!(!names.contains(&"host"));
    for (name, value) in [
        (":authority", "Example.com"),
        (":path", "/x?q=1"),
        (":method", "GET"),
        ("x-test", "Value"),
    ] {
        assert_eq!(header(&told[0], name).as_deref(), Some(value), "{name}");
    }
    assert!(
        head.headers
            .as_ref()
            .unwrap()
            .headers
            .iter()
            .all(|line| line.value.is_empty())
    );
    let config = told[0].protocol_config.unwrap();
    assert_eq!(
        (config.request_body_mode, config.response_body_mode),
        (0, 0)
    );
    let attributes = &told[0].attributes["envoy.filters.http.ext_proc"].fields;
    let path = Value {
        kind: Some(Kind::Text("/x?q=1".to_owned())),
    };
    assert_eq!(attributes["request.path"], path);
    assert!(told[1].attributes.is_empty() && told[1].protocol_config.is_none());
    assert_eq!(header(&told[1], ":status").as_deref(), Some("201"));
    assert_eq!(header(&told[1], "x-origin").as_deref(), Some("yes"));
    all_gone(&proxy, &agent);
    // There was one stream, which ended in order.
    let streams = agent.streams();
    assert_eq!(streams.len(), 1);
    assert!(streams[0].half_closed);
}

#[test]
fn a_value_that_is_sent_as_text_alone_is_taken() {
    let text = HeaderValueOption {
        header: Some(HeaderValue {
            key: "x-new".to_owned(),
            value: "text".to_owned(),
            raw_value: "".into(),
        }),
        ..HeaderValueOption::default()
    };
    let (_, new) = seen(&doing(setting(vec![text])), "");
    assert_eq!(new, ["text"]);
}

#[test]
fn old_agents_get_values_as_text() {
    let agent = ExtProcAgent::passing();
    seen(&agent, r#"ext-proc { header-encoding "string" }"#);
    let told = agent.told();
    let Some(Told::RequestHeaders(head)) = &told[0].request else {
        panic!("{told:?}");
    };
    let headers = &head.headers.as_ref().unwrap().headers;
    let found = headers.iter().find(|line| line.key == "x-there").unwrap();
    assert_eq!((found.value.as_str(), found.raw_value.len()), ("client", 0));
}

#[test]
fn without_append_a_header_is_overwritten() {
    let (there, _) = seen(&doing(setting(vec![set("x-there", "agent")])), "");
    assert_eq!(there, ["agent"]);
}

#[test]
fn with_append_there_is_a_second_line() {
    let appended = HeaderValueOption {
        append: Some(true),
        ..set("x-there", "agent")
    };
    let (there, _) = seen(&doing(setting(vec![appended])), "");
    assert_eq!(there, ["client", "agent"]);
}

#[test]
fn append_action_is_ignored_as_in_envoy_unless_the_operator_is_strict() {
    let with = |name: &str, append_action| HeaderValueOption {
        append_action,
        ..set(name, "agent")
    };
    let actions = || {
        // ADD_IF_ABSENT for one that is there, OVERWRITE_IF_EXISTS for one that is not.
        doing(setting(vec![with("x-there", 1), with("x-new", 3)]))
    };
    let (there, new) = seen(&actions(), "");
    assert_eq!(
        (there, new),
        (vec!["agent".to_owned()], vec!["agent".to_owned()])
    );
    let (there, new) = seen(&actions(), "strict");
    assert_eq!((there, new), (vec!["client".to_owned()], vec![]));
}

#[test]
fn headers_that_nobody_may_change_are_left_and_counted_unless_the_operator_is_strict() {
    let common = || CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![
                set("host", "evil"),
                set(":method", "DELETE"),
                set(":path", "/evil"),
                set("x-envoy-original-path", "/evil"),
                set("x-new", "good"),
            ],
            remove_headers: vec!["host".to_owned(), "x-there".to_owned()],
        }),
        ..CommonResponse::default()
    };
    let origin = Origin::start();
    let agent = doing(common());
    let proxy = through(&agent, "", &origin);
    assert_eq!(proxy.get_with("/a", &["x-there: client"]).status, 200);
    let request = origin.last();
    assert_eq!(request.request_line(), "GET /a HTTP/1.1");
    assert_eq!(request.header("host").as_deref(), Some("test"));
    assert_eq!(request.header("x-envoy-original-path"), None);
    assert_eq!(request.header("x-new").as_deref(), Some("good"));
    assert_eq!(request.header("x-there"), None);
    proxy.wait_metric(REJECTED, 5.0);
    proxy.log_line(|line| line["agent"] == "p" && line["message"].to_string().contains("ignored"));
    let agent = doing(common());
    let proxy = through(&agent, "strict", &origin);
    assert_eq!(proxy.get("/a").status, 502);
    proxy.wait_metric(
        r#"portcullis_agent_calls_total{agent="p",outcome="protocol_error"}"#,
        1.0,
    );
    assert_eq!(proxy.get("/open").status, 200);
    assert_eq!(
        origin.last().header("x-new"),
        None,
        "nothing of a bad answer is used"
    );
    all_gone(&proxy, &agent);
}

#[test]
fn the_route_stays_and_that_is_counted() {
    let agent = doing(CommonResponse {
        clear_route_cache: true,
        ..CommonResponse::default()
    });
    let origin = Origin::start();
    let proxy = through(&agent, "", &origin);
    assert_eq!(proxy.get("/").status, 200);
    proxy.wait_metric(REJECTED, 1.0);
}

#[test]
fn heads_of_responses_are_changed_too() {
    let agent = ExtProcAgent::start(|told| match &told.request {
        Some(Told::ResponseHeaders(_)) => {
            let mut common = setting(vec![set("x-new", "agent")]);
            let mutation = common.header_mutation.as_mut().unwrap();
            mutation.remove_headers.push("x-origin".to_owned());
            answer(told, common).into()
        }
        _ => pass(told).into(),
    });
    let origin = Origin::answering(|_| Answer::with(200, &[("x-origin", "yes")], b""));
    let proxy = through(&agent, "inspect { response-headers }", &origin);
    let response = proxy.get("/");
    assert_eq!(all(&response, "x-new"), ["agent"]);
    assert!(all(&response, "x-origin").is_empty());
    assert_eq!(
        agent.parts(),
        ["response_headers"],
        "the stream opens with the first event"
    );
}

#[test]
fn dynamic_metadata_is_in_the_access_log() {
    let agent = ExtProcAgent::start(|told| {
        let score = Value {
            kind: Some(Kind::Number(42.0)),
        };
        let inner = Struct {
            fields: [("score".to_owned(), score)].into(),
        };
        let kind = Some(Kind::Struct(inner));
        let mut response = pass(told);
        response.dynamic_metadata = Some(Struct {
            fields: [("waf".to_owned(), Value { kind })].into(),
        });
        response.into()
    });
    let origin = Origin::start();
    let proxy = through(&agent, "", &origin);
    assert_eq!(proxy.get("/m").status, 200);
    let line = proxy.access_line_of("/m");
    assert_eq!(line["agents"][0]["tags"][0], "waf.score=42", "{line}");
}

/// The two requests of one connection are two streams.
#[test]
fn each_request_has_a_stream_of_its_own() {
    let agent = ExtProcAgent::passing();
    let origin = Origin::start();
    let proxy = through(
        &agent,
        "inspect { request-headers; response-headers }",
        &origin,
    );
    let mut client = proxy.client();
    for path in ["/1", "/2"] {
        assert_eq!(client.get(path, &[]).status, 200);
    }
    let streams = agent.streams();
    let paths: Vec<_> = streams.iter().map(|stream| path_of(&stream.told)).collect();
    assert_eq!(paths, ["/1", "/2"]);
    assert!(streams.iter().all(|stream| stream.told.len() == 2));
    all_gone(&proxy, &agent);
}

fn path_of(told: &[ProcessingRequest]) -> String {
    header(&told[0], ":path").unwrap()
}

#[test]
fn answers_of_our_own_are_not_shown_to_agents() {
    let agent = ExtProcAgent::passing();
    let origin = Origin::start();
    let settings =
        r#"inspect { request-headers; request-body "buffer" limit="4B"; response-headers }"#;
    let proxy: Proxy = through(&agent, settings, &origin);
    let mut client = proxy.client();
    client.send("POST /big HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n12345");
    assert_eq!(client.response().status, 413);
    all_gone(&proxy, &agent);
    assert_eq!(agent.parts(), ["request_headers"]);
    assert_eq!(origin.requests().len(), 0);
}
