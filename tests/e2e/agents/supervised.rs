//! Agents that the proxy starts: what becomes of them when they end, do not start, or do not want to end.

use crate::harness::{Origin, Proxy, RawClient, eventually, proxy::processes};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// A route that needs this agent.
fn needing(origin: &Origin, agent: &str) -> Proxy {
    Proxy::builder(
        r#"
        admin { address "127.0.0.1:0" }
        routes { route "all" { filters { agent "own" }; upstream "origin" } }
        "#,
    )
    .origin(origin)
    .agent_block("own", agent)
    .start()
}

fn status(proxy: &Proxy) -> Value {
    let mut client = RawClient::connect(proxy.address_of("admin"));
    client.get("/status", &["host: localhost"]).json()
}

/// More in the longer runs: `AGENT_KILLS=20`.
fn kills() -> usize {
    let wanted = std::env::var("AGENT_KILLS").ok();
    wanted.map_or(3, |count| count.parse().unwrap())
}

#[test]
fn one_that_is_killed_under_load_refuses_until_it_is_back() {
    let origin = Origin::start();
    let proxy = needing(&origin, "builtin \"echo\"; timeout \"10s\"");
    proxy.wait_ready();
    let (done, allowed, refused) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    match proxy.get("/").status {
                        200 => allowed.fetch_add(1, Relaxed),
                        503 => refused.fetch_add(1, Relaxed),
                        other => panic!("status {other}"),
                    };
                }
            });
        }
        for number in 0..kills() {
            // An agent that ends again and again right after its start is left alone for longer each time.
            let since = Instant::now();
            let steady = |_: &usize| since.elapsed() > Duration::from_millis(2200);
            eventually("an agent that has run for a while", || {
                Some(number).filter(|number| *number < 3 || steady(number))
            });
            let before = proxy.children();
            let process = Pid::from_raw(before[0].try_into().unwrap()).unwrap();
            let seen = refused.load(Relaxed);
            rustix::process::kill_process(process, Signal::KILL).unwrap();
            eventually("refusals", || (refused.load(Relaxed) > seen).then_some(()));
            eventually("another process", || {
                let now = proxy.children();
                (now.len() == 1 && now != before).then_some(())
            });
            let seen = allowed.load(Relaxed);
            eventually("verdicts", || (allowed.load(Relaxed) > seen).then_some(()));
        }
        done.store(true, Relaxed);
    });
    // Whatever passed was judged.
    let requests = origin.requests();
    assert!(
        requests
            .iter()
            .all(|request| request.header("x-agent-echo").is_some())
    );
    let process = &status(&proxy)["agents"][0]["process"];
    assert_eq!(process["starts"], 1 + kills());
    assert_eq!(process["last_end"], "signal: 9 (SIGKILL)");
}

#[test]
fn one_that_ends_at_its_start_is_tried_again_and_why_is_said() {
    let origin = Origin::start();
    let proxy = needing(
        &origin,
        "command \"/bin/sh\" \"-c\" \"echo cannot read my rules >&2; exit 3\"",
    );
    eventually("several attempts", || {
        let process = status(&proxy)["agents"][0]["process"].clone();
        (process["starts"].as_u64()? >= 3).then_some(())
    });
    let agent = status(&proxy)["agents"][0].clone();
    assert_eq!(agent["state"], "starting");
    assert_eq!(agent["process"]["last_end"], "exit status: 3");
    let unready = proxy.probe("/readyz?verbose");
    assert_eq!(unready.status, 503);
    assert!(
        unready
            .text()
            .contains("agent own: its process ended: exit status: 3"),
        "{}",
        unready.text()
    );
    proxy.log_line(|line| line["agent"] == "own" && line["message"] == "cannot read my rules");
    proxy.log_line(|line| line["agent"] == "own" && line["ended"] == "exit status: 3");
    assert_eq!(proxy.get("/").status, 503);
}

#[test]
fn d30_one_that_cannot_make_its_socket_refuses_and_is_not_ready() {
    let origin = Origin::start();
    let program = env!("CARGO_BIN_EXE_portcullis");
    let agent = format!(
        "command \"{program}\" \"agent\" \"echo\" \"--socket\" \"/no/such/folder/echo.sock\""
    );
    let proxy = needing(&origin, &agent);
    proxy.log_line(|line| {
        let said = line["message"].as_str().unwrap_or_default();
        line["agent"] == "own" && said.contains("/no/such/folder/echo.sock")
    });
    assert_eq!(proxy.probe("/readyz").status, 503);
    assert_eq!(proxy.get("/").status, 503);
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn one_that_is_not_there_is_said() {
    let origin = Origin::start();
    let proxy = needing(&origin, "command \"/no/such/agent\"");
    let unready = eventually("the reason", || {
        let unready = proxy.probe("/readyz?verbose").text();
        unready.contains("its process ended").then_some(unready)
    });
    assert!(unready.contains("agent own"), "{unready}");
    proxy.log_line(|line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("/no/such/agent"))
    });
}

#[test]
fn one_that_does_not_want_to_end_is_killed() {
    let origin = Origin::start();
    // What it starts itself is of the same mind.
    let stubborn = "trap '' TERM; (while :; do sleep 0.1; done) & while :; do sleep 0.1; done";
    let agent = format!("command \"/bin/sh\" \"-c\" \"{stubborn}\"; failure-mode \"open\"");
    let mut proxy = needing(&origin, &agent);
    let shell = proxy.children()[0];
    let family = eventually("its own process", || {
        let own: Vec<u32> = processes()
            .into_iter()
            .filter(|(_, parent)| *parent == shell)
            .map(|(process, _)| process)
            .collect();
        let shell_of = |process: &u32| {
            std::fs::read_to_string(format!("/proc/{process}/cmdline"))
                .is_ok_and(|line| line.contains("trap"))
        };
        own.into_iter().find(shell_of)
    });
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_end().code(), Some(0));
    proxy.log_line(|line| line["message"] == "agent does not end when asked, killing it");
    eventually("the end of both", || {
        let left = processes();
        let ended = |process: u32| !left.iter().any(|(other, _)| *other == process);
        (ended(shell) && ended(family)).then_some(())
    });
}

#[test]
fn nobody_waits_for_one_that_does_not_want_to_end() {
    for signals in [&[Signal::INT][..], &[Signal::TERM, Signal::TERM]] {
        let origin = Origin::start();
        let stubborn = "trap '' TERM; while :; do sleep 0.1; done";
        let agent = format!("command \"/bin/sh\" \"-c\" \"{stubborn}\"; failure-mode \"open\"");
        let mut proxy = needing(&origin, &agent);
        let shell = proxy.children()[0];
        for (number, signal) in signals.iter().enumerate() {
            if number > 0 {
                proxy.log_line(|line| line["message"] == "ending: draining");
            }
            proxy.signal(*signal);
        }
        assert_eq!(proxy.wait_end().code(), Some(0));
        let left = processes();
        assert!(!left.iter().any(|(process, _)| *process == shell));
    }
}
