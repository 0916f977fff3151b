//! What is remembered of a request between its messages.

use super::*;

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

fn with_request_trailers() -> ProcessingMode {
    ProcessingMode {
        request_trailer_mode: messages::SEND,
        request_body_mode: messages::NONE,
        response_body_mode: messages::NONE,
        ..ProcessingMode::default()
    }
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
        // Trailers of requests do not come here.
        (parts(&["qb", "sb"]), with_request_trailers(), None),
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
        ..heads
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
