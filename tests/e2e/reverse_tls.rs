//! Agents that dial the proxy over TLS: by what they are known, and what becomes of certificates.

use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::{Phase, Reaction, When},
    agent_ways::{TlsClient, tls_file},
    eventually,
    proxy::Builder,
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use std::{
    fs,
    io::{ErrorKind, Read},
    net::TcpStream,
};

const TOKEN: &str = "a-token-that-is-long-enough";

fn agent(client: TlsClient) -> TestAgent {
    TestAgent::named("remote")
        .dialling_over_tls(TOKEN, client)
        .on("/block", Decision::block(451))
        .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
}

/// The files that the proxy has, under names of its own.
struct Files {
    shows: &'static str,
    ca: &'static str,
}

const FILES: Files = Files {
    shows: "proxy",
    ca: "ca.pem",
};

fn with_files(
    agent: &TestAgent,
    origin: &Origin,
    way: &str,
    settings: &str,
    files: &Files,
) -> Builder {
    let way = format!(
        "{} {way}; tls certificate=\"door.pem\" key=\"door.key\" ca=\"agents.pem\"; timeout \"10s\"; {settings}",
        agent.way()
    );
    let read = |name: &str| fs::read_to_string(tls_file(name)).unwrap();
    Proxy::builder(
        r#"system { worker-threads 2 }
        routes { route "all" { filters { agent "remote" }; upstream "origin" } }"#,
    )
    .origin(origin)
    .agent_block("remote", &way)
    .file("door.pem", &read(&format!("{}.pem", files.shows)))
    .file("door.key", &read(&format!("{}.key", files.shows)))
    .file("agents.pem", &read(files.ca))
}

fn asking(agent: &TestAgent, origin: &Origin, way: &str, settings: &str) -> Builder {
    with_files(agent, origin, way, settings, &FILES)
}

fn registrations(proxy: &Proxy) -> usize {
    let is_one = |line: &Value| line["message"] == "agent has registered";
    proxy.log_lines().iter().filter(|line| is_one(line)).count()
}

fn in_vain(proxy: &Proxy, wanted: &str) {
    proxy.log_line(|line| {
        let error = line["error"].as_str().unwrap_or_default();
        line["message"] == "a registration came to nothing" && error.contains(wanted)
    });
}

/// Both workers have to have heard of it.
fn wait_verdicts(proxy: &Proxy) {
    eventually("verdicts of both workers", || {
        let all = (0..10).all(|_| proxy.get("/block").status == 451);
        all.then_some(())
    });
}

fn wait_refusals(proxy: &Proxy) {
    eventually("refusals", || {
        let all = (0..10).all(|_| proxy.get("/block").status == 503);
        all.then_some(())
    });
}

#[test]
fn an_agent_shows_its_certificate_decides_and_comes_back() {
    // It dials before anybody listens.
    let mut agent = agent(TlsClient::right()).start();
    let origin = Origin::start();
    let way = format!("certificate-name=\"agent.test\" token=\"{TOKEN}\"");
    let proxy = asking(&agent, &origin, &way, "config { level 2 }").start();
    for times in 1..=2 {
        proxy.wait_ready();
        wait_verdicts(&proxy);
        assert_eq!(proxy.get("/").status, 200);
        assert!(origin.last().header("x-judged").is_some());
        assert_eq!(registrations(&proxy), times);
        agent.kill();
        wait_refusals(&proxy);
        assert_eq!(
            proxy.access_line(|line| line["status"] == 503)["reason"],
            "unreachable"
        );
        agent.start_again();
    }
    assert_eq!(agent.seen("configure")[0]["config"]["level"], 2);
    // It has announced every phase, and is asked about what is configured.
    let asked = |told: &Value| told["event"] == "configure" || told["event"] == "request_headers";
    assert!(agent.record().iter().all(asked));
}

#[test]
fn bodies_pass_in_both_directions() {
    let agent = TestAgent::named("remote")
        .dialling_over_tls(TOKEN, TlsClient::right())
        .then(
            Phase::RequestBody,
            When::Last,
            Reaction::Replace("[$DATA]".into()),
        )
        .start();
    let origin = Origin::start();
    let inspect = r#"inspect { request-body "buffer" limit="2MiB" }"#;
    let way = r#"certificate-name="agent.test""#;
    let proxy = asking(&agent, &origin, way, inspect).start();
    proxy.wait_ready();
    // Much more than TLS and the system take at once.
    let body = vec![b'x'; 1 << 20];
    let mut request = format!(
        "POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(&body);
    let response = proxy.client().send(&request).response();
    assert_eq!(response.status, 200);
    let got = origin.last().body;
    // It is shown in pieces, of which the last was replaced.
    assert_eq!(got.len(), body.len() + 2);
    let (rest, last) = got.split_at(got.iter().position(|byte| *byte == b'[').unwrap());
    assert!(rest.iter().all(|byte| *byte == b'x'));
    assert!(last.ends_with(b"x]"));
}

#[test]
fn d18_who_may_not_register_over_the_network_is_refused() {
    let origin = Origin::start();
    let named = "certificate-name=\"agent.test\"";
    let (right, with_token) = (TlsClient::right, format!("token=\"{TOKEN}\""));
    let other_token = "token=\"another-token-as-long\"";
    for (client, way, ca, reason) in [
        (
            TlsClient::showing(Some("proxy")),
            named,
            "ca.pem",
            "for another name",
        ),
        (TlsClient::showing(None), &with_token, "ca.pem", "TLS"),
        (right(), named, "other-ca.pem", "TLS"),
        (right(), &with_token, "other-ca.pem", "TLS"),
        (right(), other_token, "ca.pem", "has not shown the token"),
        (
            right(),
            &format!("{named} {other_token}"),
            "ca.pem",
            "has not shown the token",
        ),
        // It does not take this for its proxy.
        (TlsClient::expecting("another.test"), named, "ca.pem", "TLS"),
    ] {
        let agent = agent(client).start();
        let files = Files { ca, ..FILES };
        let proxy = with_files(&agent, &origin, way, "", &files).start();
        in_vain(&proxy, reason);
        assert_eq!(proxy.get("/").status, 503, "{reason}");
        assert_eq!(proxy.access_line_of("/")["reason"], "unreachable");
        assert_eq!(registrations(&proxy), 0);
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn new_certificates_are_taken_up_by_a_reload() {
    let way = "certificate-name=\"agent.test\" replicas=2";
    let first = agent(TlsClient::right()).start();
    let origin = Origin::start();
    let with = |files: &Files| with_files(&first, &origin, way, "", files);
    let proxy = with(&FILES).start();
    proxy.wait_ready();
    wait_verdicts(&proxy);
    // The proxy shows another certificate; who has registered notices nothing of it.
    let renamed = Files {
        shows: "agent",
        ..FILES
    };
    proxy.reload(&with(&renamed));
    let mut second = first
        .twin()
        .being(TlsClient::expecting("agent.test"))
        .start();
    eventually("both", || (registrations(&proxy) == 2).then_some(()));
    wait_verdicts(&proxy);
    second.kill();
    // A file that cannot be used changes nothing.
    proxy.reload_in_vain(&with(&renamed).file("agents.pem", "no certificate\n"));
    assert_eq!(proxy.get("/block").status, 451);
    // Who has signed the certificate of the agent is trusted no longer.
    let distrusting = Files {
        ca: "other-ca.pem",
        ..FILES
    };
    proxy.reload(&with(&distrusting));
    wait_refusals(&proxy);
    in_vain(&proxy, "TLS");
    proxy.reload(&with(&FILES));
    wait_verdicts(&proxy);
    assert_eq!(registrations(&proxy), 3);
}

#[test]
fn those_who_come_and_say_nothing_have_a_limit() {
    let agent = agent(TlsClient::right());
    let origin = Origin::start();
    let proxy = asking(&agent, &origin, "certificate-name=\"agent.test\"", "").start();
    let line = proxy.log_line(|line| line["message"] == "agents may dial");
    let address = line["address"].as_str().unwrap();
    let dial = || TcpStream::connect(address).unwrap();
    let mut silent: Vec<_> = (0..17).map(|_| dial()).collect();
    // The oldest gives way to one more of the same client, and not at its deadline.
    assert_eq!(silent[0].read(&mut [0]).unwrap_or(0), 0);
    silent[16].set_nonblocking(true).unwrap();
    let newest = silent[16].read(&mut [0]);
    assert_eq!(
        newest.map_err(|error| error.kind()),
        Err(ErrorKind::WouldBlock)
    );
    proxy.log_line(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("too many are about to register")
    });
    // And so do others to an agent.
    let agent = agent.start();
    proxy.wait_ready();
    wait_verdicts(&proxy);
    assert!(!agent.requests().is_empty());
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_starts() {
    let agent = agent(TlsClient::right());
    let origin = Origin::start();
    let with = || {
        let way = "certificate-name=\"agent.test\"";
        asking(&agent, &origin, way, "").file("agents.pem", "no certificate\n")
    };
    for (code, _, errors) in [with().check(), with().run_to_end()] {
        assert_ne!(code, Some(0));
        for named in ["remote", "agents.pem", "has no certificate in PEM"] {
            assert!(errors.contains(named), "{named}: {errors}");
        }
    }
}
