//! Circuit breakers.

use super::{FREE, all_quiet, assert_outcomes, circuit, route, routes};
use crate::harness::{DEADLINE, Origin, Proxy, TestAgent, agent::Reaction, eventually};
use std::{
    thread,
    time::{Duration, Instant},
};

fn broken(origin: &Origin, agent: &TestAgent, settings: &str) -> Proxy {
    let text = route("asked", &format!("agent \"{}\"", agent.name()), "")
        + &route(
            "open",
            &format!("agent \"{}\" failure-mode=\"open\"", agent.name()),
            "",
        )
        + FREE;
    let proxy = routes(&text, origin).agent_with(agent, settings).start();
    proxy.wait_ready();
    proxy
}

/// The agent is not asked, on whatever route.
fn assert_open(proxy: &Proxy, agent: &TestAgent) {
    circuit(proxy, agent.name(), "open");
    let asked = agent.requests().len();
    for number in 0..3 {
        let path = format!("/asked/{number}");
        let started = Instant::now();
        let response = proxy.get(&path);
        assert!(started.elapsed() < DEADLINE / 10, "{:?}", started.elapsed());
        assert_eq!(response.status, 503);
        assert_eq!(response.header("retry-after"), Some("1"));
        let id = response.header("x-request-id").unwrap();
        let line = proxy.access_line(|line| line["request_id"] == id);
        assert_outcomes(&line, &[(agent.name(), "breaker_open")]);
        assert_eq!(line["reason"], "breaker_open");
    }
    assert_eq!(proxy.get("/open").status, 200);
    assert_eq!(proxy.get("/free").status, 200);
    assert_eq!(agent.requests().len(), asked, "it was not asked");
}

#[test]
fn failures_in_a_row_open_it_and_its_time_closes_it() {
    for reaction in [Reaction::Fail, Reaction::Hang] {
        let origin = Origin::start();
        let agent = TestAgent::named("weak").on("/asked/fail", reaction).start();
        let settings =
            r#"timeout "150ms"; circuit-breaker failures=3 successes=2 open-for="1500ms" probes=1"#;
        let proxy = broken(&origin, &agent, settings);
        // Not in a row.
        for path in ["/asked/fail", "/asked/fail", "/asked/good"].repeat(2) {
            let expected = if path == "/asked/good" {
                &[200][..]
            } else {
                &[502, 504]
            };
            assert!(expected.contains(&proxy.get(path).status));
        }
        circuit(&proxy, "weak", "closed");
        for _ in 0..3 {
            assert!([502, 504].contains(&proxy.get("/asked/fail").status));
        }
        assert_open(&proxy, &agent);
        eventually("a probe", || {
            (proxy.get("/asked/good").status == 200).then_some(())
        });
        circuit(&proxy, "weak", "half_open");
        assert_eq!(proxy.get("/asked/good").status, 200);
        circuit(&proxy, "weak", "closed");
        all_quiet(&proxy);
    }
}

#[test]
fn one_failed_probe_opens_it_again() {
    let origin = Origin::start();
    let agent = TestAgent::named("weak")
        .on("/asked/fail", Reaction::Fail)
        .start();
    let settings = r#"timeout "10s"; circuit-breaker failures=1 successes=3 open-for="300ms""#;
    let proxy = broken(&origin, &agent, settings);
    assert_eq!(proxy.get("/asked/fail").status, 502);
    eventually("a probe", || {
        (proxy.get("/asked/good").status == 200).then_some(())
    });
    circuit(&proxy, "weak", "half_open");
    assert_eq!(proxy.get("/asked/fail").status, 502);
    assert_eq!(proxy.get("/asked/good").status, 503);
    eventually("it closes", || {
        (proxy.get("/asked/good").status == 200
            && proxy.metric(r#"portcullis_agent_circuit_state{agent="weak",state="closed"}"#)
                == 1.0)
            .then_some(())
    });
}

/// The threshold of successes may be above the number of probes at once.
#[test]
fn d10_one_probe_at_a_time_and_one_that_is_given_up_makes_room() {
    let origin = Origin::start();
    let agent = TestAgent::named("weak")
        .on("/asked/fail", Reaction::Fail)
        .on("/asked/hang", Reaction::Hang)
        .start();
    let settings =
        r#"timeout "10s"; circuit-breaker failures=1 successes=3 open-for="200ms" probes=1"#;
    let proxy = broken(&origin, &agent, settings);
    assert_eq!(proxy.get("/asked/fail").status, 502);
    // A probe that stays: whoever gets no refusal is being asked.
    let mut client = eventually("a probe", || {
        let asked = agent.requests().len();
        let mut client = proxy.client();
        client.send("GET /asked/hang HTTP/1.1\r\nhost: test\r\n\r\n");
        eventually("a refusal or a question", || {
            let refused = proxy
                .access_lines()
                .into_iter()
                .filter(|line| line["path"] == "/asked/hang" && line["reason"] == "breaker_open")
                .count();
            let sent = agent.requests().len() - asked;
            (sent == 1 || refused > 0).then_some(())
        });
        (agent.requests().len() > asked).then_some(client)
    });
    let asked = agent.requests().len();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(proxy.get("/asked/good").status, 503));
        }
    });
    assert_eq!(agent.requests().len(), asked, "nobody else probes");
    client.finish_sending();
    drop(client);
    eventually("the place of the probe", || {
        (proxy.get("/asked/good").status == 200).then_some(())
    });
    assert_eq!(proxy.get("/asked/good").status, 200);
    assert_eq!(proxy.get("/asked/good").status, 200);
    circuit(&proxy, "weak", "closed");
}

#[test]
fn after_lost_connections_it_closes_as_soon_as_the_agent_is_back() {
    let origin = Origin::start();
    let mut agent = TestAgent::named("weak").start();
    let settings = r#"timeout "10s"; circuit-breaker failures=3 successes=1 open-for="1h""#;
    let proxy = broken(&origin, &agent, settings);
    agent.kill();
    for _ in 0..3 {
        assert_eq!(proxy.get("/asked").status, 503);
    }
    assert_open(&proxy, &agent);
    agent.start_again();
    let started = Instant::now();
    eventually("verdicts", || {
        (proxy.get("/asked").status == 200).then_some(())
    });
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    circuit(&proxy, "weak", "closed");
}

#[test]
fn blocks_and_clients_that_go_away_do_not_open_it() {
    use portcullis_agent_protocol::Decision;
    let origin = Origin::start();
    let agent = TestAgent::named("strict")
        .on("/asked/block", Decision::block(403))
        .on("/asked/hang", Reaction::Hang)
        .start();
    let proxy = broken(
        &origin,
        &agent,
        r#"timeout "10s"; circuit-breaker failures=1"#,
    );
    for number in 1..=3 {
        assert_eq!(proxy.get("/asked/block").status, 403);
        let mut client = proxy.client();
        client.send("GET /asked/hang HTTP/1.1\r\nhost: test\r\n\r\n");
        eventually("question", || {
            let hanging = agent.requests();
            let hanging = hanging.iter().filter(|event| event["uri"] == "/asked/hang");
            (hanging.count() == number).then_some(())
        });
        drop(client);
        all_quiet(&proxy);
    }
    circuit(&proxy, "strict", "closed");
    assert_eq!(proxy.get("/asked").status, 200);
}

#[test]
fn an_agent_that_has_all_of_a_short_budget_and_does_not_answer_has_failed() {
    let origin = Origin::start();
    let agent = TestAgent::named("weak")
        .on("/asked", Reaction::Hang)
        .start();
    let text = route("asked", "agent \"weak\"", "agent-budget \"50ms\"") + FREE;
    let settings = "timeout \"10s\"; circuit-breaker failures=2 open-for=\"1h\"";
    let proxy = routes(&text, &origin).agent_with(&agent, settings).start();
    proxy.wait_ready();
    for _ in 0..2 {
        assert_eq!(proxy.get("/asked").status, 504);
    }
    circuit(&proxy, "weak", "open");
    assert_eq!(proxy.get("/asked").status, 503);
}
