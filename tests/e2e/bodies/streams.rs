//! Streams through agents: nothing waits for more, nothing piles up, and gRPC is as without them.

use super::{before, through};
use crate::harness::{
    Answer, Origin, Proxy, TestAgent, eventually,
    grpc::{Call, CallServer, fields, message},
    proxy::Builder,
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::channel,
    },
    thread,
};

const CHUNK: usize = 64 << 10;

/// The size of a body in the tests of memory.
fn body_bytes() -> usize {
    let mib = std::env::var("BODY_MIB").map_or(64, |mib| mib.parse::<usize>().unwrap());
    mib << 20
}

/// What the process takes of the machine's memory, now or at the most, in KiB.
fn memory_kib(proxy: &Proxy, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Serves each connection like this.
fn serving(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}

/// A value that has been the same for a while.
fn settled(what: &str, value: impl Fn() -> usize) -> usize {
    let mut last = 0;
    let mut same = 0;
    eventually(what, || {
        let now = value();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        (same >= 50).then_some(now)
    })
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    const EVENTS: usize = 20;
    let (go_on, told) = channel::<()>();
    let told = Arc::new(Mutex::new(told));
    let origin = Origin::answering(move |_| {
        let told = told.clone();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        Answer::raw(head).then(move |stream| {
            for number in 0..EVENTS {
                let event = format!("data: {number:02}\n\n");
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).unwrap();
                told.lock().unwrap().recv().unwrap();
            }
            stream.write_all(b"0\r\n\r\n").unwrap();
        })
    });
    let agent = TestAgent::named("dlp").start();
    let proxy = through(&agent, "response-body \"stream\"", &origin);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    client.read_head().unwrap();
    for number in 0..EVENTS {
        let expected = format!("A\r\ndata: {number:02}\n\n\r\n");
        let got = client.read_exact(expected.len());
        assert_eq!(String::from_utf8_lossy(&got), expected);
        go_on.send(()).unwrap();
    }
    assert_eq!(client.read_exact(5), b"0\r\n\r\n");
    assert!(agent.seen("response_body_chunk").len() >= EVENTS);
}

/// A proxy before this origin, with an agent that sees both bodies as streams.
fn streamed(agent: &TestAgent, address: SocketAddr) -> Proxy {
    let inspect = "request-body \"stream\"; response-body \"stream\"";
    let builder: Builder = Proxy::builder(
        "system { worker-threads 1 }\nroutes { route \"all\" { filters { agent \"waf\" }; upstream \"origin\" } }",
    );
    let proxy = builder
        .listener("h2c; limits { body-bytes \"4GiB\" }")
        .upstream("origin", &format!("target \"{address}\""))
        .agent_with(agent, &format!("timeout \"10s\"; inspect {{ {inspect} }}"))
        .start();
    proxy.wait_ready();
    proxy
}

/// The origin sends back what it gets, at once.
#[test]
fn large_bodies_need_little_memory() {
    let size = body_bytes();
    let address = serving(move |mut stream| {
        read_head(&mut stream);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sending = thread::spawn(move || {
            let piece = vec![b'x'; CHUNK];
            for _ in 1..size / CHUNK {
                writer.write_all(&piece).unwrap();
            }
        });
        // In chunks, because an agent may change how long it is.
        let mut tail = Vec::new();
        let mut chunk = vec![0; CHUNK];
        while !tail.ends_with(b"0\r\n\r\n") {
            let count = stream.read(&mut chunk).unwrap();
            assert_ne!(count, 0);
            tail.extend_from_slice(&chunk[count.saturating_sub(5)..count]);
            tail.drain(..tail.len().saturating_sub(5));
        }
        sending.join().unwrap();
        // An answer that comes to its end before the request does ends both.
        stream.write_all(&vec![b'x'; CHUNK]).unwrap();
    });
    let agent = TestAgent::named("waf").start();
    let proxy = streamed(&agent, address);
    let at_start = memory_kib(&proxy, "VmRSS");
    let client = proxy.client();
    let (mut sender, mut receiver) = (client.sender(), client.sender());
    let sending = thread::spawn(move || {
        let head = format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {size}\r\n\r\n");
        sender.write_all(head.as_bytes()).unwrap();
        let piece = vec![b'y'; CHUNK];
        for _ in 0..size / CHUNK {
            sender.write_all(&piece).unwrap();
        }
    });
    let mut received = 0;
    let mut tail = Vec::new();
    let mut chunk = vec![0; CHUNK];
    while !tail.ends_with(b"0\r\n\r\n") {
        let count = receiver.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "after {received} bytes");
        received += chunk[..count].iter().filter(|byte| **byte == b'x').count();
        tail.extend_from_slice(&chunk[count.saturating_sub(5)..count]);
        tail.drain(..tail.len().saturating_sub(5));
    }
    sending.join().unwrap();
    // The head has an x or two.
    assert!(received >= size && received < size + 16, "{received}");
    let most = memory_kib(&proxy, "VmHWM");
    assert!(
        most - at_start <= 32 << 10,
        "{at_start} KiB, then {most} KiB"
    );
    let line = proxy.access_line_of("/");
    assert_eq!(
        (&line["bytes_in"], &line["status"]),
        (&size.into(), &200.into()),
        "{line}"
    );
}

/// Whatever fits into the buffers of sockets, and what is on its way.
const MOST_ON_ITS_WAY: usize = 24 << 20;

#[test]
fn a_client_that_does_not_read_stops_the_origin() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let address = serving(move |mut stream| {
        read_head(&mut stream);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let piece = vec![b'x'; CHUNK];
        while stream.write_all(&piece).is_ok() {
            counted.fetch_add(CHUNK, SeqCst);
        }
    });
    let agent = TestAgent::named("waf").preferring(16 << 10).start();
    let proxy = streamed(&agent, address);
    let at_start = memory_kib(&proxy, "VmRSS");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let stopped = settled("a stop", || sent.load(SeqCst));
    assert!(stopped < MOST_ON_ITS_WAY, "{stopped}");
    let most = memory_kib(&proxy, "VmHWM");
    assert!(
        most - at_start <= 32 << 10,
        "{at_start} KiB, then {most} KiB"
    );
}

#[test]
fn an_origin_that_does_not_read_stops_the_client() {
    let address = serving(move |mut stream| {
        read_head(&mut stream);
        // It stays, and reads nothing more.
        thread::park();
    });
    let agent = TestAgent::named("waf").start();
    let proxy = streamed(&agent, address);
    let at_start = memory_kib(&proxy, "VmRSS");
    let client = proxy.client();
    let sent = Arc::new(AtomicUsize::new(0));
    let (mut sender, counted) = (client.sender(), sent.clone());
    thread::spawn(move || {
        let head = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1073741824\r\n\r\n";
        sender.write_all(head.as_bytes()).unwrap();
        let piece = vec![b'y'; CHUNK];
        while sender.write_all(&piece).is_ok() {
            counted.fetch_add(CHUNK, SeqCst);
        }
    });
    let stopped = settled("a stop", || sent.load(SeqCst));
    assert!(stopped < MOST_ON_ITS_WAY, "{stopped}");
    let most = memory_kib(&proxy, "VmHWM");
    assert!(
        most - at_start <= 32 << 10,
        "{at_start} KiB, then {most} KiB"
    );
}

/// Says each message back, and at the end how many there were.
fn parrot() -> CallServer {
    CallServer::serving(|mut served| {
        Box::pin(async move {
            assert_eq!(served.head.headers["te"], "trailers");
            served.answer(&[("content-type", "application/grpc")]);
            let mut count = 0;
            while let Some(Ok(piece)) = served.data().await {
                // The end may be a frame of its own.
                if !piece.is_empty() {
                    count += 1;
                    served.send(piece).await;
                }
            }
            let count = count.to_string();
            served.end_with(&[("grpc-status", "0"), ("x-count", &count)]);
        })
    })
}

/// Each message is answered before the next is sent.
#[test]
fn a_call_of_grpc_flows_in_both_directions() {
    let server = parrot();
    let agent = TestAgent::named("waf").start();
    let inspect = "request-body \"stream\"; response-headers; response-body \"stream\"";
    let proxy = before(&server, &agent, inspect);
    for messages in [1, 8] {
        let mut call = Call::to(proxy.address_of("http"), "/parrot");
        for number in 0..messages {
            let said = message(&format!("message {number}"));
            assert!(call.send(said.clone()));
            if number == 0 {
                let head = call.head().unwrap();
                assert_eq!(head.headers()["content-type"], "application/grpc");
            }
            assert_eq!(call.data().unwrap().unwrap(), said);
        }
        call.finish();
        assert_eq!(call.rest().unwrap(), b"");
        let trailers = call.trailers().unwrap().unwrap();
        let count = messages.to_string();
        assert_eq!(
            trailers,
            fields(&[("grpc-status", "0"), ("x-count", &count)])
        );
    }
    let seen = agent.seen("response_body_chunk");
    let last = seen.last().unwrap();
    assert_eq!(last["is_last"], true, "{last}");
    assert_eq!(last["trailers"]["grpc-status"][0], "0", "{last}");
    assert_eq!(last["trailers"]["x-count"][0], "8", "{last}");
}

/// All of a call is held, and its trailers come behind it as ever.
#[test]
fn a_buffered_call_of_grpc_keeps_its_trailers() {
    let server = parrot();
    let agent = TestAgent::named("waf").start();
    let inspect = "request-body \"buffer\"; response-body \"buffer\"";
    let proxy = before(&server, &agent, inspect);
    let mut call = Call::to(proxy.address_of("http"), "/parrot");
    assert!(call.send(message("one")));
    call.finish();
    call.head().unwrap();
    assert_eq!(call.rest().unwrap(), message("one"));
    let trailers = call.trailers().unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(
        agent.seen("response_body_chunk")[0]["trailers"]["grpc-status"][0],
        "0"
    );
}
