//! Targets that are named: resolved without anybody waiting, and again, and never forgotten because of a server that fails.

use crate::harness::{
    Answer, Origin, Proxy,
    dns::{Dns, Mood},
    eventually,
    proxy::Builder,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

const NAME: &str = "backend.test";

/// Two origins at one port of two addresses, which say which one they are.
fn origins() -> (Origin, Origin, u16) {
    eventually("a port that is free at both addresses", || {
        let one = Origin::answering(|_| Answer::ok("one"));
        let port = one.address().port();
        let second = SocketAddr::new(IpAddr::from([127, 0, 0, 2]), port);
        std::net::TcpListener::bind(second).ok()?;
        let two = Origin::at(second, |_| Answer::ok("two"));
        Some((one, two, port))
    })
}

fn named(dns: &Dns, target: &str, word: &str) -> Builder {
    Proxy::builder(format!(
        r#"
{}
routes {{
    route "own" {{ match {{ path "/own" }}; respond 200 "{word}" }}
    route "all" {{ upstream "pool" }}
}}
"#,
        dns.system()
    ))
    .upstream("pool", target)
}

fn wait_for(proxy: &Proxy, path: &str, text: &str) {
    eventually(text, || (proxy.get(path).text() == text).then_some(()));
}

#[test]
fn d25_a_name_that_nobody_resolves_holds_up_nothing_and_nobody() {
    let (_one, _two, port) = origins();
    let dns = Dns::start();
    dns.name(NAME, &["127.0.0.1"]).mood(Mood::Silent);
    let proxy = named(&dns, &format!("target \"{NAME}:{port}\""), "own").start();
    proxy.wait_ready();
    let began = Instant::now();
    assert_eq!(proxy.get("/own").text(), "own");
    let response = proxy.get("/early");
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    // Neither waited for the answer that does not come.
    assert!(began.elapsed() < crate::harness::DEADLINE / 5);
    assert_eq!(
        proxy.access_line_of("/early")["reason"],
        "upstream_no_targets"
    );
    proxy.log_line(|line| line["message"] == "targets are not found");
    dns.mood(Mood::Answers);
    wait_for(&proxy, "/late", "one");
    proxy.log_line(|line| line["message"] == "targets are found again");
}

#[test]
fn every_address_of_a_name_is_a_target() {
    let (one, two, port) = origins();
    let dns = Dns::start();
    dns.name(NAME, &["127.0.0.1", "127.0.0.2"]);
    let proxy = named(&dns, &format!("target \"{NAME}:{port}\""), "own").start();
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (5, 5));
}

#[test]
fn a_name_is_resolved_again_and_the_last_good_answer_is_kept() {
    let (_one, _two, port) = origins();
    let dns = Dns::start();
    dns.name(NAME, &["127.0.0.1"]);
    let target = format!("target \"{NAME}:{port}\" resolve=\"1s\"");
    let proxy = named(&dns, &target, "own").start();
    assert_eq!(proxy.get("/").text(), "one");
    dns.name(NAME, &["127.0.0.2"]);
    wait_for(&proxy, "/", "two");
    dns.mood(Mood::Fails);
    let failed = "portcullis_upstream_discoveries_total{upstream=\"pool\",result=\"failed\"}";
    eventually("failures", || (proxy.metric(failed) >= 2.0).then_some(()));
    assert_eq!(proxy.get("/").text(), "two");
    let lines = proxy.log_lines();
    let said = lines.iter();
    let said = said.filter(|line| line["message"] == "targets are not found");
    assert_eq!(said.count(), 1);
}

#[test]
fn a_reload_keeps_what_was_resolved() {
    let (_one, _two, port) = origins();
    let dns = Dns::start();
    dns.name(NAME, &["127.0.0.1"]);
    let target = format!("target \"{NAME}:{port}\" resolve=\"1h\"");
    let proxy = named(&dns, &target, "before").start();
    assert_eq!(proxy.get("/").text(), "one");
    dns.mood(Mood::Silent);
    let asked = dns.asked();
    proxy.reload(&named(&dns, &target, "after"));
    assert_eq!(proxy.get("/own").text(), "after");
    assert_eq!(proxy.get("/").text(), "one");
    // The upstream is another, and its name is not.
    let changed = format!("{target}; timeouts {{ connect \"1s\" }}");
    proxy.reload(&named(&dns, &changed, "after"));
    assert_eq!(proxy.get("/").text(), "one");
    assert_eq!(dns.asked(), asked);
    // Another server is asked, and does not answer; what the first said is used until it does.
    let other = Dns::start();
    other.name(NAME, &["127.0.0.2"]).mood(Mood::Silent);
    proxy.reload(&named(&other, &target, "after"));
    assert_eq!(proxy.get("/").text(), "one");
    other.mood(Mood::Answers);
    wait_for(&proxy, "/", "two");
}

#[test]
fn records_of_a_service_say_where_it_is() {
    let (one, two, port) = origins();
    let dns = Dns::start();
    dns.name("a.test", &["127.0.0.1"])
        .name("b.test", &["127.0.0.2"])
        .service(
            "_http._tcp.pool.test",
            &[
                (1, 3, port, "a.test"),
                (1, 1, port, "b.test"),
                // Nobody is there.
                (2, 9, 1, "b.test"),
            ],
        );
    let target = "target srv=\"_http._tcp.pool.test\" resolve=\"1s\"";
    let proxy = named(&dns, target, "own").start();
    let mut client = proxy.client();
    for _ in 0..8 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (6, 2));
    dns.service("_http._tcp.pool.test", &[(1, 1, port, "b.test")]);
    eventually("the other one alone", || {
        one.take();
        let texts: Vec<_> = (0..4).map(|_| client.get("/", &[]).text()).collect();
        texts.iter().all(|text| text == "two").then_some(())
    });
}

#[test]
fn d25_an_agent_with_a_name_that_nobody_resolves_holds_up_nobody_else() {
    let proxy = Proxy::builder(
        r#"
routes {
    route "own" { match { path "/own" }; respond 200 "own" }
    route "closed" { match { path "/closed" }; filters { agent "remote" }; respond 200 "judged" }
}
"#,
    )
    .agent_block(
        "remote",
        "http \"http://nobody.invalid:8000/\"; dialect \"forward-auth\"; timeout \"200ms\"",
    )
    .start();
    assert_eq!(proxy.get("/own").text(), "own");
    let status = proxy.get("/closed").status;
    assert!(matches!(status, 503 | 504), "{status}");
    assert_eq!(proxy.get("/own").text(), "own");
}
