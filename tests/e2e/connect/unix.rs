//! Targets at Unix sockets.

use super::TO_POOL;
use crate::harness::{DEADLINE, Proxy, eventually};
use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

/// Answers every request without a body with 200 and what it was asked, in connections that stay.
fn serve(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    let line = text.lines().next().unwrap();
                    let length = line.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{line}");
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_target_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let target = format!("target unix-socket=\"{}\"", path.display());
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    assert_eq!(proxy.get("/early").status, 502);
    assert_eq!(
        proxy.access_line_of("/early")["reason"],
        "upstream_unreachable"
    );
    serve(&path);
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/x", &[]).text(), "GET /x HTTP/1.1");
    }
    let line = eventually("line", || {
        let mut lines = proxy.access_lines().into_iter();
        lines.find(|line| line["path"] == "/x")
    });
    assert_eq!(line["upstream_address"], format!("unix:{}", path.display()));
}

#[test]
fn a_check_of_a_socket_asks_for_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let target = format!(
        "target unix-socket=\"{}\"; health-check \"http\" path=\"/healthz\"",
        path.display()
    );
    let _proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /healthz http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: localhost\r\n"), "{head}");
}
