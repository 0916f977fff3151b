//! Agents that end, hang and come back, and many requests at once.

use super::{STREAMS, all_gone, through};
use crate::harness::{
    Answer, Origin, Proxy, eventually,
    ext_proc::{ExtProcAgent, Say, header, pass},
    http2,
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

const BOTH: &str = "inspect { request-headers; response-headers }";

#[test]
fn a_killed_agent_fails_what_it_was_asked_and_is_asked_again_when_it_is_back() {
    let mut agent = ExtProcAgent::start(|told| match header(told, ":path").as_deref() {
        Some("/closed/wait") => Say::Nothing,
        _ => pass(told).into(),
    });
    let origin = Origin::start();
    let proxy = through(&agent, BOTH, &origin);
    assert_eq!(proxy.get("/closed").status, 200);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| proxy.get("/closed/wait").status);
        eventually("the question", || {
            (agent
                .told()
                .iter()
                .any(|told| header(told, ":path").as_deref() == Some("/closed/wait")))
            .then_some(())
        });
        agent.kill();
        assert_eq!(waiting.join().unwrap(), 503);
    });
    assert_eq!(proxy.get("/closed").status, 503);
    assert_eq!(proxy.get("/open").status, 200);
    agent.begin();
    eventually("the agent is back", || {
        (proxy.get("/closed").status == 200).then_some(())
    });
    all_gone(&proxy, &agent);
}

#[test]
fn an_agent_that_ends_between_two_questions_is_unreachable_for_the_second() {
    let agent = Arc::new(std::sync::Mutex::new(ExtProcAgent::passing()));
    let victim = agent.clone();
    let origin = Origin::answering(move |request| {
        if request.target() == "/closed/kill" {
            victim.lock().unwrap().kill();
        }
        Answer::ok("")
    });
    let proxy = through(&agent.lock().unwrap(), BOTH, &origin);
    assert_eq!(proxy.get("/closed/kill").status, 503);
    proxy.wait_metric(STREAMS, 0.0);
}

#[test]
fn a_hundred_requests_at_once_have_a_hundred_streams_and_leave_nothing() {
    const MANY: usize = 100;
    let go = Arc::new(AtomicBool::new(false));
    let gate = go.clone();
    let agent = ExtProcAgent::passing();
    // All of them are there before the first goes on.
    let origin = Origin::answering(move |request| {
        eventually("all requests", || gate.load(SeqCst).then_some(()));
        let path = request.target();
        Answer::with(200, &[("x-path", &path)], path.as_bytes())
    });
    let proxy = through(
        &agent,
        r#"inspect { request-headers; response-headers; response-body "buffer" }"#,
        &origin,
    );
    thread::scope(|scope| {
        let proxy: &Proxy = &proxy;
        let requests: Vec<_> = (0..MANY)
            .map(|number| scope.spawn(move || proxy.get(&format!("/closed/{number}"))))
            .collect();
        proxy.wait_metric(STREAMS, MANY as f64);
        go.store(true, SeqCst);
        for (number, request) in requests.into_iter().enumerate() {
            let response = request.join().unwrap();
            assert_eq!(
                (response.status, response.text()),
                (200, format!("/closed/{number}"))
            );
        }
    });
    let streams = agent.streams();
    assert_eq!(streams.len(), MANY);
    let mut paths = BTreeSet::new();
    for stream in &streams {
        assert_eq!(stream.told.len(), 3);
        let path = header(&stream.told[0], ":path").unwrap();
        assert_eq!(
            header(&stream.told[1], "x-path").as_deref(),
            Some(path.as_str())
        );
        paths.insert(path);
    }
    assert_eq!(paths.len(), MANY);
    all_gone(&proxy, &agent);
}

#[test]
fn a_client_that_goes_away_ends_its_stream() {
    let agent = ExtProcAgent::start(|_| Say::Nothing);
    let origin = Origin::start();
    let proxy = through(&agent, "", &origin);
    let mut client = proxy.client();
    client.send("GET /closed HTTP/1.1\r\nhost: test\r\n\r\n");
    proxy.wait_metric(STREAMS, 1.0);
    eventually("the question", || (!agent.told().is_empty()).then_some(()));
    drop(client);
    all_gone(&proxy, &agent);
}

#[test]
fn requests_over_http2_have_streams_too() {
    let agent = ExtProcAgent::passing();
    let origin = Origin::start();
    let proxy = through(
        &agent,
        r#"inspect { request-headers; request-body "buffer"; response-headers }"#,
        &origin,
    );
    let requests = vec![http2::get("/closed")];
    let answers = http2::exchange(proxy.address_of("http"), requests);
    assert_eq!(answers[0].as_ref().unwrap().status(), 200);
    assert_eq!(agent.parts(), ["request_headers", "response_headers"]);
    let told = agent.told();
    assert_eq!(header(&told[0], ":authority").as_deref(), Some("test"));
    all_gone(&proxy, &agent);
}
