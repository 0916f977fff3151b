//! How much is kept.

use super::{cache_metric, held, kept, was_known};
use crate::harness::{Origin, TestAgent};
use portcullis_agent_protocol::Decision;

#[test]
fn the_number_of_verdicts_is_bounded_and_the_oldest_goes_first() {
    let origin = Origin::start();
    let judge = TestAgent::named("judge").otherwise(held()).start();
    let settings = "timeout \"10s\"; verdict-cache max-entries=3 max-ttl=\"1h\"";
    let proxy = kept(&judge, &origin, settings);
    for path in ["/1", "/2", "/3"] {
        assert!(!was_known(&proxy, &proxy.get(path)));
    }
    assert!(was_known(&proxy, &proxy.get("/1")));
    assert!(!was_known(&proxy, &proxy.get("/4")));
    assert!(was_known(&proxy, &proxy.get("/1")));
    assert!(!was_known(&proxy, &proxy.get("/2")), "it had to go");
    assert_eq!(cache_metric(&proxy, "entries"), 3.0);
    assert_eq!(cache_metric(&proxy, "evictions_total"), 2.0);
    assert_eq!(cache_metric(&proxy, "stored_total"), 5.0);
    assert_eq!(cache_metric(&proxy, "misses_total"), 5.0);
}

#[test]
fn what_they_take_up_is_bounded() {
    let origin = Origin::start();
    let large = Decision::block(403)
        .with_body("x".repeat(20_000))
        .hold_for(super::LONG);
    let huge = Decision::block(403)
        .with_body("x".repeat(70_000))
        .hold_for(super::LONG);
    let judge = TestAgent::named("judge")
        .on("/huge", huge)
        .otherwise(large)
        .start();
    let settings = "timeout \"10s\"; verdict-cache max-bytes=\"64KiB\" max-ttl=\"1h\"";
    let proxy = kept(&judge, &origin, settings);
    for number in 0..10 {
        assert_eq!(proxy.get(&format!("/{number}")).status, 403);
        assert!(cache_metric(&proxy, "used_bytes") <= 65536.0);
    }
    assert_eq!(cache_metric(&proxy, "entries"), 3.0);
    assert_eq!(cache_metric(&proxy, "evictions_total"), 7.0);
    // One that has no room at all makes none of the others go.
    for _ in 0..2 {
        assert!(!was_known(&proxy, &proxy.get("/huge")));
    }
    assert!(was_known(&proxy, &proxy.get("/9")));
    // The keys count too.
    for number in 0..10 {
        let line = format!("cookie: {number}{}", "y".repeat(20_000));
        assert_eq!(proxy.get_with("/9", &[&line]).status, 403);
        assert!(cache_metric(&proxy, "used_bytes") <= 65536.0);
    }
}
