//! `override_message_timeout`: an agent that asks for more time.

use super::{all_gone, routes};
use crate::harness::{
    Origin,
    ext_proc::{ExtProcAgent, Say, pass},
};
use portcullis_agent_protocol::ext_proc::messages::{Duration as Span, ProcessingResponse};
use std::time::{Duration, Instant};

/// Asks for this much time before each of so many pauses, and then lets pass.
fn asking(milliseconds: i64, times: usize, pause: Duration) -> ExtProcAgent {
    ExtProcAgent::start(move |told| {
        let wants = ProcessingResponse {
            override_message_timeout: Some(Span {
                seconds: milliseconds / 1000,
                nanos: (milliseconds % 1000) as i32 * 1_000_000,
            }),
            ..ProcessingResponse::default()
        };
        let mut answers = vec![(Duration::ZERO, wants.clone())];
        answers.extend((1..times).map(|_| (pause, wants.clone())));
        answers.push((pause, pass(told)));
        Say::After(answers)
    })
}

fn status(agent: &ExtProcAgent, settings: &str) -> u16 {
    let origin = Origin::start();
    let proxy = routes(agent, &format!("timeout \"300ms\"; {settings}"), &origin).start();
    proxy.wait_ready();
    let status = proxy.get("/closed").status;
    all_gone(&proxy, agent);
    status
}

const SECONDS: &str = r#"ext-proc { max-message-timeout "5s" }"#;

#[test]
fn an_agent_that_asks_for_time_is_waited_for() {
    let agent = asking(3000, 1, Duration::from_millis(700));
    assert_eq!(status(&agent, SECONDS), 200);
}

#[test]
fn without_a_maximum_nobody_gets_more_time() {
    let agent = asking(3000, 1, Duration::from_millis(700));
    assert_eq!(status(&agent, ""), 504);
}

#[test]
fn more_than_the_maximum_is_not_granted() {
    let agent = asking(5001, 1, Duration::from_millis(700));
    assert_eq!(status(&agent, SECONDS), 504);
}

#[test]
fn what_was_granted_is_not_exceeded() {
    let agent = asking(600, 1, Duration::from_secs(4));
    let before = Instant::now();
    assert_eq!(status(&agent, SECONDS), 504);
    assert!(before.elapsed() < Duration::from_secs(3));
}

#[test]
fn time_is_granted_once_for_a_message() {
    // Without the second grant the answer comes too late.
    let agent = asking(600, 3, Duration::from_millis(500));
    assert_eq!(status(&agent, SECONDS), 504);
}

#[test]
fn the_budget_of_the_request_bounds_what_is_granted() {
    let agent = asking(3000, 1, Duration::from_millis(2500));
    let origin = Origin::start();
    let kdl = r#"routes { route "all" { filters { agent "p" }; agent-budget "600ms"; upstream "origin" } }"#;
    let proxy = crate::harness::Proxy::builder(kdl)
        .origin(&origin)
        .agent_block("p", &agent.block(&format!("timeout \"300ms\"; {SECONDS}")))
        .start();
    proxy.wait_ready();
    let before = Instant::now();
    assert_eq!(proxy.get("/b").status, 504);
    assert!(before.elapsed() < Duration::from_secs(2));
    let line = proxy.access_line_of("/b");
    assert_eq!(line["agents"][0]["failure"], "budget", "{line}");
    all_gone(&proxy, &agent);
}
