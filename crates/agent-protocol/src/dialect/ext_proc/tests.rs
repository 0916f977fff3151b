//! What events become, what answers become, and what is remembered in between: tables.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;

use super::answered::{Outcome, granted, outcome};
use super::messages::{
    self, Answered, BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMutation,
    HeaderValue, HeaderValueOption, HeadersResponse, HttpStatus, ImmediateResponse, Kind, Mutation,
    ProcessingMode, ProcessingRequest, ProcessingResponse, Struct, Told, TrailersResponse, Value,
};
use super::options::{BodyMode, ExtProcOptions, Parts};
use super::progress::Progress;
use super::told::{self, Part};
use crate::{
    BodyChunk, Decision, Event, HeaderOp, RequestHeaders, RequestMetadata, ResponseHeaders, Verdict,
};

fn everything() -> ExtProcOptions {
    ExtProcOptions {
        request_headers: true,
        request_body: BodyMode::Buffered,
        response_headers: true,
        response_body: BodyMode::Streamed,
        response_trailers: true,
        ..ExtProcOptions::default()
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> http::HeaderMap {
    let lines = lines.iter();
    lines
        .map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        })
        .collect()
}

fn request<'a>(method: &'a str, protocol: &'a str, headers: &'a http::HeaderMap) -> Event<'a> {
    Event::RequestHeaders(RequestHeaders {
        metadata: RequestMetadata {
            correlation_id: "c",
            request_id: "r",
            client_ip: Ipv4Addr::LOCALHOST.into(),
            client_port: 56094,
            server_name: None,
            protocol,
            tls_version: None,
            tls_cipher: None,
            route_id: None,
            upstream_id: None,
            timestamp: SystemTime::UNIX_EPOCH,
            traceparent: None,
        },
        method,
        uri: "/x?q=1",
        headers,
        budget_left: None,
    })
}

fn response(status: u16, headers: &http::HeaderMap) -> Event<'_> {
    Event::ResponseHeaders(ResponseHeaders {
        correlation_id: "c",
        status,
        headers,
        budget_left: None,
    })
}

fn piece(data: &'static str, is_last: bool) -> BodyChunk<'static> {
    BodyChunk {
        correlation_id: "c",
        index: 0,
        data: data.into(),
        is_last,
        total_size: None,
        transferred: data.len() as u64,
        truncated: false,
        trailers: None,
        budget_left: None,
    }
}

fn lines(map: Option<&messages::HeaderMap>) -> Vec<String> {
    let lines = map.unwrap().headers.iter();
    lines
        .map(|line| {
            let raw = String::from_utf8_lossy(&line.raw_value);
            format!("{}={}|{raw}", line.key, line.value)
        })
        .collect()
}

#[test]
fn the_head_of_a_request_is_told_as_envoy_does() {
    let fields = headers(&[
        ("host", "example.com"),
        ("user-agent", "x"),
        ("a", "1"),
        ("a", "2"),
    ]);
    let event = request("GET", "HTTP/1.1", &fields);
    let [message] = &told::messages(&event, &everything())[..] else {
        panic!("one message");
    };
    let Some(Told::RequestHeaders(head)) = &message.request.request else {
        panic!("{message:?}");
    };
    assert!(head.end_of_stream);
    assert_eq!(
        lines(head.headers.as_ref()),
        [
            ":authority=|example.com",
            ":path=|/x?q=1",
            ":method=|GET",
            ":scheme=|http",
            "user-agent=|x",
            "a=|1",
            "a=|2"
        ]
    );
    let attributes = &message.request.attributes["envoy.filters.http.ext_proc"].fields;
    let attribute = |name: &str| match &attributes[name].kind {
        Some(Kind::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    for (name, value) in [
        ("request.path", "/x?q=1"),
        ("request.host", "example.com"),
        ("source.address", "127.0.0.1:56094"),
        ("request.protocol", "HTTP/1.1"),
        ("request.id", "r"),
    ] {
        assert_eq!(attribute(name), value);
    }
    assert_eq!(attributes.len(), 5);
    assert!(message.request.metadata_context.is_some());
    let text = ExtProcOptions {
        headers_as_text: true,
        ..everything()
    };
    let messages = told::messages(&event, &text);
    let Some(Told::RequestHeaders(head)) = &messages[0].request.request else {
        panic!("a head");
    };
    assert_eq!(lines(head.headers.as_ref())[4], "user-agent=x|");
}

/// The bytes, so that a number of a field cannot change by mistake. Written down from Envoy's definitions.
#[test]
fn messages_are_on_the_wire_as_they_are_published() {
    let body = messages::HttpBody {
        body: "ab".into(),
        end_of_stream: true,
    };
    let request = ProcessingRequest {
        request: Some(Told::RequestBody(body)),
        observability_mode: true,
        ..ProcessingRequest::default()
    };
    let bytes = [0x22, 6, 0x0a, 2, b'a', b'b', 0x10, 1, 0x50, 1];
    assert_eq!(request.encode_to_vec(), bytes);
    let answer = [
        0x0a, 15, 0x0a, 13, // request_headers { response {
        0x08, 1, // status: CONTINUE_AND_REPLACE
        0x12, 3, 0x12, 1, b'x', // header_mutation { remove_headers }
        0x1a, 2, 0x10, 1, // body_mutation { clear_body }
        0x28, 1, // clear_route_cache
        0x4a, 2, 0x10, 2, // mode_override { response_header_mode: SKIP }
        0x52, 2, 0x08, 3, // override_message_timeout { seconds }
    ];
    let read = ProcessingResponse::decode(&answer[..]).unwrap();
    let common = CommonResponse {
        status: messages::CONTINUE_AND_REPLACE,
        header_mutation: Some(HeaderMutation {
            set_headers: Vec::new(),
            remove_headers: vec!["x".to_owned()],
        }),
        body_mutation: Some(BodyMutation {
            mutation: Some(Mutation::ClearBody(true)),
        }),
        clear_route_cache: true,
    };
    let expected = ProcessingResponse {
        response: Some(Answered::RequestHeaders(HeadersResponse {
            response: Some(common),
        })),
        dynamic_metadata: None,
        mode_override: Some(ProcessingMode {
            response_header_mode: messages::SKIP,
            ..ProcessingMode::default()
        }),
        override_message_timeout: Some(messages::Duration {
            seconds: 3,
            nanos: 0,
        }),
    };
    assert_eq!(read, expected);
}

#[test]
fn the_end_of_a_message_is_told_as_far_as_its_head_says() {
    let none = headers(&[]);
    let zero = headers(&[("content-length", "0")]);
    let some = headers(&[("content-length", "5")]);
    let chunked = headers(&[("transfer-encoding", "chunked")]);
    let (one, two) = ("HTTP/1.1", "HTTP/2");
    // Whether no body follows as the agent is told, and whether that is certain.
    let table = [
        (request("GET", one, &none), true, true),
        (request("POST", one, &zero), true, true),
        (request("POST", one, &some), false, false),
        (request("POST", one, &chunked), false, false),
        (request("GET", two, &none), true, false),
        (request("POST", two, &none), false, false),
        (request("POST", two, &some), false, false),
        (response(204, &none), true, true),
        (response(304, &some), true, true),
        (response(200, &zero), true, true),
        (response(200, &none), false, false),
    ];
    for (event, told_empty, certain) in table {
        let message = told::messages(&event, &everything()).remove(0);
        let head = match message.request.request {
            Some(Told::RequestHeaders(head) | Told::ResponseHeaders(head)) => head,
            other => panic!("{other:?}"),
        };
        assert_eq!(head.end_of_stream, told_empty, "{event:?}");
        assert_eq!(told::is_empty(&event), certain, "{event:?}");
    }
}

#[test]
fn trailers_come_behind_the_body_where_they_are_wanted() {
    let fields = headers(&[("x-sum", "1")]);
    let without = ExtProcOptions {
        response_trailers: false,
        ..everything()
    };
    let parts = |data, options: &ExtProcOptions| -> Vec<(Part, bool)> {
        let chunk = BodyChunk {
            trailers: Some(&fields),
            index: 3,
            ..piece(data, true)
        };
        let messages = told::messages(&Event::ResponseBodyChunk(chunk), options);
        let ends = |request: &ProcessingRequest| match &request.request {
            Some(Told::ResponseBody(body)) => body.end_of_stream,
            _ => true,
        };
        let messages = messages.iter();
        messages
            .map(|message| (message.part, ends(&message.request)))
            .collect()
    };
    let trailers = (Part::ResponseTrailers, true);
    assert_eq!(
        parts("x", &everything()),
        [(Part::ResponseBody, false), trailers]
    );
    assert_eq!(parts("", &everything()), [trailers]);
    assert_eq!(parts("x", &without), [(Part::ResponseBody, true)]);
}

#[test]
fn a_body_that_goes_on_unseen_has_no_end() {
    let chunk = BodyChunk {
        truncated: true,
        ..piece("x", true)
    };
    let message = told::messages(&Event::RequestBodyChunk(chunk), &everything()).remove(0);
    let Some(Told::RequestBody(body)) = message.request.request else {
        panic!("a body");
    };
    assert!(!body.end_of_stream);
}

fn option(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: String::new(),
            raw_value: Bytes::copy_from_slice(value.as_bytes()),
        }),
        append: None,
        append_action: 0,
    }
}

fn setting(set_headers: Vec<HeaderValueOption>) -> CommonResponse {
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }),
        ..CommonResponse::default()
    }
}

fn replacing(status: i32, mutation: Mutation) -> CommonResponse {
    CommonResponse {
        status,
        body_mutation: Some(BodyMutation {
            mutation: Some(mutation),
        }),
        ..CommonResponse::default()
    }
}

fn to_head(response: CommonResponse) -> ProcessingResponse {
    answer(Answered::RequestHeaders(HeadersResponse {
        response: Some(response),
    }))
}

fn to_body(response: CommonResponse) -> ProcessingResponse {
    answer(Answered::RequestBody(BodyResponse {
        response: Some(response),
    }))
}

fn answer(answered: Answered) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(answered),
        ..ProcessingResponse::default()
    }
}

/// What becomes of an answer about the head of a request that has the header `there`.
fn about_head(response: ProcessingResponse, options: &ExtProcOptions) -> Result<Outcome, String> {
    let mut progress = begun("POST", options);
    outcome(Part::RequestHeaders, response, options, &mut progress).map_err(|it| it.to_string())
}

fn begun(method: &str, options: &ExtProcOptions) -> Progress {
    let fields = match method {
        "POST" => headers(&[("there", "1"), ("content-length", "3")]),
        _ => headers(&[("there", "1")]),
    };
    let mut progress = Progress::default();
    let event = request(method, "HTTP/1.1", &fields);
    assert_eq!(
        progress.begin(&event, told::is_empty(&event), options),
        None
    );
    progress
}

fn set(name: &str, value: &str) -> HeaderOp {
    HeaderOp::Set {
        name: name.into(),
        value: value.into(),
    }
}

#[test]
fn headers_are_set_as_envoy_does_and_as_the_enum_says_where_that_is_wanted() {
    let add = |name: &str, value: &str| HeaderOp::Add {
        name: name.into(),
        value: value.into(),
    };
    let value_only = HeaderValueOption {
        header: Some(HeaderValue {
            key: "X-Old".to_owned(),
            value: "text".to_owned(),
            raw_value: Bytes::new(),
        }),
        ..option("", "")
    };
    let with = |name: &str, append, append_action| HeaderValueOption {
        append,
        append_action,
        ..option(name, "v")
    };
    // What is asked for, what it comes to, and what under `strict`.
    let table = [
        (value_only, vec![set("x-old", "text")], None),
        (with("there", None, 0), vec![set("there", "v")], None),
        (with("there", Some(false), 0), vec![set("there", "v")], None),
        (with("there", Some(true), 0), vec![add("there", "v")], None),
        (
            with("there", None, 1),
            vec![set("there", "v")],
            Some(vec![]),
        ),
        (with("new", None, 1), vec![set("new", "v")], None),
        (with("there", None, 2), vec![set("there", "v")], None),
        (with("there", None, 3), vec![set("there", "v")], None),
        (with("new", None, 3), vec![set("new", "v")], Some(vec![])),
        (with("there", Some(true), 3), vec![add("there", "v")], None),
        (with(":method", None, 0), vec![set(":method", "v")], None),
    ];
    let strict = ExtProcOptions {
        strict: true,
        ..everything()
    };
    for (asked, lenient, strictly) in table {
        let response = to_head(setting(vec![asked.clone()]));
        let got = about_head(response.clone(), &everything()).unwrap();
        assert_eq!(got.decision.request_headers, lenient, "{asked:?}");
        let got = about_head(response, &strict).unwrap();
        assert_eq!(
            got.decision.request_headers,
            strictly.unwrap_or(lenient),
            "{asked:?}"
        );
    }
}

#[test]
fn what_is_not_done_is_counted_or_makes_the_answer_void() {
    let strict = ExtProcOptions {
        strict: true,
        ..everything()
    };
    let not_text = HeaderValueOption {
        header: Some(HeaderValue {
            key: "x".to_owned(),
            value: String::new(),
            raw_value: Bytes::from_static(b"\xff"),
        }),
        ..option("", "")
    };
    for refused in [
        to_head(setting(vec![option("x-envoy-original-path", "/")])),
        to_head(setting(vec![option("X-Envoy-Y", "/")])),
        to_head(setting(vec![not_text])),
        to_head(replacing(0, Mutation::Body("x".into()))),
    ] {
        let got = about_head(refused.clone(), &everything()).unwrap();
        let expected = Outcome {
            refused: 1,
            ..Outcome::from(Decision::allow())
        };
        assert_eq!(got, expected, "{refused:?}");
        assert!(about_head(refused.clone(), &strict).is_err(), "{refused:?}");
    }
    // Nobody is harmed when the route stays as it is.
    let route = to_head(CommonResponse {
        clear_route_cache: true,
        ..CommonResponse::default()
    });
    assert_eq!(about_head(route.clone(), &everything()).unwrap().refused, 1);
    assert_eq!(about_head(route, &strict).unwrap().refused, 1);
    let trailers = answer(Answered::ResponseTrailers(TrailersResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![option("a", "b")],
            remove_headers: vec!["c".to_owned()],
        }),
    }));
    let mut progress = Progress::default();
    let got = outcome(
        Part::ResponseTrailers,
        trailers,
        &everything(),
        &mut progress,
    )
    .unwrap();
    assert_eq!((got.refused, got.decision), (2, Decision::allow()));
}

#[test]
fn an_answer_has_to_be_about_what_was_told() {
    let to_response = || Answered::ResponseHeaders(HeadersResponse::default());
    for (part, answered, good) in [
        (Part::ResponseHeaders, Some(to_response()), true),
        (Part::RequestHeaders, Some(to_response()), false),
        (Part::RequestBody, Some(to_response()), false),
        (Part::ResponseTrailers, Some(to_response()), false),
        (Part::RequestHeaders, None, false),
        (
            Part::RequestBody,
            Some(Answered::StreamedImmediate(messages::Metadata {})),
            false,
        ),
        (
            Part::RequestBody,
            Some(Answered::RequestBody(BodyResponse::default())),
            true,
        ),
        (
            Part::ResponseTrailers,
            Some(Answered::ResponseTrailers(TrailersResponse::default())),
            true,
        ),
        (
            Part::ResponseTrailers,
            Some(Answered::RequestTrailers(TrailersResponse::default())),
            false,
        ),
    ] {
        let response = ProcessingResponse {
            response: answered.clone(),
            ..ProcessingResponse::default()
        };
        let got = outcome(part, response, &everything(), &mut Progress::default());
        assert_eq!(got.is_ok(), good, "{part:?} {answered:?}");
    }
}

#[test]
fn bodies_are_replaced_cleared_or_left() {
    let table = [
        (CommonResponse::default(), Some(None)),
        (
            replacing(0, Mutation::Body("new".into())),
            Some(Some("new")),
        ),
        (replacing(0, Mutation::ClearBody(true)), Some(Some(""))),
        (replacing(0, Mutation::ClearBody(false)), Some(None)),
        (
            replacing(0, Mutation::StreamedResponse(messages::HttpBody::default())),
            None,
        ),
    ];
    for (response, expected) in table {
        let mut progress = Progress::default();
        let got = outcome(
            Part::RequestBody,
            to_body(response.clone()),
            &everything(),
            &mut progress,
        );
        let body = got.ok().map(|got| got.decision.request_body);
        assert_eq!(
            body,
            expected.map(|body| body.map(Bytes::from)),
            "{response:?}"
        );
    }
    // The length of what we send is for us to say, and no offence.
    let mut response = replacing(0, Mutation::Body("new".into()));
    response.header_mutation =
        setting(vec![option("content-length", "3"), option("x", "1")]).header_mutation;
    let got = outcome(
        Part::RequestBody,
        to_body(response),
        &everything(),
        &mut Progress::default(),
    );
    assert_eq!(got.unwrap().decision.request_headers, [set("x", "1")]);
}

#[test]
fn a_body_can_be_replaced_before_it_is_shown() {
    let replaces = to_head(replacing(
        messages::CONTINUE_AND_REPLACE,
        Mutation::Body("new".into()),
    ));
    let options = everything();
    let mut progress = begun("POST", &options);
    let got = outcome(
        Part::RequestHeaders,
        replaces.clone(),
        &options,
        &mut progress,
    )
    .unwrap();
    assert_eq!(got.decision, Decision::allow());
    let mut shown = |data, is_last| {
        let event = Event::RequestBodyChunk(piece(data, is_last));
        progress
            .begin(&event, false, &options)
            .unwrap()
            .request_body
    };
    assert_eq!(shown("ol", false), Some("new".into()));
    assert_eq!(shown("d", true), Some(Bytes::new()));
    // Neither a request without a body nor an agent that is shown none has a place for it.
    let mut without = begun("GET", &options);
    assert!(
        outcome(
            Part::RequestHeaders,
            replaces.clone(),
            &options,
            &mut without
        )
        .is_err()
    );
    let blind = ExtProcOptions {
        request_body: BodyMode::None,
        ..options.clone()
    };
    let mut unseen = begun("POST", &blind);
    assert!(outcome(Part::RequestHeaders, replaces, &blind, &mut unseen).is_err());
    // Without a body, it says that the agent wants to see nothing more.
    let skips = to_head(CommonResponse {
        status: messages::CONTINUE_AND_REPLACE,
        ..CommonResponse::default()
    });
    let mut skipped = begun("POST", &options);
    outcome(Part::RequestHeaders, skips, &options, &mut skipped).unwrap();
    let event = Event::RequestBodyChunk(piece("x", true));
    assert_eq!(
        skipped.begin(&event, false, &options),
        Some(Decision::allow())
    );
}

#[test]
fn what_follows_a_replaced_piece_goes() {
    let options = ExtProcOptions {
        request_body: BodyMode::Streamed,
        ..everything()
    };
    let mut progress = begun("POST", &options);
    let replaces = to_body(replacing(
        messages::CONTINUE_AND_REPLACE,
        Mutation::Body("all".into()),
    ));
    let got = outcome(Part::RequestBody, replaces, &options, &mut progress).unwrap();
    assert_eq!(got.decision.request_body, Some("all".into()));
    let event = Event::RequestBodyChunk(piece("rest", true));
    let rest = progress.begin(&event, false, &options).unwrap();
    assert_eq!(rest.request_body, Some(Bytes::new()));
}

#[test]
fn an_override_leaves_out_what_it_may() {
    let parts = |names: &[&str]| Parts {
        request_body: names.contains(&"qb"),
        response_headers: names.contains(&"sh"),
        response_body: names.contains(&"sb"),
        response_trailers: names.contains(&"st"),
    };
    let mode = |response_header_mode, request_body_mode, response_body_mode| ProcessingMode {
        response_header_mode,
        request_body_mode,
        response_body_mode,
        ..ProcessingMode::default()
    };
    use messages::{BUFFERED, NONE, SKIP, STREAMED};
    // What may be left out, what is asked for, what is left out then; `None`: the override is refused.
    let table = [
        (
            parts(&["qb", "sb"]),
            mode(0, NONE, NONE),
            Some(parts(&["qb", "sb"])),
        ),
        (
            parts(&["qb"]),
            mode(0, NONE, STREAMED),
            Some(parts(&["qb"])),
        ),
        (
            parts(&["sb", "sh"]),
            mode(SKIP, BUFFERED, NONE),
            Some(parts(&["sb", "sh"])),
        ),
        (parts(&["qb"]), mode(0, NONE, NONE), None),
        (parts(&[]), mode(0, BUFFERED, STREAMED), Some(parts(&[]))),
        (parts(&[]), mode(SKIP, BUFFERED, STREAMED), None),
        (parts(&["qb", "sb"]), mode(0, STREAMED, NONE), None),
        (parts(&["qb", "sb"]), mode(0, BUFFERED, BUFFERED), None),
        (parts(&["qb", "sb"]), mode(0, 4, NONE), None),
    ];
    for (may_leave_out, wanted, expected) in table {
        let options = ExtProcOptions {
            may_leave_out,
            ..everything()
        };
        let mut progress = begun("POST", &options);
        let mut response = to_head(CommonResponse::default());
        response.mode_override = Some(wanted);
        let got = outcome(Part::RequestHeaders, response, &options, &mut progress).unwrap();
        assert_eq!(got.refused, u64::from(expected.is_none()), "{wanted:?}");
        let left_out = expected.unwrap_or_default();
        let none = headers(&[]);
        for (event, is_left_out) in [
            (
                Event::RequestBodyChunk(piece("x", true)),
                left_out.request_body,
            ),
            (response_event(&none), left_out.response_headers),
            (
                Event::ResponseBodyChunk(piece("x", true)),
                left_out.response_body,
            ),
        ] {
            let known = progress.begin(&event, false, &options);
            assert_eq!(known.is_some(), is_left_out, "{wanted:?} {event:?}");
        }
    }
}

fn response_event(headers: &http::HeaderMap) -> Event<'_> {
    response(200, headers)
}

#[test]
fn a_stream_is_over_when_nothing_can_come_any_more() {
    let heads = ExtProcOptions {
        request_headers: true,
        ..ExtProcOptions::default()
    };
    assert!(!begun("POST", &heads).expects_more(&heads));
    let body = ExtProcOptions {
        request_body: BodyMode::Streamed,
        ..heads.clone()
    };
    assert!(begun("POST", &body).expects_more(&body));
    assert!(!begun("GET", &body).expects_more(&body));
    let mut progress = begun("POST", &body);
    for (is_last, more) in [(false, true), (true, false)] {
        let event = Event::RequestBodyChunk(piece("x", is_last));
        assert_eq!(progress.begin(&event, false, &body), None);
        assert_eq!(progress.expects_more(&body), more);
    }
    let both = ExtProcOptions {
        response_headers: true,
        ..heads
    };
    let mut progress = begun("GET", &both);
    assert!(progress.expects_more(&both));
    let none = headers(&[]);
    assert_eq!(progress.begin(&response(200, &none), false, &both), None);
    assert!(!progress.expects_more(&both));
}

#[test]
fn an_immediate_response_is_a_verdict() {
    let immediate =
        |code: i32, headers: Vec<HeaderValueOption>, body: &'static str| ImmediateResponse {
            status: (code != 0).then_some(HttpStatus { code }),
            headers: Some(HeaderMutation {
                set_headers: headers,
                remove_headers: Vec::new(),
            }),
            body: body.into(),
            grpc_status: None,
            details: String::new(),
        };
    let block = |status, body: &'static str, headers: &[(&str, &str)]| Verdict::Block {
        status,
        body: Some(body.into()),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let appended = HeaderValueOption {
        append: Some(true),
        ..option("a", "2")
    };
    let table = [
        (immediate(403, vec![], "no"), block(403, "no", &[])),
        (immediate(0, vec![], ""), block(200, "", &[])),
        (
            immediate(403, vec![option("A", "0"), option("a", "1"), appended], ""),
            block(403, "", &[("a", "1"), ("a", "2")]),
        ),
        (
            immediate(403, vec![option("content-length", "9")], "no"),
            block(403, "no", &[]),
        ),
        (
            immediate(302, vec![option("location", "/there")], ""),
            Verdict::Redirect {
                url: "/there".to_owned(),
                status: 302,
            },
        ),
        (
            immediate(302, vec![option("location", "/there")], "x"),
            block(302, "x", &[("location", "/there")]),
        ),
    ];
    for (said, expected) in table {
        // It takes the place of any answer.
        for part in [Part::RequestHeaders, Part::ResponseBody] {
            let response = answer(Answered::Immediate(said.clone()));
            let got = outcome(part, response, &everything(), &mut Progress::default()).unwrap();
            assert_eq!(got.decision.verdict, expected);
            assert!(got.is_final);
        }
    }
    let said = ImmediateResponse {
        grpc_status: Some(GrpcStatus { status: 9 }),
        details: "blocked by test".to_owned(),
        ..immediate(403, vec![], "")
    };
    let got = about_head(answer(Answered::Immediate(said)), &everything())
        .unwrap()
        .decision;
    assert_eq!(got.verdict, block(403, "", &[("grpc-status", "9")]));
    assert_eq!(got.audit.unwrap().reason_codes, ["blocked by test"]);
    let negative = answer(Answered::Immediate(immediate(-1, vec![], "")));
    assert!(about_head(negative, &everything()).is_err());
}

#[test]
fn dynamic_metadata_goes_to_the_log() {
    let value = |kind| Value { kind: Some(kind) };
    let inner = Struct {
        fields: [
            ("score".to_owned(), value(Kind::Number(7.0))),
            ("bot".to_owned(), value(Kind::Bool(true))),
            ("none".to_owned(), value(Kind::Null(0))),
        ]
        .into(),
    };
    let metadata = Struct {
        fields: [("waf".to_owned(), value(Kind::Struct(inner)))].into(),
    };
    let mut response = to_head(CommonResponse::default());
    response.dynamic_metadata = Some(metadata);
    let audit = about_head(response, &everything())
        .unwrap()
        .decision
        .audit
        .unwrap();
    assert_eq!(audit.tags, ["waf.bot=true", "waf.score=7"]);
    let expected = serde_json::json!({"score": 7, "bot": true, "none": null});
    assert_eq!(audit.custom["waf"], expected);
}

#[test]
fn more_time_is_granted_within_bounds() {
    let options = ExtProcOptions {
        max_message_timeout: Some(Duration::from_secs(2)),
        ..everything()
    };
    for (seconds, nanos, expected) in [
        (1, 500_000_000, Some(Duration::from_millis(1500))),
        (2, 0, Some(Duration::from_secs(2))),
        (2, 1, None),
        (0, 999_999, None),
        (-1, 0, None),
        (1, -1, None),
        (i64::MAX, i32::MAX, None),
    ] {
        let wanted = messages::Duration { seconds, nanos };
        assert_eq!(granted(&wanted, &options), expected, "{wanted:?}");
        assert_eq!(granted(&wanted, &everything()), None);
    }
}
