//! Many sockets at once: everything comes back, in its order.

use super::peers::{Server, by_library, connect, described};
use crate::harness::{Proxy, TestAgent};
use std::{
    thread,
    time::{Duration, Instant},
};
use tungstenite::{Message, protocol::Role};

/// How many sockets, and for how many seconds: `make soak-websocket` asks for more.
fn asked(name: &str, otherwise: u64) -> u64 {
    let asked = std::env::var(name).ok();
    asked.map_or(otherwise, |text| text.parse().unwrap())
}

/// What a socket says, which no other says and it says once.
fn message(socket: u64, number: u64) -> Message {
    let size = usize::try_from((socket * 7 + number * 131) % 2000).unwrap();
    let text = format!("{socket}/{number}/{}", "x".repeat(size));
    match number % 2 {
        0 => Message::text(text),
        _ => Message::binary(text.into_bytes()),
    }
}

#[test]
fn many_sockets_keep_their_messages_and_their_order() {
    let (sockets, seconds) = (asked("SOCKETS", 50), asked("SOCKET_SECONDS", 2));
    let server = Server::start(|stream, _| {
        let mut socket = by_library(stream, Role::Server);
        while let Ok(message) = socket.read() {
            let is_data = message.is_text() || message.is_binary();
            let _ = if is_data {
                socket.send(message)
            } else {
                socket.flush()
            };
        }
        Vec::new()
    });
    let agent = TestAgent::named("frames").quiet().start();
    // Every socket asks about a frame at any time, in both directions.
    let most = 4 * sockets;
    let proxy = Proxy::builder(
        "routes { route \"live\" { filters { agent \"frames\" }; upstream \"origin\"; websocket } }",
    )
    .upstream("origin", &server.target())
    .agent_with(
        &agent,
        &format!(
            "timeout \"10s\"; max-concurrent-calls {most} queue={most}; inspect {{ request-headers; websocket-frames }}"
        ),
    )
    .listener("limits { connections-per-client 5000 }")
    .start();
    proxy.wait_ready();
    let address = proxy.address_of("http");
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..sockets)
        .map(|number| {
            let run = move || echoed(connect(address, "/ws/load"), number, end);
            let client = thread::Builder::new().stack_size(256 << 10);
            client.spawn(run).unwrap()
        })
        .collect();
    let counts: Vec<u64> = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .collect();
    let messages: u64 = counts.iter().sum();
    let least = counts.iter().min().unwrap();
    println!("{sockets} sockets, {messages} messages there and back, {least} at the least");
    assert!(*least > 0);
    proxy.wait_metric("portcullis_websocket_open", 0.0);
    proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
    let frames = |direction: &str| {
        proxy.metric(&format!(
            r#"portcullis_websocket_frames_total{{route="live",direction="{direction}",outcome="allow"}}"#
        ))
    };
    // Each message and the close.
    let expected = u32::try_from(messages + sockets).unwrap();
    assert_eq!(frames("client_to_server"), f64::from(expected));
    assert_eq!(frames("server_to_client"), f64::from(expected));
}

/// Sends several messages at a time and compares what comes back. Returns how many there were.
fn echoed(mut socket: super::peers::Socket, number: u64, end: Instant) -> u64 {
    const AT_ONCE: u64 = 4;
    let mut count = 0;
    while Instant::now() < end || count == 0 {
        for offset in 0..AT_ONCE {
            socket.send(message(number, count + offset)).unwrap();
        }
        for offset in 0..AT_ONCE {
            assert_eq!(socket.read().unwrap(), message(number, count + offset));
        }
        count += AT_ONCE;
    }
    socket.close(None).unwrap();
    assert_eq!(described(&socket.read()), "close");
    assert_eq!(described(&socket.read()), "end");
    count
}
