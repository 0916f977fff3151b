//! Agents that dial the proxy: who may register, what becomes of what is registered.

use crate::harness::{Origin, Proxy, TestAgent, eventually, proxy::Builder};
use portcullis_agent_protocol::{
    Decision,
    codec::frame::{self, MessageType},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

const TOKEN: &str = "a-token-that-is-long-enough";

fn agent() -> TestAgent {
    TestAgent::named("inside")
        .dialling(TOKEN)
        .on("/block", Decision::block(451))
        .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
}

fn asking(agent: &TestAgent, origin: &Origin, way: &str, settings: &str) -> Builder {
    let way = format!("{} token=\"{TOKEN}\" {way}; {settings}", agent.way());
    Proxy::builder(
        r#"system { worker-threads 2 }
        routes { route "all" { filters { agent "inside" }; upstream "origin" } }"#,
    )
    .origin(origin)
    .agent_block("inside", &way)
}

fn registrations(proxy: &Proxy) -> usize {
    let is_one = |line: &Value| line["message"] == "agent has registered";
    proxy.log_lines().iter().filter(|line| is_one(line)).count()
}

#[test]
fn an_agent_registers_decides_and_comes_back() {
    // It dials before anybody listens.
    let mut agent = agent().start();
    let origin = Origin::start();
    let proxy = asking(&agent, &origin, "", "timeout \"10s\"; config { level 2 }").start();
    proxy.wait_ready();
    let mode = fs::metadata(agent.door()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(agent.seen("configure")[0]["config"]["level"], 2);
    for _ in 0..2 {
        // Both workers ask over the same connection.
        for _ in 0..10 {
            assert_eq!(proxy.get("/").status, 200);
            assert_eq!(proxy.get("/block").status, 451);
        }
        assert!(
            origin
                .requests()
                .iter()
                .all(|it| it.header("x-judged").is_some())
        );
        agent.kill();
        eventually("refusals", || (proxy.get("/").status == 503).then_some(()));
        assert_eq!(
            proxy.access_line(|line| line["status"] == 503)["reason"],
            "unreachable"
        );
        agent.start_again();
        proxy.wait_ready();
        eventually("verdicts", || (proxy.get("/").status == 200).then_some(()));
        proxy.wait_metric(r#"portcullis_agent_up{agent="inside"}"#, 1.0);
        eventually("verdicts of both workers", || {
            let all = (0..10).all(|_| proxy.get("/").status == 200);
            all.then_some(())
        });
    }
    assert_eq!(registrations(&proxy), 3);
    // It has announced every phase, and is asked about what is configured.
    let asked = |told: &Value| told["event"] == "configure" || told["event"] == "request_headers";
    assert!(agent.record().iter().all(asked));
}

#[test]
fn d18_who_may_not_register_is_refused() {
    let origin = Origin::start();
    for (shows, way, reason) in [
        ("another-token-as-long", "", "has not shown the token"),
        (TOKEN, "uid=123456", "no agent of the user"),
    ] {
        let agent = TestAgent::named("inside").dialling(shows).start();
        let proxy = asking(&agent, &origin, way, "").start();
        let line = proxy.log_line(|line| line["message"] == "a registration came to nothing");
        // Who is of no user that may has not been asked.
        let agent = if way.is_empty() { "inside" } else { "" };
        assert_eq!(line["agent"], agent);
        assert!(line["error"].as_str().unwrap().contains(reason), "{line}");
        assert_eq!(proxy.get("/").status, 503);
        assert_eq!(proxy.access_line_of("/")["reason"], "unreachable");
        assert_eq!(registrations(&proxy), 0);
    }
    assert_eq!(origin.connections(), 0);
}

/// Connects and says nothing.
fn silent(agent: &TestAgent) -> UnixStream {
    UnixStream::connect(agent.door()).unwrap()
}

fn was_closed(mut connection: &UnixStream) -> bool {
    matches!(connection.read(&mut [0]), Ok(0))
}

fn is_open(mut connection: &UnixStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    let read = connection.read(&mut [0]);
    matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn register(agent: &TestAgent, id: &str) -> UnixStream {
    let registration = json!({"protocol_version": 2, "agent_id": id, "auth_token": TOKEN});
    let mut bytes = Vec::new();
    frame::append(
        &mut bytes,
        MessageType::HandshakeRequest,
        64 << 10,
        |out: &mut Vec<u8>| out.extend(registration.to_string().as_bytes()),
    )
    .unwrap();
    let mut connection = silent(agent);
    connection.write_all(&bytes).unwrap();
    connection
}

#[test]
fn those_who_come_and_say_nothing_keep_nobody_waiting() {
    let agent = agent();
    let origin = Origin::start();
    let with = |way: &str| asking(&agent, &origin, way, "");
    let proxy = with("").start();
    // More than there are places. All are of one user, which gives way to itself.
    let before: Vec<_> = (0..70).map(|_| silent(&agent)).collect();
    let _registered = register(&agent, "inside");
    eventually("it has registered", || {
        (registrations(&proxy) == 1).then_some(())
    });
    let (gone, still) = before.split_at(before.len() - 10);
    assert!(still.iter().all(is_open), "it has waited for them");
    assert!(gone[..gone.len() - 6].iter().all(was_closed));
    proxy.log_line(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("too many are about to register")
    });
    // These are settings, and hold for whoever comes next.
    for (settings, most) in [
        ("registering=4 registering-per-client=2", 2),
        ("registering=1", 1),
    ] {
        proxy.reload(&with(settings));
        let come: Vec<_> = (0..4).map(|_| silent(&agent)).collect();
        let (gone, still) = come.split_at(4 - most);
        assert!(gone.iter().all(was_closed), "{settings}");
        assert!(still.iter().all(is_open), "{settings}");
    }
    assert_eq!(registrations(&proxy), 1);
}

#[test]
fn little_of_what_strangers_call_themselves_is_in_the_log() {
    let agent = agent();
    let origin = Origin::start();
    let proxy = asking(&agent, &origin, "", "").start();
    let _connection = register(&agent, &"x".repeat(60_000));
    let line = proxy.log_line(|line| line["message"] == "a registration came to nothing");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("no such agent registers here"), "{line}");
    assert!(line["agent"].as_str().unwrap().starts_with("xxx"), "{line}");
    assert!(line.to_string().len() < 1000, "{line}");
}

#[test]
fn a_second_registration_joins_and_takes_over() {
    let mut first = agent().start();
    let origin = Origin::start();
    let proxy = asking(&first, &origin, "replicas=2", "timeout \"10s\"").start();
    proxy.wait_ready();
    let second = first.twin().start();
    eventually("both", || (registrations(&proxy) == 2).then_some(()));
    let mut third = first.twin().start();
    let refused = proxy.log_line(|line| line["message"] == "a registration came to nothing");
    let error = refused["error"].as_str().unwrap();
    assert!(
        error.contains("as many are registered as may be"),
        "{error}"
    );
    third.kill();
    assert_eq!(proxy.get("/").status, 200);
    first.kill();
    eventually("verdicts of the other", || {
        let all = (0..10).all(|_| proxy.get("/block").status == 451);
        all.then_some(())
    });
    assert!(!second.requests().is_empty());
}

#[test]
fn a_reload_keeps_what_is_registered() {
    let agent = agent().start();
    let origin = Origin::start();
    let with = |settings: &str| asking(&agent, &origin, "", settings);
    let proxy = with("timeout \"10s\"").start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/block").status, 451);
    // With the same settings, and with others that are not about who may register.
    for settings in ["timeout \"10s\"", "timeout \"5s\"", "timeout \"4s\""] {
        proxy.reload(&with(settings));
        for _ in 0..10 {
            assert_eq!(proxy.get("/block").status, 451);
        }
    }
    proxy.reload(&asking(&agent, &origin, "mode=\"0660\"", "timeout \"4s\""));
    let mode = fs::metadata(agent.door()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(proxy.get("/block").status, 451);
    assert_eq!(registrations(&proxy), 1);
    // What is no longer configured is gone.
    let without = Proxy::builder(r#"routes { route "all" { upstream "origin" } }"#).origin(&origin);
    proxy.reload(&without);
    eventually("the socket is gone", || {
        (!agent.door().exists()).then_some(())
    });
    assert_eq!(proxy.get("/block").status, 200);
}
