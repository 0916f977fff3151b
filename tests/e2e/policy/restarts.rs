//! Agents that are killed, and agents that hang.

use super::{FREE, all_quiet, all_up, circuit, route, routes};
use crate::harness::{Origin, Proxy, TestAgent, agent::Dialect, eventually};
use portcullis_agent_protocol::Decision;
use rustix::process::Signal;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// Statuses with the moment at which they were asked for, in the order of each client.
type Seen = Mutex<Vec<(Instant, u16)>>;

fn judging(name: &str, dialect: Dialect) -> TestAgent {
    TestAgent::named(name)
        .speaking(dialect)
        .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
}

/// Asks for a path again and again until it is told to stop.
fn ask_on(proxy: &Proxy, path: &str, stop: &AtomicBool, seen: &Seen) {
    let mut client = proxy.client();
    while !stop.load(SeqCst) {
        let asked = Instant::now();
        let status = client.get(path, &[]).status;
        seen.lock().unwrap().push((asked, status));
    }
}

fn wait_for(seen: &Seen, status: u16, since: Instant) -> Instant {
    eventually(&format!("status {status}"), || {
        let seen = seen.lock().unwrap();
        let found = seen
            .iter()
            .find(|(at, found)| *found == status && *at > since);
        found.map(|(at, _)| *at)
    })
}

#[test]
fn d17_an_agent_that_is_killed_under_load_refuses_and_comes_back_at_once() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let origin = Origin::start();
        let mut agent = judging("waf", dialect).start();
        let text = route("closed", r#"agent "waf""#, "")
            + &route("open", r#"agent "waf" failure-mode="open""#, "")
            + FREE;
        let proxy = routes(&text, &origin)
            // One success is enough, so that what is measured is the way back and not the probing.
            .agent_with(&agent, r#"timeout "5s"; circuit-breaker successes=1"#)
            .start();
        proxy.wait_ready();
        let stop = AtomicBool::new(false);
        let seen: [Seen; 3] = Default::default();
        let took = thread::scope(|scope| {
            for (path, seen) in ["/closed", "/open", "/free"].into_iter().zip(&seen) {
                for _ in 0..2 {
                    scope.spawn(|| ask_on(&proxy, path, &stop, seen));
                }
            }
            let start = Instant::now();
            for seen in &seen {
                wait_for(seen, 200, start);
            }
            agent.kill();
            let killed = Instant::now();
            wait_for(&seen[0], 503, killed);
            // Refusals only, for as long as it is away.
            let away = Instant::now();
            wait_for(&seen[1], 200, away + Duration::from_millis(300));
            let back = Instant::now();
            let between = seen[0].lock().unwrap().clone();
            let between = between.iter().filter(|(at, _)| (away..back).contains(at));
            assert!(between.clone().count() > 0);
            assert!(between.clone().all(|(_, status)| *status == 503));
            agent.start_again();
            let accepting = Instant::now();
            // It may have been asked before this thread knew.
            let judged = wait_for(&seen[0], 200, away);
            stop.store(true, SeqCst);
            judged.saturating_duration_since(accepting)
        });
        println!("{dialect:?}: judged again {took:?} after its socket accepts");
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(statuses(&seen[0]), [200, 503]);
        assert_eq!(statuses(&seen[1]), [200], "open loses no request");
        assert_eq!(statuses(&seen[2]), [200]);
        all_quiet(&proxy);
        assert_unasked_are_counted(&proxy, &origin);
    }
}

/// How often the agent is killed; in the variable another number.
const RESTARTS: usize = 3;
const RESTARTS_VARIABLE: &str = "RESTARTS";

/// An agent that is gone for this long is dialled at the longest pauses that there are.
const AWAY: Duration = Duration::from_millis(700);

#[test]
fn d17_a_killed_agent_is_asked_again_soon_after_each_return() {
    let restarts =
        std::env::var(RESTARTS_VARIABLE).map_or(RESTARTS, |number| number.parse().unwrap());
    let origin = Origin::start();
    let mut agent = judging("waf", Dialect::Binary).start();
    let text = route("closed", r#"agent "waf""#, "")
        + &route("open", r#"agent "waf" failure-mode="open""#, "")
        + FREE;
    let proxy = routes(&text, &origin)
        .listener("limits { requests-per-connection 100000000 }")
        .agent(&agent)
        .start();
    proxy.wait_ready();
    let stop = AtomicBool::new(false);
    let seen: [Seen; 3] = Default::default();
    let [closed, open, free] = &seen;
    let mut returns = Vec::new();
    thread::scope(|scope| {
        // One client of each, so that after a refusal there is no verdict from before the kill.
        for (path, seen) in ["/closed", "/open", "/free"].into_iter().zip(&seen) {
            scope.spawn(|| ask_on(&proxy, path, &stop, seen));
        }
        wait_for(closed, 200, Instant::now());
        for _ in 0..restarts {
            agent.kill();
            let refused = wait_for(closed, 503, Instant::now());
            wait_for(open, 200, refused + AWAY);
            agent.start_again();
            let accepting = Instant::now();
            // It may have been asked before this thread knew.
            let judged = wait_for(closed, 200, refused);
            returns.push(judged.saturating_duration_since(accepting));
            circuit(&proxy, "waf", "closed");
        }
        stop.store(true, SeqCst);
    });
    returns.sort_unstable();
    let (median, worst) = (returns[restarts / 2], returns[restarts - 1]);
    eprintln!("{restarts} restarts: judged again after {median:?} (median), {worst:?} (worst)");
    assert!(median < Duration::from_millis(500), "{returns:?}");
    assert!(worst < Duration::from_secs(2), "{returns:?}");
    assert_eq!(statuses(closed), [200, 503]);
    assert_eq!(statuses(open), [200], "open loses no request");
    assert_eq!(statuses(free), [200]);
    all_quiet(&proxy);
    assert_unasked_are_counted(&proxy, &origin);
}

/// Which statuses were seen.
fn statuses(seen: &Seen) -> Vec<u16> {
    let seen = seen.lock().unwrap();
    let mut statuses: Vec<u16> = seen.iter().map(|(_, status)| *status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

/// What went to the server unjudged is what the counter says, and what the log says.
fn assert_unasked_are_counted(proxy: &Proxy, origin: &Origin) {
    let requests = origin.requests();
    let unjudged = |path: &str| {
        let of_path = requests.iter().filter(|request| request.target() == path);
        of_path
            .filter(|request| request.header("x-judged").is_none())
            .count()
    };
    assert_eq!(unjudged("/closed"), 0);
    let open = unjudged("/open");
    assert!(open > 0);
    let applied = r#"portcullis_agent_failures_applied_total{agent="waf",policy="open"}"#;
    proxy.wait_metric(applied, open as f64);
    eprintln!("{open} requests went unasked, by the server and by the counter");
    eventually("the same number in the log", || {
        let lines = proxy.access_lines();
        let failed = lines
            .iter()
            .filter(|line| line["agents"][0]["failure_mode"] == "open");
        (failed.count() == open).then_some(())
    });
}

#[test]
fn d16_an_agent_that_hangs_is_found_by_pings_and_used_when_it_wakes() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let origin = Origin::start();
        let agent = judging("hung", dialect).start();
        let text = route("asked", r#"agent "hung""#, "") + FREE;
        let proxy = routes(&text, &origin)
            .agent_with(
                &agent,
                r#"timeout "200ms"; circuit-breaker failures=100000"#,
            )
            .start();
        proxy.wait_ready();
        assert_eq!(proxy.get("/asked").status, 200);
        agent.signal(Signal::STOP);
        // Nobody has asked anything when the pings find out.
        let found = Instant::now();
        let retires = "agent does not answer pings, its connection retires";
        proxy.log_line(|line| line["agent"] == "hung" && line["message"] == retires);
        println!("{dialect:?}: found after {:?}", found.elapsed());
        proxy.wait_metric(r#"portcullis_agent_up{agent="hung"}"#, 0.0);
        let reconnects = r#"portcullis_agent_reconnects_total{agent="hung"}"#;
        assert!(proxy.metric(reconnects) >= 1.0);
        let asked = Instant::now();
        assert_eq!(proxy.get("/asked").status, 503);
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(proxy.get("/free").status, 200);
        agent.signal(Signal::CONT);
        all_up(&proxy, &[&agent]);
        assert_eq!(proxy.get("/asked").status, 200);
        all_quiet(&proxy);
    }
}

#[test]
fn a_hung_agent_costs_its_timeout_and_nobody_else() {
    let origin = Origin::start();
    let agent = judging("hung", Dialect::Binary).start();
    let text = route("asked", r#"agent "hung""#, "") + FREE;
    let proxy = routes(&text, &origin)
        .agent_with(
            &agent,
            r#"timeout "300ms"; circuit-breaker failures=100000"#,
        )
        .start();
    proxy.wait_ready();
    agent.signal(Signal::STOP);
    let stop = AtomicBool::new(false);
    let seen = Seen::default();
    thread::scope(|scope| {
        scope.spawn(|| ask_on(&proxy, "/free", &stop, &seen));
        for _ in 0..3 {
            let started = Instant::now();
            assert_eq!(proxy.get("/asked").status, 504);
            let took = started.elapsed();
            assert!(took >= Duration::from_millis(290), "{took:?}");
            assert!(took < Duration::from_millis(1500), "{took:?}");
        }
        stop.store(true, SeqCst);
    });
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() > 50, "{}", seen.len());
    assert!(seen.iter().all(|(_, status)| *status == 200));
    agent.signal(Signal::CONT);
    eventually("verdicts", || {
        (proxy.get("/asked").status == 200).then_some(())
    });
    all_quiet(&proxy);
}

#[test]
fn d17_neither_start_nor_traffic_waits_for_a_hung_agent() {
    let origin = Origin::start();
    let agent = judging("hung", Dialect::Binary).start();
    agent.signal(Signal::STOP);
    let text = route("open", r#"agent "hung" failure-mode="open""#, "")
        + &route("asked", r#"agent "hung""#, "")
        + FREE;
    let started = Instant::now();
    let proxy = routes(&text, &origin)
        .agent_with(&agent, "timeout \"200ms\"")
        .start();
    assert_eq!(proxy.get("/free").status, 200);
    assert_eq!(proxy.get("/open").status, 200);
    assert_eq!(proxy.get("/asked").status, 503);
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    agent.signal(Signal::CONT);
    proxy.wait_ready();
    assert_eq!(proxy.get("/asked").status, 200);
}
