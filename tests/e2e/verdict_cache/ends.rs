//! When a verdict is not used any longer.

use super::{KEPT, asking, cache_metric, held, kept, was_known};
use crate::harness::{Origin, TestAgent, agent::Dialect, eventually};
use portcullis_agent_protocol::Decision;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Waits until the agent is asked again, and says how long that took from before the first question.
fn lived(decision: Decision, settings: &str) -> Duration {
    let origin = Origin::start();
    let judge = TestAgent::named("judge").otherwise(decision).start();
    let proxy = kept(&judge, &origin, settings);
    let before = Instant::now();
    assert_eq!(proxy.get("/p").status, 200);
    eventually("another question", || {
        assert_eq!(proxy.get("/p").status, 200);
        (judge.requests().len() > 1).then(|| before.elapsed())
    })
}

#[test]
fn a_verdict_ends_with_its_time_to_live_or_that_of_the_operator() {
    let took = lived(Decision::allow().hold_for(SECOND), KEPT);
    assert!(took >= SECOND, "{took:?}");
    let settings = "timeout \"10s\"; verdict-cache max-ttl=\"1s\"";
    let took = lived(held(), settings);
    assert!(took >= SECOND, "{took:?}");
}

#[test]
fn another_version_of_the_agent_is_asked_again_and_the_same_one_is_not() {
    let origin = Origin::start();
    let mut judge = TestAgent::named("judge").otherwise(held()).start();
    let proxy = kept(&judge, &origin, KEPT);
    let up = r#"portcullis_agent_up{agent="judge"}"#;
    let reconnects = r#"portcullis_agent_reconnects_total{agent="judge"}"#;
    assert!(!was_known(&proxy, &proxy.get("/p")));
    for (version, known) in [("0.0.1", true), ("0.0.2", false), ("0.0.2", true)] {
        let before = proxy.metric(reconnects);
        judge.kill();
        eventually("the loss of every connection", || {
            (proxy.metric("portcullis_agent_connections{agent=\"judge\"}") == 0.0).then_some(())
        });
        // A known verdict needs no agent.
        assert!(was_known(&proxy, &proxy.get("/p")), "{version}");
        judge.becomes(version);
        judge.start_again();
        proxy.wait_metric(up, 1.0);
        assert!(proxy.metric(reconnects) > before);
        let purges = cache_metric(&proxy, "purges_total");
        assert_eq!(was_known(&proxy, &proxy.get("/p")), known, "{version}");
        assert_eq!(purges, if version == "0.0.1" { 0.0 } else { 1.0 });
    }
}

#[test]
fn the_agent_takes_its_verdicts_back() {
    for dialect in [Dialect::Binary, Dialect::NumberedJson] {
        let origin = Origin::start();
        let judge = TestAgent::named("judge")
            .speaking(dialect)
            .otherwise(held())
            .start();
        let proxy = kept(&judge, &origin, KEPT);
        for path in ["/one", "/two"] {
            assert!(!was_known(&proxy, &proxy.get(path)));
            assert!(was_known(&proxy, &proxy.get(path)));
        }
        assert_eq!(cache_metric(&proxy, "entries"), 2.0);
        judge.says("purge");
        eventually("the purge", || {
            (cache_metric(&proxy, "purges_total") >= 1.0).then_some(())
        });
        for path in ["/one", "/two"] {
            assert!(!was_known(&proxy, &proxy.get(path)), "{dialect:?}");
        }
    }
}

#[test]
fn a_reload_keeps_verdicts_of_an_agent_that_stays_the_same() {
    let origin = Origin::start();
    let judge = TestAgent::named("judge").otherwise(held()).start();
    let with = |settings: &str| asking(&judge, &origin).agent_with(&judge, settings);
    let proxy = with(KEPT).start();
    proxy.wait_ready();
    assert!(!was_known(&proxy, &proxy.get("/p")));
    proxy.reload(&with(KEPT));
    assert!(was_known(&proxy, &proxy.get("/p")));
    for changed in ["config { level 1 }", "config { level 2 }", "queue"] {
        let more = match changed {
            "queue" => "max-concurrent-calls 7",
            config => config,
        };
        proxy.reload(&with(&format!("{KEPT}; {more}")));
        assert!(!was_known(&proxy, &proxy.get("/p")), "{changed}");
        assert!(was_known(&proxy, &proxy.get("/p")), "{changed}");
    }
    proxy.reload(&with("timeout \"10s\""));
    assert!(!was_known(&proxy, &proxy.get("/p")));
}

/// What one agent may set is another's in the next configuration.
#[test]
fn a_verdict_that_is_in_order_no_longer_is_not_used() {
    let origin = Origin::start();
    let judge = TestAgent::named("judge")
        .otherwise(held().set_request_header("x-user", "judge"))
        .start();
    let other = TestAgent::named("other").start();
    let with = |owns: &str| {
        asking(&judge, &origin)
            .agent_with(&judge, KEPT)
            .agent_with(&other, owns)
    };
    let proxy = with("timeout \"10s\"").start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/p").status, 200);
    assert!(was_known(&proxy, &proxy.get("/p")));
    proxy.reload(&with("timeout \"10s\"; owns-headers \"x-user\""));
    assert_eq!(proxy.get("/p").status, 502, "it sets what is another's");
}
