//! Answers that come when nobody waits for them any longer, of agents that name no event in them.

use super::{all_quiet, all_up, assert_outcomes, route, routes};
use crate::harness::{
    Origin, Saboteur, TestAgent,
    agent::{Dialect, Reaction},
    eventually,
};
use portcullis_agent_protocol::Decision;
use std::thread;

#[test]
fn d12_a_legacy_connection_retires_after_a_timeout_and_others_on_it_finish() {
    let origin = Origin::start();
    let agent = TestAgent::named("old")
        .speaking(Dialect::Legacy)
        .on("/short/slow", Reaction::late(&Decision::block(451)))
        .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
        .start();
    let saboteur = Saboteur::before(&agent);
    let text =
        route("short", r#"agent "old" timeout="300ms""#, "") + &route("long", r#"agent "old""#, "");
    let proxy = routes(&text, &origin)
        .agent_behind(&saboteur, "old", "timeout \"10s\"; pool min=1 max=2")
        .start();
    proxy.wait_ready();
    thread::scope(|scope| {
        let slow = scope.spawn(|| proxy.get("/short/slow").status);
        agent.saw(|event| event["uri"] == "/short/slow");
        // Behind the slow one on the same connection: the agent does one thing at a time.
        let other = scope.spawn(|| proxy.get("/long/other").status);
        eventually("the other question", || {
            (saboteur.events() == 2).then_some(())
        });
        assert_eq!(slow.join().unwrap(), 504);
        // At once there is another connection, for which the pool has to have room: the old one counts until it is closed.
        eventually("another connection", || {
            (saboteur.accepted() == 2).then_some(())
        });
        assert_eq!(proxy.get("/short/next").status, 200);
        assert_eq!(saboteur.lines(), 2, "the old connection is still there");
        assert!(!other.is_finished());
        agent.release();
        assert_eq!(other.join().unwrap(), 200);
    });
    eventually("the end of the old connection", || {
        (saboteur.lines() == 1).then_some(())
    });
    for number in 0..20 {
        let response = proxy.get(&format!("/short/{number}"));
        assert_eq!(response.status, 200);
    }
    assert!(
        origin
            .requests()
            .iter()
            .all(|request| request.header("x-judged").is_some())
    );
    assert_eq!(saboteur.accepted(), 2);
    all_quiet(&proxy);
}

#[test]
fn d12_a_request_that_timed_out_does_not_ask_a_legacy_agent_again() {
    let origin = Origin::start();
    let agent = TestAgent::named("old")
        .speaking(Dialect::Legacy)
        .otherwise(Reaction::late(&Decision::block(451)))
        .start();
    let twice =
        r#"agent "old" timeout="150ms" failure-mode="open"; agent "old" failure-mode="MODE""#;
    let text = route("closed", &twice.replace("MODE", "closed"), "")
        + &route("open", &twice.replace("MODE", "open"), "");
    let proxy = routes(&text, &origin).agent(&agent).start();
    all_up(&proxy, &[&agent]);
    for (path, status) in [("/closed", 504), ("/open", 200)] {
        assert_eq!(proxy.get(path).status, status);
        let line = proxy.access_line_of(path);
        assert_outcomes(&line, &[("old", "timeout"), ("old", "timeout")]);
        let requests = agent.requests();
        let asked = requests.iter().filter(|event| event["uri"] == path);
        assert_eq!(asked.count(), 1);
    }
}

#[test]
fn d12_a_numbered_agent_may_be_asked_again() {
    for dialect in [Dialect::Binary, Dialect::NumberedJson] {
        let origin = Origin::start();
        let agent = TestAgent::named("new")
            .speaking(dialect)
            .otherwise(Reaction::late(&Decision::block(451)))
            .start();
        let filters =
            r#"agent "new" timeout="150ms" failure-mode="open"; agent "new" timeout="150ms""#;
        let proxy = routes(&route("twice", filters, ""), &origin)
            .agent(&agent)
            .start();
        proxy.wait_ready();
        assert_eq!(proxy.get("/twice").status, 504);
        let line = proxy.access_line_of("/twice");
        assert_outcomes(&line, &[("new", "timeout"), ("new", "timeout")]);
        assert_eq!(agent.requests().len(), 2);
        all_quiet(&proxy);
    }
}
