//! Request variables in changes of headers.

use super::past;
use crate::harness::{Answer, Origin};

#[test]
fn values_are_filled_in_from_the_request() {
    let origin = Origin::answering(|_| Answer::with(200, &[("x-own", "1")], b""));
    let filters = r#"
        request-headers {
            set "x-uri" "{request.uri}"
            set "x-query" "{request.query}"
            set "x-names" "{listener.id} {route.id} {upstream.id}"
            set "x-time" "{time.unix} {time.rfc3339}"
            set "x-copy" "<{request.header.X-Tenant}>"
            set "x-none" "<{request.header.x-missing}>"
            remove "x-tenant"
            set "x-late" "<{request.header.x-tenant}>"
        }
        response-headers {
            set "x-echo" "{request.header.x-copy} {request.header.x-own}"
            add "x-own" "2"
            set "x-plain" "{request.method}"
        }
    "#;
    let proxy = past(filters, &origin).start();
    let lines = ["x-tenant: blue", "x-tenant: r\u{e9}d"];
    let response = proxy.get_with("/a/%7eb?c=1&d", &lines);
    assert_eq!(response.status, 200);
    let request = origin.last();
    let told = |name: &str| request.header(name).unwrap();
    assert_eq!(told("x-uri"), "/a/~b?c=1&d");
    assert_eq!(told("x-query"), "c=1&d");
    assert_eq!(told("x-names"), "http all origin");
    let time = told("x-time");
    let (unix, rfc3339) = time.split_once(' ').unwrap();
    let line = proxy.access_line(|line| line["status"] == 200);
    assert_eq!(line["ts"], rfc3339);
    assert!(unix.parse::<u64>().unwrap() > 1_700_000_000, "{unix}");
    assert_eq!(told("x-copy"), "<blue, r\u{e9}d>");
    assert_eq!(told("x-none"), "<>");
    // What was changed before is as it was changed.
    assert_eq!(told("x-late"), "<>");
    assert_eq!(response.header("x-echo"), Some("<blue, r\u{e9}d>"));
    assert_eq!(response.header_values("x-own"), ["1", "2"]);
    assert_eq!(response.header("x-plain"), Some("GET"));
}

#[test]
fn our_own_answers_have_them_too() {
    let origin = Origin::start();
    let filters = r#"
        response-headers { set "x-echo" "{request.header.x-a}" }
        ip-deny "127.0.0.1"
    "#;
    let proxy = past(filters, &origin).start();
    let response = proxy.get_with("/", &["x-a: 1"]);
    assert_eq!(
        (response.status, response.header("x-echo")),
        (403, Some("1"))
    );
}
