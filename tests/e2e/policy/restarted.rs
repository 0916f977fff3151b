//! An agent that is killed and started again under load, many times.

use super::all_quiet;
use crate::harness::{Proxy, TestAgent, agent::Dialect, eventually};
use portcullis_agent_protocol::Decision;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// How often the agent is killed; in the variable another number.
const RESTARTS: usize = 4;
const RESTARTS_VARIABLE: &str = "AGENT_RESTARTS";
const CLIENTS: usize = 6;

/// What was asked, and what came.
type Seen = Mutex<BTreeMap<(&'static str, u16, bool), usize>>;

/// Asks for both paths in turn until it is told to stop. The paths have other verdicts.
fn ask_on(proxy: &Proxy, stop: &AtomicBool, answers: &AtomicUsize, seen: &Seen) {
    let mut client = proxy.client();
    for path in ["/good", "/bad"].into_iter().cycle() {
        if stop.load(SeqCst) {
            return;
        }
        let response = client.get(path, &[]);
        let judged = response.header("x-judged") == Some(path);
        let mut seen = seen.lock().unwrap();
        *seen.entry((path, response.status, judged)).or_default() += 1;
        answers.fetch_add(1, SeqCst);
    }
}

/// Has clients ask while something is done, and says what they got.
fn under_load(
    proxy: &Proxy,
    during: impl FnOnce(&AtomicUsize),
) -> BTreeMap<(&'static str, u16, bool), usize> {
    let (stop, answers, seen) = (AtomicBool::new(false), AtomicUsize::new(0), Seen::default());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| ask_on(proxy, &stop, &answers, &seen));
        }
        during(&answers);
        stop.store(true, SeqCst);
    });
    seen.into_inner().unwrap()
}

fn goes_on(answers: &AtomicUsize, more: usize) {
    let before = answers.load(SeqCst);
    eventually("answers", || {
        (answers.load(SeqCst) >= before + more).then_some(())
    });
}

#[test]
fn restarts_under_load_give_no_wrong_verdict_and_leave_nothing_behind() {
    let number = std::env::var(RESTARTS_VARIABLE);
    let restarts = number.map_or(RESTARTS, |number| number.parse().unwrap());
    for dialect in [Dialect::Binary, Dialect::Json] {
        let says = |decision: Decision, path: &str| decision.set_response_header("x-judged", path);
        let mut agent = TestAgent::named("waf")
            .speaking(dialect)
            .on("/good", says(Decision::allow(), "/good"))
            .on("/bad", says(Decision::block(418), "/bad"))
            .quiet()
            .start();
        let route = r#"route "all" { filters { agent "waf" }; respond 200 "pong" }"#;
        let proxy = Proxy::builder(format!(
            "system {{ worker-threads 2 }}\nroutes {{ {route} }}"
        ))
        .listener("limits { requests-per-connection 100000000 }")
        .agent_with(&agent, "timeout \"5s\"; pool min=1 max=3")
        .start();
        proxy.wait_ready();
        under_load(&proxy, |answers| goes_on(answers, 100));
        proxy.wait_metric("portcullis_connections_open", 0.0);
        let before = proxy.descriptors();
        let seen = under_load(&proxy, |answers| {
            for _ in 0..restarts {
                goes_on(answers, 20);
                agent.kill();
                goes_on(answers, 20);
                agent.start_again();
                proxy.wait_metric(r#"portcullis_agent_up{agent="waf"}"#, 1.0);
            }
            goes_on(answers, 20);
        });
        let right = [("/good", 200, true), ("/bad", 418, true)];
        let refused = [("/good", 503, false), ("/bad", 503, false)];
        let wrong: Vec<_> = seen
            .keys()
            .filter(|key| !right.contains(key) && !refused.contains(key))
            .collect();
        assert!(wrong.is_empty(), "{dialect:?}: {seen:?}");
        assert!(right.iter().all(|key| seen.contains_key(key)), "{seen:?}");
        eprintln!("{dialect:?}, {restarts} restarts: {seen:?}");
        all_quiet(&proxy);
        proxy.wait_metric("portcullis_connections_open", 0.0);
        proxy.wait_metric(
            r#"portcullis_agent_pool_connections{agent="waf",state="busy"}"#,
            0.0,
        );
        eventually("as few descriptors as before", || {
            // Connections beyond the minimum may be there now that were not, or the other way round.
            let more = proxy.metric(r#"portcullis_agent_connections{agent="waf"}"#) as usize;
            (proxy.descriptors() <= before + more.saturating_sub(2)).then_some(())
        });
        let open = r#"portcullis_agent_circuit_state{agent="waf",state="open"}"#;
        assert_eq!(proxy.metric(open), 0.0);
    }
}
