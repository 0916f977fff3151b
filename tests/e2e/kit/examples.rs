//! `portcullis agent check` of the examples of both libraries: they keep to the protocol.

use super::{Running, check::passes, config};
use crate::sdk_python::{SDK, python, python_with, sources};
use portcullis_agent_protocol::server::{self, Agent, ServeOptions};
use std::{path::Path, process::Command, sync::Arc, thread};
use tokio::sync::oneshot;

#[path = "../../../crates/agent-protocol/examples/body_redaction.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod body_redaction;
#[path = "../../../crates/agent-protocol/examples/denylist.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod denylist;
#[path = "../../../crates/agent-protocol/examples/header_stamp.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod header_stamp;

const BODIES: [&str; 5] = [
    "request-body",
    "request-body-pieces",
    "response-body",
    "response-body-pieces",
    "large-body",
];
const OF_HEADS: [&str; 9] = [
    "request-body",
    "request-body-pieces",
    "response-headers",
    "response-body",
    "response-body-pieces",
    "websocket-frames",
    "request-complete",
    "large-body",
    "provisional",
];
const OF_BODIES: [&str; 4] = [
    "request-headers",
    "response-headers",
    "websocket-frames",
    "request-complete",
];

/// Checks an example in Python with this configuration; nothing is skipped but these.
fn checked(example: &str, text: &str, arguments: &[&str], skipped: &[&str]) {
    checked_by(&python(), example, text, arguments, skipped);
}

fn checked_by(python: &str, example: &str, text: &str, arguments: &[&str], skipped: &[&str]) {
    let mut command = Command::new(python);
    command
        .arg(Path::new(SDK).join("examples").join(example))
        .env_clear()
        .env("PYTHONPATH", sources())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let agent = Running::program(command);
    checked_at(&agent.target(), text, arguments, skipped);
}

/// The same of one in Rust, which is served by a thread of this process.
fn served(agent: impl Agent + 'static, text: &str, arguments: &[&str], skipped: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let target = socket.display().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let (listens, listening) = oneshot::channel::<()>();
    let serving = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = server::bind_socket(&socket).unwrap();
            listens.send(()).unwrap();
            let stop = async {
                // An error is the end of the test, as good as being told.
                let _ = stopped.await;
            };
            let options = ServeOptions::default();
            server::serve(Arc::new(agent), listener, options, stop).await
        })
    });
    listening.blocking_recv().unwrap();
    checked_at(&target, text, arguments, skipped);
    stop.send(()).unwrap();
    serving.join().unwrap().unwrap();
}

fn checked_at(target: &str, text: &str, arguments: &[&str], skipped: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), text);
    let arguments = [&["--config", &config], arguments].concat();
    let report = passes(target, &arguments, skipped);
    let checks = report["checks"].as_array().unwrap();
    let is_ok = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.is_some_and(|check| check["result"] == "ok")
    };
    // What it is for, and what it may not be asked.
    assert_eq!(BODIES.iter().all(|name| is_ok(name)), skipped == OF_BODIES);
    for name in [
        "slow-reader",
        "disconnected",
        "garbage-frame",
        "broken-json",
    ] {
        assert!(is_ok(name), "{name}: {report:#}");
    }
}

#[test]
fn the_denylist_in_python_passes() {
    let config = r#"{"paths": ["/admin"], "user-agents": ["sqlmap"]}"#;
    checked("denylist.py", config, &["--also", "/admin"], &OF_HEADS);
}

#[test]
fn the_header_stamp_in_python_passes() {
    let config = r#"{"request": {"x-edge": "eu-1"}, "remove-from-response": ["server"]}"#;
    checked("header_stamp.py", config, &[], &OF_HEADS);
}

#[test]
fn the_body_redaction_in_python_passes() {
    let config = r#"{"pattern": "fox|q[a-z]+k", "replacement": "cat"}"#;
    checked("body_redaction.py", config, &[], &OF_BODIES);
}

#[test]
fn the_jwt_check_in_python_passes() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let config = serde_json::json!({"secret-file": secret}).to_string();
    // It refuses what has no token, which is an answer like any other.
    checked_by(&python_with("jwt"), "jwt_check.py", &config, &[], &OF_HEADS);
}

#[test]
fn the_denylist_in_rust_passes() {
    let config = r#"{"paths": "/admin", "user-agents": ["sqlmap"]}"#;
    let agent = denylist::Denylist::default();
    served(agent, config, &["--also", "/admin"], &OF_HEADS);
}

#[test]
fn the_header_stamp_in_rust_passes() {
    let config = r#"{"request": {"x-edge": "eu-1"}, "remove": ["server"]}"#;
    served(header_stamp::HeaderStamp::default(), config, &[], &OF_HEADS);
}

#[test]
fn the_body_redaction_in_rust_passes() {
    let config = r#"{"pattern": "fox|q[a-z]+k", "replacement": "cat"}"#;
    served(
        body_redaction::BodyRedaction::new(),
        config,
        &[],
        &OF_BODIES,
    );
}
