//! What answers become.

use super::*;

/// What becomes of an answer about the head of a request that has the header `there`.
fn about_head(response: ProcessingResponse, options: &ExtProcOptions) -> Result<Outcome, String> {
    let mut progress = begun("POST", options);
    outcome(Part::RequestHeaders, response, options, &mut progress).map_err(|it| it.to_string())
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
        to_head(setting(vec![option("x_envoy-Y", "/")])),
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
