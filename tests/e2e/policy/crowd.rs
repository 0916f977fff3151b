//! Far more clients than an agent may be asked for at once.

use super::{FREE, all_quiet, route, routes};
use crate::harness::{
    Origin, Proxy, RawClient, Response, TestAgent, agent::Reaction, eventually_within,
};
use portcullis_agent_protocol::Decision;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

const CLIENTS: usize = 5_000;
const CALLS: usize = 100;
const QUEUE: usize = 200;

/// Long enough for so many requests on a machine that has much else to do, and the most that an agent may have.
const PATIENCE: Duration = Duration::from_mins(1);

/// Nothing here depends on time: the agent answers nobody before all others have been refused.
#[test]
fn d09_of_five_thousand_at_once_three_hundred_wait_and_the_others_are_refused() {
    raise_descriptors(2 * CLIENTS);
    let origin = Origin::start();
    let busy = TestAgent::named("busy")
        .otherwise(Reaction::late(&Decision::allow()))
        .start();
    let settings = format!(
        "timeout \"1m\"; max-concurrent-calls {CALLS} queue={QUEUE}; circuit-breaker failures=100000"
    );
    let text = route("asked", r#"agent "busy""#, "agent-budget \"1m\"") + FREE;
    let proxy = routes(&text, &origin)
        .listener(&format!(
            "limits {{ connections-per-client {} }}",
            2 * CLIENTS
        ))
        .agent_with(&busy, &settings)
        .start();
    proxy.wait_ready();
    let mut waiting: Vec<RawClient> = (0..CLIENTS)
        .map(|number| {
            let mut client = proxy.client();
            client.send(format!(
                "GET /asked/{number} HTTP/1.1\r\nhost: test\r\n\r\n"
            ));
            client
        })
        .collect();
    // Those who were refused stay: all five thousand are there at once.
    let mut refused = Vec::new();
    eventually_within(PATIENCE, "refusals", || {
        for mut client in std::mem::take(&mut waiting) {
            if client.is_readable() {
                refused.push((client.response(), client));
            } else {
                waiting.push(client);
            }
        }
        (waiting.len() <= CALLS + QUEUE).then_some(())
    });
    for (response, _) in &refused {
        assert_refused(response);
    }
    proxy.wait_metric(r#"portcullis_agent_in_flight{agent="busy"}"#, CALLS as f64);
    proxy.wait_metric(r#"portcullis_agent_waiting{agent="busy"}"#, QUEUE as f64);
    assert_eq!(waiting.len(), CALLS + QUEUE);
    assert_eq!(busy.requests().len(), CALLS);
    assert_eq!(proxy.get("/free").status, 200);
    assert_refused(&proxy.get("/asked/one-more"));
    busy.release();
    for mut client in waiting {
        eventually_within(PATIENCE, "verdict", || client.is_readable().then_some(()));
        assert_eq!(client.response().status, 200);
    }
    all_quiet(&proxy);
    assert_counted(&proxy);
    // Of the free route, and of those who were served.
    assert_eq!(origin.requests().len(), 1 + CALLS + QUEUE);
    assert_eq!(proxy.get("/asked/again").status, 200);
}

fn assert_refused(response: &Response) {
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
}

fn assert_counted(proxy: &Proxy) {
    let outcomes = |outcome: &str| {
        proxy.metric(&format!(
            r#"portcullis_agent_calls_total{{agent="busy",outcome="{outcome}"}}"#
        ))
    };
    assert_eq!(outcomes("allow"), (CALLS + QUEUE) as f64);
    assert_eq!(outcomes("saturated"), (CLIENTS - CALLS - QUEUE + 1) as f64);
}

/// Lets this process, and those that it starts from now on, have as many descriptors as the system allows.
fn raise_descriptors(wanted: usize) {
    let limits = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limits.maximum,
        ..limits
    };
    setrlimit(Resource::Nofile, all).unwrap();
    let enough = all.current.is_none_or(|most| most >= wanted as u64);
    assert!(enough, "`ulimit -Hn` has to be at least {wanted}");
}
