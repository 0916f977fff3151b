//! What answers over gRPC mean.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use super::super::messages::{self, CheckResponse};
use super::super::{answered, grpc};
use crate::{CallError, Decision, Verdict};

fn option(
    name: &str,
    value: &str,
    append: Option<bool>,
    action: i32,
) -> messages::HeaderValueOption {
    messages::HeaderValueOption {
        header: Some(messages::HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            raw_value: Bytes::new(),
        }),
        append,
        append_action: action,
    }
}

fn answer(code: i32, answer: Option<messages::Answer>) -> CheckResponse {
    CheckResponse {
        status: Some(messages::Status {
            code,
            message: String::new(),
        }),
        answer,
        dynamic_metadata: None,
    }
}

/// As it comes over the wire.
fn decided(response: &CheckResponse) -> Result<Decision, CallError> {
    answered::decision(CheckResponse::decode(&response.encode_to_vec()[..]).unwrap())
}

#[test]
fn what_goes_with_an_answer_that_lets_pass() {
    let raw = messages::HeaderValueOption {
        header: Some(messages::HeaderValue {
            key: "x-raw".to_owned(),
            value: "text".to_owned(),
            raw_value: Bytes::from("raw"),
        }),
        append: None,
        append_action: 0,
    };
    let ok = messages::OkResponse {
        headers: vec![
            option("x-set", "1", None, 0),
            option("x-also-set", "2", Some(false), 1),
            option("x-added", "3", Some(true), 0),
            option("x-set-too", "4", None, 3),
            raw,
        ],
        headers_to_remove: vec!["authorization".to_owned()],
        response_headers_to_add: vec![
            option("x-r", "1", None, 0),
            option("x-s", "2", None, 2),
            option("x-t", "3", Some(false), 0),
            option("x-never", "4", None, 1),
        ],
        query_parameters_to_set: vec![messages::QueryParameter {
            key: "a".to_owned(),
            value: "b".to_owned(),
        }],
        query_parameters_to_remove: vec!["c".to_owned()],
    };
    let decision = decided(&answer(0, Some(messages::Answer::Ok(ok)))).unwrap();
    let mut expected = Decision::allow()
        .set_request_header("x-set", "1")
        .set_request_header("x-also-set", "2")
        .add_request_header("x-added", "3")
        .set_request_header("x-set-too", "4")
        .set_request_header("x-raw", "raw")
        .remove_request_header("authorization")
        .add_response_header("x-r", "1")
        .set_response_header("x-s", "2")
        .set_response_header("x-t", "3");
    // What is not done is an operation that nobody can make, so that it is counted.
    for _ in 0..2 {
        expected = expected.remove_request_header(":the query");
    }
    expected = expected.remove_response_header(":a condition");
    assert_eq!(decision, expected);
    assert_eq!(decided(&answer(0, None)).unwrap(), Decision::allow());
    assert_eq!(
        decided(&CheckResponse::default()).unwrap(),
        Decision::allow()
    );
}

#[test]
fn what_goes_with_an_answer_that_refuses() {
    let denied = messages::DeniedResponse {
        status: Some(messages::HttpStatus { code: 401 }),
        headers: vec![
            option("www-authenticate", "Bearer", None, 0),
            option("x-twice", "1", None, 0),
            option("X-Twice", "2", None, 0),
            option("set-cookie", "a=1", Some(true), 0),
            option("set-cookie", "b=2", Some(true), 0),
        ],
        body: Bytes::from_static(b"who?\xff"),
    };
    let pairs = |lines: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        lines.iter().map(owned).collect()
    };
    let decision = decided(&answer(16, Some(messages::Answer::Denied(denied)))).unwrap();
    assert_eq!(
        decision.verdict,
        Verdict::Block {
            status: 401,
            body: Some(Bytes::from_static(b"who?\xff")),
            headers: pairs(&[
                ("www-authenticate", "Bearer"),
                ("X-Twice", "2"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
            ]),
        }
    );
    let plain = decided(&answer(7, None)).unwrap().verdict;
    assert!(
        matches!(plain, Verdict::Block { status: 403, .. }),
        "{plain:?}"
    );
    // A refusal may come with what goes with the other kind of answer.
    let odd = answer(
        5,
        Some(messages::Answer::Ok(messages::OkResponse::default())),
    );
    let odd = decided(&odd).unwrap().verdict;
    assert!(matches!(odd, Verdict::Block { status: 403, .. }), "{odd:?}");
    // What refuses and lets pass at once is no answer, with or without a status.
    for with in [messages::Answer::Denied, messages::Answer::Error] {
        let with = with(messages::DeniedResponse::default());
        let mut contradiction = answer(0, Some(with));
        for _ in 0..2 {
            let decided = decided(&contradiction);
            assert!(
                matches!(decided, Err(CallError::Protocol(_))),
                "{decided:?}"
            );
            contradiction.status = None;
        }
    }
    let failed = answer(
        13,
        Some(messages::Answer::Error(messages::DeniedResponse::default())),
    );
    assert!(matches!(decided(&failed), Err(CallError::Agent(_))));
    let status = messages::DeniedResponse {
        status: Some(messages::HttpStatus { code: -1 }),
        ..messages::DeniedResponse::default()
    };
    let status = decided(&answer(7, Some(messages::Answer::Denied(status))));
    assert!(matches!(status, Err(CallError::Protocol(_))), "{status:?}");
}

#[test]
fn metadata_is_audit_data() {
    let value = |kind| messages::Value { kind: Some(kind) };
    let mut deep = value(messages::Kind::Text("deep".to_owned()));
    for _ in 0..100 {
        deep = value(messages::Kind::List(messages::ListValue {
            values: vec![deep],
        }));
    }
    let fields = [
        ("user", value(messages::Kind::Text("ann".to_owned()))),
        ("score", value(messages::Kind::Number(2.0))),
        ("known", value(messages::Kind::Bool(true))),
        ("deep", deep),
    ];
    let response = CheckResponse {
        dynamic_metadata: Some(messages::Struct {
            fields: fields.map(|(name, value)| (name.to_owned(), value)).into(),
        }),
        ..answer(0, None)
    };
    let audit = answered::decision(response).unwrap().audit.unwrap();
    assert_eq!(audit.tags, ["known=true", "score=2", "user=ann"]);
    assert_eq!(audit.custom["user"], "ann");
    assert!(!audit.custom["deep"].to_string().contains("deep"));
}

#[test]
fn a_status_of_the_call_is_a_refusal_or_a_failure() {
    let blocked = |code| match grpc::meant(&Status::new(code, "no")).unwrap().verdict {
        Verdict::Block { status, .. } => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(blocked(Code::PermissionDenied), 403);
    assert_eq!(blocked(Code::Unauthenticated), 401);
    for code in [Code::Unavailable, Code::Cancelled] {
        let failed = grpc::meant(&Status::new(code, "no"));
        assert!(
            matches!(failed, Err(CallError::Unavailable(_))),
            "{failed:?}"
        );
    }
    for code in [
        Code::Internal,
        Code::Unimplemented,
        Code::NotFound,
        Code::DeadlineExceeded,
    ] {
        let failed = grpc::meant(&Status::new(code, "é".repeat(1000)));
        let Err(CallError::Agent(text)) = failed else {
            panic!("{failed:?}");
        };
        assert!(text.len() <= 256 + '…'.len_utf8(), "{text}");
    }
}
