//! One question for many who want to know the same.

use super::{KEPT, LONG, held, kept};
use crate::harness::{Origin, Proxy, RawClient, Response, TestAgent, agent::Reaction, eventually};
use portcullis_agent_protocol::Decision;
use std::time::Duration;

const CLIENTS: usize = 8;

const GET: &str = "GET /p HTTP/1.1\r\nhost: test\r\n\r\n";

/// Clients of which the first is being asked for, and the others have been read.
fn waiting(proxy: &Proxy, agent: &TestAgent) -> Vec<RawClient> {
    let mut clients = vec![proxy.client()];
    clients[0].send(GET);
    agent.wait_seen("request_headers", 1);
    for _ in 1..CLIENTS {
        let mut client = proxy.client();
        client.send(GET);
        clients.push(client);
    }
    proxy.wait_metric("portcullis_http_requests_in_flight", CLIENTS as f64);
    clients
}

fn answers(clients: &mut [RawClient]) -> Vec<Response> {
    clients.iter_mut().map(RawClient::response).collect()
}

#[test]
fn many_wait_for_one_answer() {
    let origin = Origin::start();
    let verdict = Decision::block(418).hold_for(LONG);
    let judge = TestAgent::named("judge")
        .otherwise(Reaction::late(&verdict))
        .start();
    let proxy = kept(&judge, &origin, KEPT);
    let mut clients = waiting(&proxy, &judge);
    judge.release();
    for response in answers(&mut clients) {
        assert_eq!(response.status, 418);
    }
    assert_eq!(judge.requests().len(), 1);
    let hits = r#"portcullis_verdict_cache_hits_total{agent="judge",outcome="block"}"#;
    proxy.wait_metric(hits, (CLIENTS - 1) as f64);
}

/// An answer without a time to live is for whoever asked.
#[test]
fn an_answer_that_is_not_kept_is_for_nobody_else() {
    let origin = Origin::start();
    let judge = TestAgent::named("judge")
        .otherwise(Reaction::late(&Decision::allow()))
        .start();
    let proxy = kept(&judge, &origin, KEPT);
    let mut clients = waiting(&proxy, &judge);
    judge.release();
    for response in answers(&mut clients) {
        assert_eq!(response.status, 200);
    }
    assert_eq!(judge.requests().len(), CLIENTS);
}

#[test]
fn a_client_that_goes_away_leaves_the_question_to_another() {
    let origin = Origin::start();
    let judge = TestAgent::named("judge")
        .otherwise(Reaction::late(&held()))
        .start();
    let proxy = kept(&judge, &origin, KEPT);
    let mut clients = waiting(&proxy, &judge);
    drop(clients.remove(0));
    // One of the others asks, and only one.
    judge.wait_seen("request_headers", 2);
    judge.release();
    for response in answers(&mut clients) {
        assert_eq!(response.status, 200);
    }
    assert_eq!(judge.requests().len(), 2);
}

/// Whoever asked gets what its own question got; the others ask once more.
#[test]
fn a_failure_is_for_whoever_asked() {
    let origin = Origin::start();
    let mut judge = TestAgent::named("judge")
        .otherwise(Reaction::late(&held()))
        .start();
    let proxy = kept(&judge, &origin, KEPT);
    let mut clients = waiting(&proxy, &judge);
    judge.kill();
    // It is down for those who ask now, and up again for those who come later.
    let first = clients.remove(0).response();
    assert_eq!(first.status, 503);
    for response in answers(&mut clients) {
        assert!([200, 503].contains(&response.status), "{}", response.status);
    }
    judge.release();
    judge.start_again();
    eventually("a verdict", || {
        (proxy.get("/p").status == 200).then_some(())
    });
}

/// A failure of one's own question, here because the agent has as many as it may have, is not the answer while the same
/// question of another can still be answered.
#[test]
fn the_answer_to_another_is_worth_more_than_an_own_failure() {
    let origin = Origin::start();
    let takes = Duration::from_millis(1500);
    let judge = TestAgent::named("judge")
        .otherwise(Reaction::slow(takes, &held()))
        .start();
    let settings = "timeout \"3s\"; max-concurrent-calls 1 queue=0; verdict-cache";
    let proxy = kept(&judge, &origin, settings);
    let mut clients = waiting(&proxy, &judge);
    for response in answers(&mut clients) {
        assert_eq!(response.status, 200);
    }
    assert_eq!(judge.requests().len(), 1);
}

/// An agent that needs most of its time is in time for those as well who have waited for another's answer first.
#[test]
fn who_has_waited_has_time_left_for_a_slow_agent() {
    let origin = Origin::start();
    let takes = Duration::from_millis(1200);
    let judge = TestAgent::named("judge")
        .otherwise(Reaction::slow(takes, &Decision::allow()))
        .start();
    let settings = "timeout \"2s\"; circuit-breaker failures=1; verdict-cache";
    let proxy = kept(&judge, &origin, settings);
    let mut clients = waiting(&proxy, &judge);
    for response in answers(&mut clients) {
        assert_eq!(response.status, 200);
    }
    assert_eq!(judge.requests().len(), CLIENTS);
}

/// One that needs even more is too slow for them, but that is no fault of its own: it has not had its time.
#[test]
fn what_was_left_of_the_time_is_not_held_against_the_agent() {
    let origin = Origin::start();
    let takes = Duration::from_millis(1600);
    let judge = TestAgent::named("judge")
        .otherwise(Reaction::slow(takes, &Decision::allow()))
        .start();
    let settings = "timeout \"2s\"; circuit-breaker failures=1; verdict-cache";
    let proxy = kept(&judge, &origin, settings);
    let mut clients = waiting(&proxy, &judge);
    let statuses: Vec<u16> = answers(&mut clients)
        .iter()
        .map(|answer| answer.status)
        .collect();
    assert_eq!(statuses[0], 200);
    assert!(statuses[1..].contains(&504), "{statuses:?}");
    let response = proxy.get("/p");
    assert_eq!(response.status, 200, "its breaker is closed");
}

/// Who waits for another does so within its own time, and asks itself when a quarter of that is over.
#[test]
fn nobody_waits_longer_than_for_its_own_question() {
    let origin = Origin::start();
    let judge = TestAgent::named("judge").otherwise(Reaction::Hang).start();
    let settings = "timeout \"2s\"; circuit-breaker failures=1000; verdict-cache";
    let proxy = kept(&judge, &origin, settings);
    let mut clients = waiting(&proxy, &judge);
    for response in answers(&mut clients) {
        assert_eq!(response.status, 504);
    }
    assert_eq!(judge.requests().len(), CLIENTS, "each has asked in the end");
}

/// The answer to a question from before a purge is for whoever asked, and not kept.
#[test]
fn an_answer_from_before_a_purge_is_not_kept() {
    let origin = Origin::start();
    let judge = TestAgent::named("judge")
        .otherwise(Reaction::late(&held()))
        .start();
    let proxy = kept(&judge, &origin, KEPT);
    let mut client = proxy.client();
    client.send(GET);
    judge.wait_seen("request_headers", 1);
    judge.says("purge");
    eventually("the purge", || {
        (proxy.metric("portcullis_verdict_cache_purges_total") >= 1.0).then_some(())
    });
    judge.release();
    assert_eq!(client.response().status, 200);
    assert_eq!(proxy.metric("portcullis_verdict_cache_entries"), 0.0);
    assert_eq!(proxy.get("/p").status, 200);
    assert_eq!(judge.requests().len(), 2);
}
