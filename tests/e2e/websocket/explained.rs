//! What `portcullis why` says of sockets.

use super::{
    inspected_with,
    peers::{Server, Step, by_hand, close_data, frame, upgraded},
};
use crate::harness::{Proxy, RawClient, TestAgent};
use serde_json::Value;
use std::process::Command;

const ADMIN: &str = "admin { address \"127.0.0.1:0\" }";

/// Waits until the socket of this path is over. What is said of it, as JSON and in words; `None` when nothing is kept.
fn explained(proxy: &Proxy, path: &str) -> Option<(Value, String)> {
    let line = proxy.access_line_of(path);
    let id = line["request_id"].as_str().unwrap();
    let admin = proxy.address_of("admin");
    let answer = RawClient::connect(admin).get(&format!("/requests/{id}"), &["host: localhost"]);
    if answer.status != 200 {
        return None;
    }
    let told = answer.json()["requests"][0].clone();
    assert_eq!(told["websocket"], line["websocket"], "{told}");
    assert_eq!(told["answer"]["reason"], line["reason"], "{told}");
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["why", id, "--admin", &admin.to_string()])
        .output()
        .unwrap();
    Some((told, String::from_utf8(output.stdout).unwrap()))
}

#[test]
fn sockets_that_the_proxy_ended_are_explained() {
    let server = Server::echoing();
    let agent = TestAgent::named("frames").start();
    let settings = "websocket { frame-bytes \"1KiB\"; message-bytes \"1KiB\"; idle \"500ms\" }";
    let proxy = inspected_with(&agent, &server, settings, ADMIN).start();
    proxy.wait_ready();
    for (path, sent, ended) in [
        (
            "/ws/reserved",
            frame(0x83, b"", true),
            Some(("websocket_protocol_error", 1002)),
        ),
        (
            "/ws/large",
            frame(0x82, &[0; 2000], true),
            Some(("websocket_too_big", 1009)),
        ),
        ("/ws/silent", Vec::new(), Some(("websocket_idle", 1001))),
        (
            "/ws/closed",
            frame(0x88, &close_data(1000, b""), true),
            None,
        ),
    ] {
        let (stream, _) = upgraded(proxy.address_of("http"), path, "");
        by_hand(stream, &[Step::Send(sent)]);
        let told = explained(&proxy, path);
        assert_eq!(told.is_some(), ended.is_some(), "{path}: {told:?}");
        let (Some((told, text)), Some((reason, code))) = (told, ended) else {
            continue;
        };
        assert_eq!(told["answer"]["status"], 101, "{told}");
        assert_eq!(told["answer"]["reason"], reason, "{told}");
        assert_eq!(told["websocket"]["close_code"], code, "{told}");
        let (frames_in, frames_out) = (
            &told["websocket"]["frames_in"],
            &told["websocket"]["frames_out"],
        );
        let line =
            format!("\nwebsocket {frames_in} frames in, {frames_out} out, close code {code}\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}
