//! Two clients, one to be blocked and one to be allowed, and answers that are sent again, change places and get lost: nobody
//! ever gets the other's verdict.

use crate::harness::{Origin, Proxy, Sabotage, Saboteur, Tamper, TestAgent, agent::Dialect};
use portcullis_agent_protocol::Decision;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

/// How many requests there are; in the variable another number.
const REQUESTS: usize = 5_000;
const REQUESTS_VARIABLE: &str = "FAULT_REQUESTS";

/// Each of the two clients asks on so many connections.
const CONNECTIONS: usize = 4;

/// What happens to answers, in turn. `more` happens as well.
fn tampers(more: Option<Tamper>) -> Vec<Tamper> {
    use Tamper::{Cross, Nothing, Replay, Swallow, Twice, Unsolicited, WrongId};
    let mut turns = Vec::new();
    let spoiling = [Replay, Twice, WrongId, Unsolicited, Replay, Swallow];
    for (number, tamper) in spoiling.into_iter().chain(more).enumerate() {
        // Two in a row change places, and most pass.
        turns.extend([Cross, Cross, Cross, Cross]);
        turns.extend(vec![Nothing; 5 + number]);
        turns.push(tamper);
        turns.extend(vec![Nothing; 3]);
    }
    turns
}

fn requests() -> usize {
    std::env::var(REQUESTS_VARIABLE).map_or(REQUESTS, |number| number.parse().unwrap())
}

/// How often each status was answered.
type Statuses = BTreeMap<u16, usize>;

/// Asks for a path again and again, as long as there are requests left.
fn ask(proxy: &Proxy, path: &str, left: &AtomicUsize) -> Statuses {
    let mut statuses = Statuses::new();
    let mut client = proxy.client();
    while left
        .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
        .is_ok()
    {
        let response = client.get(path, &[]);
        *statuses.entry(response.status).or_default() += 1;
        // So many requests a connection has, and then the proxy closes it.
        if response.header("connection") == Some("close") {
            client = proxy.client();
        }
    }
    statuses
}

fn no_wrong_verdict(dialect: Dialect, more: Option<Tamper>) {
    let origin = Origin::start();
    let agent = TestAgent::named("waf")
        .speaking(dialect)
        .on("/bad", Decision::block(451))
        .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
        .start();
    let saboteur = Saboteur::before(&agent);
    let proxy = Proxy::builder(
        r#"
        system { worker-threads 2 }
        routes { route "all" { filters { agent "waf" }; upstream "origin" } }
        "#,
    )
    .origin(&origin)
    .agent_behind(
        &saboteur,
        "waf",
        "timeout \"200ms\"; circuit-breaker failures=1000000; pool min=2 max=4",
    )
    .start();
    proxy.wait_ready();
    saboteur.does(Sabotage::Cycle(tampers(more)));
    let requests = requests();
    let left = AtomicUsize::new(requests);
    let [good, bad] = thread::scope(|scope| {
        let clients = ["/good", "/bad"].map(|path| {
            let asking = (0..CONNECTIONS).map(|_| scope.spawn(|| ask(&proxy, path, &left)));
            asking.collect::<Vec<_>>()
        });
        clients.map(|asking| {
            let mut all = Statuses::new();
            for statuses in asking {
                for (status, count) in statuses.join().unwrap() {
                    *all.entry(status).or_default() += count;
                }
            }
            all
        })
    });
    saboteur.relents();
    let spoilt = saboteur.spoilt();
    eprintln!("{dialect:?}: {requests} requests, {spoilt} answers, good {good:?}, bad {bad:?}");
    for (statuses, verdict) in [(&good, 200), (&bad, 451)] {
        let failures = [502, 503, 504];
        let known = |status: &u16| *status == verdict || failures.contains(status);
        assert!(statuses.keys().all(known), "{dialect:?}: {statuses:?}");
        // The test is of verdicts and not of failures.
        let judged = statuses.get(&verdict).copied().unwrap_or_default();
        let all: usize = statuses.values().sum();
        assert!(judged * 2 > all, "{dialect:?}: {statuses:?}");
        assert!(judged < all, "{dialect:?}: {statuses:?}");
    }
    for request in origin.requests() {
        assert_eq!(request.target(), "/good");
        assert_eq!(request.header("x-judged").as_deref(), Some("yes"));
    }
    proxy.wait_metric("portcullis_agent_in_flight", 0.0);
    proxy.wait_metric("portcullis_http_requests_in_flight", 0.0);
    assert_eq!(proxy.get("/good").status, 200);
    assert_eq!(proxy.get("/bad").status, 451);
}

#[test]
fn d12_no_wrong_verdict_in_binary() {
    no_wrong_verdict(Dialect::Binary, None);
}

#[test]
fn d12_no_wrong_verdict_in_json() {
    no_wrong_verdict(Dialect::NumberedJson, None);
}

#[test]
fn d12_no_wrong_verdict_of_a_legacy_agent() {
    no_wrong_verdict(Dialect::Json, Some(Tamper::CrossConnections));
}
