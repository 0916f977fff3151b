//! Replicas of one agent: who is asked, what becomes of a request whose replica is lost, and what is said of it.

use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
    eventually,
    ext_proc::ExtProcAgent,
    proxy::Builder,
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// Allows, and says on the response that it did.
fn judged() -> Decision {
    Decision::allow().set_response_header("x-judged", "yes")
}

/// The settings of an agent with these replicas, which are all reached in the same way.
fn replicas(agents: &[&TestAgent], settings: &str) -> String {
    let ways: Vec<_> = agents.iter().map(|agent| agent.way()).collect();
    let (node, _) = ways[0].split_once(' ').unwrap();
    let targets = ways.iter().map(|way| way.replacen(node, "target", 1));
    let targets: Vec<_> = targets.collect();
    format!("{node} {{ {} }}; {settings}", targets.join("; "))
}

/// A proxy with one worker that asks an agent with replicas about everything and answers by itself.
fn asking(agents: &[&TestAgent], settings: &str) -> Builder {
    let route = r#"route "all" { filters { agent "waf" }; respond 200 "pong" }"#;
    Proxy::builder(format!(
        "system {{ worker-threads 1 }}\nroutes {{ {route} }}\nadmin {{ address \"127.0.0.1:0\" }}"
    ))
    .listener("limits { requests-per-connection 100000000 }")
    .agent_block("waf", &replicas(agents, settings))
}

/// The same before an origin.
fn through(agents: &[&TestAgent], settings: &str, origin: &Origin) -> Builder {
    let route = r#"route "all" { filters { agent "waf" }; upstream "origin" }"#;
    Proxy::builder(format!(
        "system {{ worker-threads 1 }}\nroutes {{ {route} }}"
    ))
    .origin(origin)
    .agent_block("waf", &replicas(agents, settings))
}

/// Waits until each replica has so many connections.
fn connected(proxy: &Proxy, agents: &[&TestAgent], connections: f64) {
    for agent in agents {
        let way = agent.way();
        let place = way.split('"').nth(1).unwrap();
        let series =
            format!(r#"portcullis_agent_replica_connections{{agent="waf",replica="{place}"}}"#);
        proxy.wait_metric(&series, connections);
    }
}

fn start(builder: Builder, agents: &[&TestAgent]) -> Proxy {
    let proxy = builder.start();
    proxy.wait_ready();
    connected(&proxy, agents, 1.0);
    proxy
}

/// What the metric says by now.
fn failovers(proxy: &Proxy) -> f64 {
    proxy.metric(r#"portcullis_agent_failovers_total{agent="waf"}"#)
}

/// Clients that ask until they are told to stop, and what they got.
struct Load<'a> {
    proxy: &'a Proxy,
    stop: AtomicBool,
    /// Status and whether the response says that it was judged.
    seen: Mutex<BTreeMap<(u16, bool), usize>>,
}

impl<'a> Load<'a> {
    fn new(proxy: &'a Proxy) -> Self {
        Self {
            proxy,
            stop: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    fn ask_on(&self) {
        let mut client = self.proxy.client();
        while !self.stop.load(SeqCst) {
            let response = client.get("/", &[]);
            let judged = response.header("x-judged") == Some("yes");
            *self
                .seen
                .lock()
                .unwrap()
                .entry((response.status, judged))
                .or_default() += 1;
        }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().values().sum()
    }

    /// Waits until so many more requests have been answered.
    fn goes_on(&self, requests: usize) {
        let before = self.count();
        eventually("answers", || {
            (self.count() >= before + requests).then_some(())
        });
    }
}

#[test]
fn a_replica_that_is_killed_under_load_costs_no_request() {
    for (dialect, is_remote) in [
        (Dialect::Binary, false),
        (Dialect::Json, false),
        (Dialect::Binary, true),
        (Dialect::Json, true),
    ] {
        let agent = |name: &str| {
            // Always at work, so that there is something to be lost.
            let slow = Reaction::slow(Duration::from_millis(10), &judged());
            let agent = TestAgent::named(name).speaking(dialect).otherwise(slow);
            let agent = if is_remote { agent.over_grpc() } else { agent };
            agent.quiet().start()
        };
        let (mut one, mut other) = (agent("one"), agent("other"));
        let builder = asking(&[&one, &other], "timeout \"5s\"; pool min=1 max=1");
        let proxy = start(builder, &[&one, &other]);
        let load = Load::new(&proxy);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| load.ask_on());
            }
            for round in 0..4 {
                load.goes_on(50);
                let killed = if round % 2 == 0 { &mut one } else { &mut other };
                killed.kill();
                load.goes_on(50);
                killed.start_again();
                connected(&proxy, &[&one, &other], 1.0);
            }
            load.stop.store(true, SeqCst);
        });
        let seen = load.seen.into_inner().unwrap();
        let statuses: Vec<_> = seen.keys().copied().collect();
        assert_eq!(statuses, [(200, true)], "{dialect:?} {is_remote}: {seen:?}");
        let failovers = failovers(&proxy);
        eprintln!("{dialect:?}: {seen:?}, {failovers} calls were put to the other replica");
        assert!(failovers >= 1.0);
        proxy.wait_metric("portcullis_agent_in_flight", 0.0);
    }
}

#[test]
fn external_processors_have_replicas_too() {
    let (mut one, other) = (ExtProcAgent::passing(), ExtProcAgent::passing());
    let target = |agent: &ExtProcAgent| {
        let block = agent.block("");
        let way = block.split(';').next().unwrap();
        way.replacen("grpc", "target", 1)
    };
    let settings = "timeout \"5s\"; pool min=1 max=1 balance=\"round-robin\"";
    let (first, second) = (target(&one), target(&other));
    let route = r#"route "all" { filters { agent "waf" }; respond 200 "pong" }"#;
    let proxy = Proxy::builder(format!(
        "system {{ worker-threads 1 }}\nroutes {{ {route} }}"
    ))
    .agent_block(
        "waf",
        &format!("grpc {{ {first}; {second} }}; dialect \"ext-proc\"; {settings}"),
    )
    .start();
    proxy.wait_ready();
    let passes = || assert_eq!(proxy.get("/").status, 200);
    eventually("both are asked", || {
        passes();
        (!one.told().is_empty() && !other.told().is_empty()).then_some(())
    });
    one.kill();
    for _ in 0..20 {
        passes();
    }
    let before = one.told().len();
    one.begin();
    eventually("it is asked again", || {
        passes();
        (one.told().len() > before).then_some(())
    });
}

#[test]
fn a_call_is_put_to_each_replica_once_at_most() {
    let fatal = |name: &str| {
        let agent = TestAgent::named(name);
        agent.on("/fatal", Reaction::Exit).start()
    };
    let (mut one, other) = (fatal("one"), fatal("other"));
    let builder = asking(&[&one, &other], "timeout \"5s\"; pool min=1 max=1");
    let proxy = start(builder, &[&one, &other]);
    let started = Instant::now();
    let refused = proxy.get("/fatal");
    assert_eq!(refused.status, 503);
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(proxy.access_line_of("/fatal")["reason"], "unreachable");
    let asked = |agent: &TestAgent| {
        let requests = agent.requests();
        requests
            .iter()
            .filter(|event| event["uri"] == "/fatal")
            .count()
    };
    assert_eq!((asked(&one), asked(&other)), (1, 1));
    assert_eq!(failovers(&proxy), 1.0);
    one.start_again();
    eventually("a verdict", || (proxy.get("/").status == 200).then_some(()));
}

#[test]
fn nobody_else_is_asked_after_a_timeout() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let hanging = |name: &str| {
            let agent = TestAgent::named(name).speaking(dialect);
            agent.on("/hang", Reaction::Hang).start()
        };
        let (one, other) = (hanging("one"), hanging("other"));
        let settings = "timeout \"300ms\"; failure-mode \"closed\"; pool min=1 max=1";
        let proxy = start(asking(&[&one, &other], settings), &[&one, &other]);
        assert_eq!(proxy.get("/hang").status, 504);
        assert_eq!(
            one.requests().len() + other.requests().len(),
            1,
            "{dialect:?}"
        );
        assert_eq!(failovers(&proxy), 0.0);
    }
}

#[test]
fn a_replica_that_only_fails_is_left_alone() {
    let bad = TestAgent::named("bad").otherwise(Reaction::Fail).start();
    let good = TestAgent::named("good").otherwise(judged()).start();
    let settings =
        "timeout \"5s\"; circuit-breaker failures=3; pool min=1 max=1 balance=\"round-robin\"";
    let proxy = start(asking(&[&bad, &good], settings), &[&bad, &good]);
    let statuses: Vec<_> = (0..20).map(|_| proxy.get("/").status).collect();
    // Each other call went there until it had failed often enough.
    let failed = statuses.iter().filter(|status| **status == 502).count();
    assert_eq!(failed, 3, "{statuses:?}");
    assert!(
        statuses[6..].iter().all(|status| *status == 200),
        "{statuses:?}"
    );
    assert_eq!(bad.requests().len(), 3);
    let status = status(&proxy);
    let breakers: Vec<_> = status["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["circuit_breaker"].clone())
        .collect();
    assert_eq!(breakers, ["open", "closed"]);
    assert_eq!(status["circuit_breaker"], "closed");
}

#[test]
fn calls_are_spread_over_replicas() {
    for balance in ["least-in-flight", "round-robin", "random", "weighted"] {
        let (one, other) = (
            TestAgent::named("one").start(),
            TestAgent::named("other").start(),
        );
        let settings = format!("timeout \"5s\"; pool min=2 max=2 balance=\"{balance}\"");
        let builder = asking(&[&one, &other], &settings);
        let proxy = builder.start();
        proxy.wait_ready();
        connected(&proxy, &[&one, &other], 2.0);
        for _ in 0..60 {
            assert_eq!(proxy.get("/").status, 200);
        }
        let (asked, others) = (one.requests().len(), other.requests().len());
        assert_eq!(asked + others, 60);
        assert!(asked.min(others) >= 10, "{balance}: {asked} and {others}");
    }
    // Of two that differ the faster one has most of them.
    let slow = Reaction::slow(Duration::from_millis(40), &Decision::allow());
    let slow = TestAgent::named("slow").otherwise(slow).start();
    let fast = TestAgent::named("fast").start();
    let settings = "timeout \"5s\"; pool min=1 max=1 balance=\"fastest\"";
    let proxy = start(asking(&[&slow, &fast], settings), &[&slow, &fast]);
    for _ in 0..40 {
        assert_eq!(proxy.get("/").status, 200);
    }
    assert!(slow.requests().len() <= 4, "{}", slow.requests().len());
}

/// The requests about which an agent was told more than their heads, with how many events there were of each.
fn told(agent: &TestAgent) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for event in agent.record() {
        if let Some(id) = event["correlation_id"].as_str() {
            *told.entry(id.to_owned()).or_default() += 1;
        }
    }
    told
}

const EVERYTHING: &str = "timeout \"5s\"; inspect { request-headers; request-body \"buffer\"; response-headers; response-body \"buffer\"; request-complete }; pool min=1 max=1 balance=\"round-robin\"";

fn post(proxy: &Proxy, path: &str) -> u16 {
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody");
    proxy.client().send(head).response().status
}

#[test]
fn a_request_stays_with_its_replica() {
    for (stateless, together) in [("", true), ("stateless; ", false)] {
        let origin = Origin::start();
        let (one, other) = (
            TestAgent::named("one").start(),
            TestAgent::named("other").start(),
        );
        let settings = format!("{stateless}{EVERYTHING}");
        let proxy = start(
            through(&[&one, &other], &settings, &origin),
            &[&one, &other],
        );
        for _ in 0..10 {
            assert_eq!(post(&proxy, "/"), 200);
        }
        eventually("the ends of all requests", || {
            let seen = |agent: &TestAgent| agent.seen("request_complete").len();
            (seen(&one) + seen(&other) == 10).then_some(())
        });
        let heads = (one.requests().len(), other.requests().len());
        let (one, other) = (told(&one), told(&other));
        let ids = |told: &BTreeMap<String, usize>| told.keys().cloned().collect::<BTreeSet<_>>();
        let both = ids(&one).intersection(&ids(&other)).count();
        if together {
            assert_eq!((both, (one.len(), other.len())), (0, heads));
            assert_eq!(heads, (5, 5));
            let mut all = one.values().chain(other.values());
            // Two bodies, the head of the response, and the end.
            assert!(all.all(|events| *events == 4), "{one:?} {other:?}");
        } else {
            assert!(both > 0, "{one:?} {other:?}");
        }
    }
}

#[test]
fn a_request_whose_replica_is_lost_in_the_middle_fails_unless_there_is_no_state() {
    for (stateless, status) in [("", 503), ("stateless; ", 200)] {
        let origin = Origin::start();
        let fatal = |name: &str| {
            let agent = TestAgent::named(name);
            let body = When::Always.on("/fatal");
            agent.then(Phase::RequestBody, body, Reaction::Exit)
        };
        let one = fatal("one").start();
        let other = TestAgent::named("other").start();
        // The head goes to the first, which is all alone, and its body ends that.
        let settings = format!(
            "{stateless}{}",
            EVERYTHING.replace("round-robin", "least-in-flight")
        );
        let proxy = start(
            through(&[&one, &other], &settings, &origin),
            &[&one, &other],
        );
        let answered = eventually("the replica that dies is asked", || {
            let answered = post(&proxy, "/fatal");
            (!one.seen("request_body_chunk").is_empty()).then_some(answered)
        });
        assert_eq!(answered, status, "{stateless}");
        let last = proxy.access_line(|line| line["path"] == "/fatal" && line["status"] == status);
        if status == 503 {
            assert_eq!(
                (&last["blocked_by"], &last["reason"]),
                (&"waf".into(), &"unreachable".into())
            );
        }
        // The next one begins where somebody is.
        assert_eq!(post(&proxy, "/"), 200);
    }
}

/// What the status page says of the agent.
fn status(proxy: &Proxy) -> Value {
    let mut client = crate::harness::RawClient::connect(proxy.address_of("admin"));
    let status = client.get("/status", &["host: localhost"]).json();
    status["agents"][0].clone()
}

#[test]
fn one_replica_is_enough_to_be_ready_and_the_other_is_named() {
    let there = TestAgent::named("there").otherwise(judged()).start();
    let mut away = TestAgent::named("away").otherwise(judged());
    let proxy = asking(&[&away, &there], "timeout \"5s\"; pool min=2 max=3").start();
    proxy.wait_ready();
    connected(&proxy, &[&there], 2.0);
    assert_eq!(proxy.get("/").status, 200);
    proxy.wait_metric(r#"portcullis_agent_up{agent="waf"}"#, 1.0);
    let shown = status(&proxy);
    assert_eq!(shown["state"], "ready");
    assert_eq!(shown["replicas"][0]["connections"], 0);
    assert!(shown["replicas"][0]["last_error"].is_string(), "{shown}");
    assert_eq!(shown["replicas"][1]["connections"], 2);
    let pool = &shown["pool"];
    assert_eq!((&pool["created"], &pool["closed"]), (&2.into(), &0.into()));
    assert_eq!((&pool["idle"], &pool["busy"]), (&2.into(), &0.into()));
    assert_eq!(
        (&pool["found"], &pool["hit_rate"]),
        (&1.into(), &1.0.into())
    );
    assert!(
        pool["average_call_seconds"].as_f64().unwrap() > 0.0,
        "{pool}"
    );
    for (series, value) in [
        (r#"pool_connections{agent="waf",state="idle"}"#, 2.0),
        (r#"pool_created_total{agent="waf"}"#, 2.0),
        (r#"pool_closed_total{agent="waf"}"#, 0.0),
        (r#"pool_lookups_total{agent="waf",result="found"}"#, 1.0),
        (r#"pool_lookups_total{agent="waf",result="none"}"#, 0.0),
    ] {
        assert_eq!(
            proxy.metric(&format!("portcullis_agent_{series}")),
            value,
            "{series}"
        );
    }
    assert!(proxy.metric(r#"portcullis_agent_call_average_seconds{agent="waf"}"#) > 0.0);
    away.start_again();
    connected(&proxy, &[&away, &there], 2.0);
    assert_eq!(status(&proxy)["last_error"], Value::Null);
}
