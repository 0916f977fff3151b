//! `concurrency-limit`.

use super::past;
use crate::harness::{Origin, Proxy, RawClient, eventually};

/// Sends a request that stays under way until its body is sent to its end, and waits until so many are.
fn hold(proxy: &Proxy, tenant: &str, under_way: u8) -> RawClient {
    let mut client = proxy.client();
    client.send(format!(
        "POST /held HTTP/1.1\r\nhost: a\r\nx-tenant: {tenant}\r\ncontent-length: 4\r\n\r\nab"
    ));
    // One that came now could be let in instead.
    let in_flight = "portcullis_upstream_target_requests_in_flight";
    proxy.wait_metric(in_flight, under_way.into());
    client
}

fn ask(proxy: &Proxy, tenant: &str) -> u16 {
    proxy
        .get_with("/", &[&format!("x-tenant: {tenant}")])
        .status
}

#[test]
fn what_is_too_much_at_a_time_is_refused() {
    let origin = Origin::start();
    let limit = r#"concurrency-limit 2 key="header:x-tenant""#;
    let proxy = past(limit, &origin).start();
    let mut first = hold(&proxy, "blue", 1);
    let second = hold(&proxy, "blue", 2);
    let refused = proxy.get_with("/", &["x-tenant: blue"]);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(ask(&proxy, "red"), 200);
    let line = proxy.access_line(|line| line["status"] == 503);
    assert_eq!(line["reason"], "too_many_at_once");
    assert_eq!(line["blocked_by"], "filter:concurrency-limit");
    // A place comes back with the end of an answer,
    first.send("cd");
    assert_eq!(first.response().status, 200);
    eventually("place", || (ask(&proxy, "blue") == 200).then_some(()));
    // and when a client goes away.
    let _third = hold(&proxy, "blue", 2);
    assert_eq!(ask(&proxy, "blue"), 503);
    drop(second);
    eventually("place", || (ask(&proxy, "blue") == 200).then_some(()));
}

#[test]
fn a_reload_keeps_the_counts_of_lines_that_stay_the_same() {
    let origin = Origin::start();
    let with = |header: &str| {
        let limit = r#"concurrency-limit 1 key="client-ip" status=429"#;
        past(
            &format!(r#"{limit}; request-headers {{ set "x-a" "{header}" }}"#),
            &origin,
        )
    };
    let proxy = with("1").start();
    let mut held = hold(&proxy, "", 1);
    assert_eq!(ask(&proxy, ""), 429);
    proxy.reload(&with("2"));
    assert_eq!(ask(&proxy, ""), 429);
    held.send("cd");
    assert_eq!(held.response().status, 200);
    eventually("place", || (ask(&proxy, "") == 200).then_some(()));
}

#[test]
fn in_the_shadow_nothing_is_refused() {
    let origin = Origin::start();
    let limit = r#"concurrency-limit 1 key="route" mode="shadow""#;
    let proxy = past(limit, &origin).start();
    let _held = hold(&proxy, "", 1);
    let series =
        r#"portcullis_filter_refused_total{route="all",filter="concurrency-limit",mode="shadow"}"#;
    eventually("count", || {
        assert_eq!(ask(&proxy, ""), 200);
        (proxy.metric(series) > 0.0).then_some(())
    });
}
