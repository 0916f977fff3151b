//! What events become.

use super::*;

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
