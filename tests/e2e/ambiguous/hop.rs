//! What is said about the connection alone, and requests that want to become something else (RFC 9110 sections 7.6 to 7.8 and
//! 10.1.1).

use super::{Case, Expected::*, check, post, with};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<Case> {
    const GET: &str = "GET /x HTTP/1.1";
    const POST: &str = "POST /x HTTP/1.1";
    let expecting = |value: &str| post(format!("content-length: 5\r\nexpect: {value}"), "hello");
    let socket = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    vec![
        ("close", with("connection: close"), Last(GET, "")),
        ("close in capitals", with("Connection: CLOSE"), Last(GET, "")),
        ("close among others", with("connection: x-a, close"), Last(GET, "")),
        ("close in a second line", with("connection: x-a\r\nconnection: close"), Last(GET, "")),
        ("keep-alive", with("connection: keep-alive\r\nkeep-alive: timeout=5"), Message(GET, "")),
        ("keep-alive and close", with("connection: keep-alive, close"), Last(GET, "")),
        ("a field", with("connection: x-a\r\nx-a: 1"), Message(GET, "")),
        ("a field that is not there", with("connection: x-a"), Message(GET, "")),
        ("nothing", with("connection:"), Message(GET, "")),
        ("commas", with("connection: , ,"), Message(GET, "")),
        ("the host", with("connection: host"), Refused(400)),
        ("who it is for", with("connection: x-forwarded-for"), Refused(400)),
        ("the id", with("connection: x-request-id"), Refused(400)),
        ("its way", with("connection: via"), Refused(400)),
        ("no name", with("connection: a b"), Refused(400)),
        ("quotes", with("connection: \"close\""), Refused(400)),
        ("an old name", with("proxy-connection: keep-alive"), Message(GET, "")),
        ("trailers", with("te: trailers"), Message(GET, "")),
        ("codings", with("te: gzip, trailers;q=0.5"), Message(GET, "")),
        ("trailers to come", with("trailer: x-a"), Message(GET, "")),
        ("credentials for a proxy", with("proxy-authorization: basic eDp5"), Message(GET, "")),
        // Other protocols.
        ("WebSocket", with(socket), Answered(403)),
        ("WebSocket with a body", post(format!("{socket}\r\ncontent-length: 5"), "hello"), Refused(403)),
        ("WebSocket that is not announced", with("upgrade: websocket"), Answered(403)),
        ("TLS", with("connection: upgrade\r\nupgrade: TLS/1.0"), Answered(403)),
        ("two protocols", with("connection: upgrade\r\nupgrade: websocket, other"), Answered(403)),
        ("HTTP/2", with("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA"), Message(GET, "")),
        ("HTTP/2 with a body", post("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\ncontent-length: 5", "hello"), Message(POST, "hello")),
        ("HTTP/2 and WebSocket", with("connection: upgrade\r\nupgrade: h2c, websocket"), Answered(403)),
        ("no protocol", with("connection: upgrade\r\nupgrade:"), Message(GET, "")),
        ("a wish without a protocol", with("connection: upgrade"), Message(GET, "")),
        // Bodies that wait.
        ("a body that waits", expecting("100-continue"), Message(POST, "hello")),
        ("a body that waits in capitals", expecting("100-Continue"), Message(POST, "hello")),
        ("a body that waits for something else", expecting("200-ok"), Refused(417)),
        ("a body that waits for more", expecting("100-continue, x"), Refused(417)),
        ("a body that waits for nothing", expecting(""), Message(POST, "hello")),
        ("a body that waits twice", post("content-length: 5\r\nexpect: 100-continue\r\nexpect: 100-continue", "hello"), Refused(417)),
        ("no body that waits", with("expect: 100-continue"), Message(GET, "")),
        ("a body in chunks that waits", post("transfer-encoding: chunked\r\nexpect: 100-continue", "5\r\nhello\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("a body that waits in HTTP/1.0", b"POST /x HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello".to_vec(), Last(POST, "hello")),
    ]
}

#[test]
fn what_is_said_about_a_connection_has_one_meaning() {
    check(&cases());
}
