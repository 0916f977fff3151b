//! How sockets live and end: silence, a slow agent, reloads, the end of the process, connections that are lost.

use super::{
    inspected,
    peers::{
        Server, Step, by_hand, by_library, connect, described, echo, frame, next_frame, upgraded,
    },
};
use crate::harness::{
    TestAgent,
    agent::{Phase, Reaction, When},
    eventually,
};
use portcullis_agent_protocol::Decision;
use rustix::process::Signal;
use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};
use tungstenite::{Message, protocol::Role};

#[test]
fn silent_sockets_have_a_limit_of_their_own() {
    let server = Server::echoing();
    let agent = TestAgent::named("frames").start();
    // Neither of the other limits holds for sockets.
    let proxy = inspected(
        &agent,
        &server,
        "timeouts { response-header \"100ms\"; idle \"100ms\" }; websocket { idle \"1s\" }",
    )
    .listener("timeouts { request-body-idle \"100ms\"; keepalive \"100ms\" }")
    .start();
    proxy.wait_ready();
    let mut client = connect(proxy.address_of("http"), "/ws/idle");
    let begun = Instant::now();
    // Pings keep it open.
    while begun.elapsed() < Duration::from_millis(1500) {
        std::thread::sleep(Duration::from_millis(100));
        client.send(Message::Ping("".into())).unwrap();
        assert_eq!(described(&client.read()), "pong ");
    }
    let last = Instant::now();
    assert_eq!(described(&client.read()), "close 1001 idle");
    assert!(last.elapsed() >= Duration::from_millis(900));
    assert_eq!(described(&client.read()), "end");
    let seen = server.saw("/ws/idle");
    assert_eq!(
        seen[seen.len() - 2..],
        ["close 1001 idle", "end"],
        "{seen:?}"
    );
    let line = proxy.access_line_of("/ws/idle");
    assert_eq!(line["reason"], "websocket_idle", "{line}");
    assert_eq!(line["websocket"]["close_code"], 1001, "{line}");
}

#[test]
fn a_slow_agent_holds_up_its_socket_and_no_other() {
    let server = Server::echoing();
    let agent = TestAgent::named("frames")
        .then(
            Phase::Frames,
            When::Holds("wait".to_owned()),
            Reaction::late(&Decision::allow()),
        )
        .start();
    let settings = "websocket { frame-bytes \"64KiB\"; held-bytes \"128KiB\" }";
    let proxy = inspected(&agent, &server, settings).start();
    proxy.wait_ready();
    let address = proxy.address_of("http");
    let mut slow = connect(address, "/ws/slow");
    slow.send(Message::text("wait")).unwrap();
    agent.saw(|told| told["data"] == "wait");
    // What comes behind it waits, and then whoever sends it has to.
    let (mut stuffed, _) = upgraded(address, "/ws/stuffed", "");
    stuffed.write_all(&frame(0x81, b"wait", true)).unwrap();
    agent.wait_seen("websocket_frame", 2);
    stuffed.set_nonblocking(true).unwrap();
    let piece = frame(0x82, &[0; 60_000], true);
    let mut sent = 0;
    let mut behind = 0;
    while let Ok(count) = stuffed.write(&piece[behind..]) {
        sent += count;
        behind = (behind + count) % piece.len();
        if sent % (1 << 20) < count {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(sent < 64 << 20, "somebody takes everything");
    }
    let held = proxy.metric("portcullis_buffer_memory_used_bytes");
    assert!((100_000.0..400_000.0).contains(&held), "{held}");
    let mut quick = connect(address, "/ws/quick");
    for number in 0..50 {
        quick.send(Message::text(format!("{number}"))).unwrap();
        assert_eq!(described(&quick.read()), format!("text {number}"));
    }
    for number in 0..50 {
        slow.send(Message::text(format!("{number}"))).unwrap();
    }
    agent.release();
    assert_eq!(described(&slow.read()), "text wait");
    for number in 0..50 {
        assert_eq!(described(&slow.read()), format!("text {number}"));
    }
    drop(stuffed);
    proxy.wait_metric("portcullis_websocket_open", 2.0);
    drop((slow, quick));
    proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
}

#[test]
fn what_waits_needs_room_in_the_memory_of_the_process() {
    let server = Server::echoing();
    let agent = TestAgent::named("frames")
        .then(Phase::Frames, When::Always, Reaction::Hang)
        .start();
    let settings = "websocket { frame-bytes \"700KiB\" }";
    let memory = "system { buffer-memory \"1MiB\" }";
    let proxy = super::inspected_with(&agent, &server, settings, memory).start();
    proxy.wait_ready();
    let large = frame(0x82, &vec![b'x'; 600_000], true);
    let (mut first, _) = upgraded(proxy.address_of("http"), "/ws/first", "");
    first.write_all(&large).unwrap();
    agent.wait_seen("websocket_frame", 1);
    let (second, _) = upgraded(proxy.address_of("http"), "/ws/second", "");
    let seen = by_hand(second, &[Step::Send(large)]);
    assert_eq!(seen, ["close 1011 "]);
    let line = proxy.access_line_of("/ws/second");
    assert_eq!(line["blocked_by"], "frames", "{line}");
    assert_eq!(line["reason"], "buffer_full", "{line}");
    drop(first);
    proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
}

#[test]
fn the_end_of_a_client_is_noticed_while_an_agent_is_asked() {
    let server = Server::echoing();
    let agent = TestAgent::named("frames")
        .then(Phase::Frames, When::Always, Reaction::Hang)
        .start();
    let proxy = inspected(&agent, &server, "websocket").start();
    proxy.wait_ready();
    let (mut stream, _) = upgraded(proxy.address_of("http"), "/ws/gone", "");
    stream.write_all(&frame(0x81, b"hang", true)).unwrap();
    agent.wait_seen("websocket_frame", 1);
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    let line = proxy.access_line_of("/ws/gone");
    assert_eq!(line["websocket"]["close_code"], 1006, "{line}");
    assert_eq!(server.saw("/ws/gone"), ["lost"]);
    proxy.wait_metric("portcullis_websocket_open", 0.0);
}

#[test]
fn what_is_lost_is_no_end_in_order() {
    let server = Server::start(|mut stream, path| {
        let seen = next_frame(&mut stream);
        assert!(seen.is_some(), "{path}");
        if path.ends_with("reset") {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
        Vec::new()
    });
    let agent = TestAgent::named("frames").start();
    let proxy = inspected(&agent, &server, "websocket").start();
    proxy.wait_ready();
    for path in ["/ws/end", "/ws/reset"] {
        let (mut stream, head) = upgraded(proxy.address_of("http"), path, "");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.write_all(&frame(0x81, b"here", true)).unwrap();
        let mut rest = Vec::new();
        // It may end by a reset, and not with a frame.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
        let line = proxy.access_line_of(path);
        assert_eq!(line["websocket"]["close_code"], 1006, "{line}");
    }
}

#[test]
fn open_sockets_go_on_over_a_reload_with_what_they_began_with() {
    let server = Server::echoing();
    let agent = TestAgent::named("frames")
        .then(
            Phase::Frames,
            When::Holds("secret".to_owned()),
            Reaction::Replace("hidden".to_owned()),
        )
        .start();
    let proxy = inspected(&agent, &server, "websocket").start();
    proxy.wait_ready();
    let address = proxy.address_of("http");
    let mut old = connect(address, "/ws/old");
    old.send(Message::text("secret")).unwrap();
    assert_eq!(described(&old.read()), "text hidden");
    let without = crate::harness::Proxy::builder(
        "routes { route \"live\" { match { path-prefix \"/ws\" }; upstream \"origin\"; websocket } }",
    )
    .upstream("origin", &server.target());
    proxy.reload(&without);
    let mut new = connect(address, "/ws/new");
    new.send(Message::text("secret")).unwrap();
    assert_eq!(described(&new.read()), "text secret");
    for _ in 0..3 {
        old.send(Message::text("secret")).unwrap();
        assert_eq!(described(&old.read()), "text hidden");
    }
    old.close(None).unwrap();
    assert_eq!(echo(&mut old), ["close", "end"]);
}

#[test]
fn the_end_of_the_process_closes_sockets_when_the_grace_is_over() {
    let server = Server::echoing();
    let agent = TestAgent::named("frames").start();
    let mut proxy = super::inspected_with(
        &agent,
        &server,
        "websocket",
        "system { shutdown-grace \"700ms\" }",
    )
    .start();
    proxy.wait_ready();
    let mut client = connect(proxy.address_of("http"), "/ws/end");
    client.send(Message::text("before")).unwrap();
    assert_eq!(described(&client.read()), "text before");
    proxy.signal(Signal::TERM);
    let told = Instant::now();
    proxy.log_line(|line| line["message"] == "ending: draining");
    // Until then nothing changes.
    client.send(Message::text("meanwhile")).unwrap();
    assert_eq!(described(&client.read()), "text meanwhile");
    assert_eq!(described(&client.read()), "close 1001 shutting down");
    assert!(told.elapsed() >= Duration::from_millis(600));
    assert_eq!(described(&client.read()), "end");
    let seen = server.saw("/ws/end");
    assert_eq!(seen[2..], ["close 1001 shutting down", "end"], "{seen:?}");
    assert_eq!(proxy.wait_end().code(), Some(0));
    let line = proxy.access_line_of("/ws/end");
    assert_eq!(line["reason"], "shutting_down", "{line}");
    eventually("the agent was told", || {
        (agent.seen("request_complete").len() == 1).then_some(())
    });
}

/// Nothing of what waits for an agent is lost or passes unjudged because the client says no more.
#[test]
fn what_the_upstream_has_sent_goes_on_behind_the_end_of_the_client() {
    let server = Server::start(|stream, _| {
        let mut socket = by_library(stream, Role::Server);
        let mut seen = vec![described(&socket.read())];
        for text in ["one", "two", "three"] {
            socket.send(Message::text(text)).unwrap();
        }
        seen.push(described(&socket.read()));
        seen
    });
    let agent = TestAgent::named("frames")
        .then(
            Phase::Frames,
            When::Holds("one".to_owned()),
            Reaction::late(&Decision::allow()),
        )
        .start();
    let proxy = inspected(&agent, &server, "websocket").start();
    proxy.wait_ready();
    let (mut client, _) = upgraded(proxy.address_of("http"), "/ws/half", "");
    client.write_all(&frame(0x81, b"go", true)).unwrap();
    agent.saw(|told| told["data"] == "one");
    // The others wait behind it: their heads, their data, and the data that is judged.
    let behind = (2 + "two".len() + 2 + "three".len() + "one".len()) as f64;
    proxy.wait_metric("portcullis_buffer_memory_used_bytes", behind);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    // The server has heard it, and so has everybody before it.
    assert_eq!(server.saw("/ws/half")[0], "text go");
    agent.release();
    for text in ["one", "two", "three"] {
        let expected = Some((0x81, text.as_bytes().to_vec()));
        assert_eq!(next_frame(&mut client), expected);
    }
    let frames = agent.seen("websocket_frame");
    assert_eq!(frames.len(), 4, "{frames:?}");
    let line = proxy.access_line_of("/ws/half");
    assert_eq!(line["agents"][0]["verdict"], "allow", "{line}");
    proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
}
