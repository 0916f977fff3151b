//! What is too large, too much or not understood, in each direction by its own settings.

use super::{finding, guarded, post, post_with};
use crate::harness::{Answer, Origin, agent::Dialect};
use std::io::Write;

/// A body that is much smaller on the wire.
fn gzipped(body: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn both_directions_have_limits_of_their_own() {
    let two = r#"{"a":["one","two"]}"#;
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(2000));
    let table = [
        (r#"request "/a" max-texts=1"#, two, 413),
        (r#"response "/a" max-texts=1"#, two, 502),
        (
            r#"request "/a" max-texts=2; response "/a" max-texts=2"#,
            two,
            200,
        ),
        (r#"request "/a" limit="1KiB""#, &*long, 413),
        (r#"response "/a" limit="1KiB""#, &*long, 502),
        (
            r#"request "/a" limit="1KiB" on-oversize="skip""#,
            &*long,
            200,
        ),
        (
            r#"response "/a" limit="1KiB" on-oversize="skip""#,
            &*long,
            200,
        ),
        (r#"request "/a" not-json="fail""#, "plain text", 415),
        (r#"response "/a" not-json="fail""#, "plain text", 502),
        (
            r#"request "/a" not-json="pass"; response "/a" not-json="pass""#,
            "plain text",
            200,
        ),
        (r#"request "/b" unmatched="fail""#, two, 415),
        (r#"response "/b" unmatched="fail""#, two, 502),
        (
            r#"request "/b" unmatched="pass"; response "/b" unmatched="pass""#,
            two,
            200,
        ),
    ];
    for (looks_at, body, status) in table {
        let reply = body.to_owned();
        let origin = Origin::answering(move |_| {
            let headers = [("content-type", "application/json")];
            Answer::with(200, &headers, reply.as_bytes())
        });
        let agent = finding("pii", Dialect::Binary);
        let proxy = guarded(&agent, &origin, "", looks_at);
        let response = post(&proxy, body);
        assert_eq!(response.status, status, "{looks_at}");
        if status == 200 {
            assert_eq!(response.text(), body, "{looks_at}");
        }
    }
}

#[test]
fn what_unfolds_too_much_is_refused_in_both_directions() {
    // Less than this may come of a few bytes, whatever the ratio.
    let huge = format!(r#"{{"a":"{}"}}"#, "x".repeat(500_000));
    for (looks_at, status) in [
        (r#"request "/a" max-ratio=2"#, 413),
        (r#"response "/a" max-ratio=2"#, 502),
        (
            r#"request "/a" max-ratio=10000; response "/a" max-ratio=10000"#,
            200,
        ),
    ] {
        let body = gzipped(&huge);
        let reply = body.clone();
        let origin = Origin::answering(move |_| {
            let headers = [("content-encoding", "gzip")];
            Answer::with(200, &headers, &reply)
        });
        let agent = finding("pii", Dialect::Binary);
        let proxy = guarded(&agent, &origin, "", looks_at);
        let response = post_with(&proxy, "content-encoding: gzip", &body);
        assert_eq!(response.status, status, "{looks_at}");
    }
}
