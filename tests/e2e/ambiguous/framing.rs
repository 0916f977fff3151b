//! How long a body is: lengths, codings, and both of them (RFC 9112 section 6).

use super::{Case, Expected::*, check, get, line, post, with};
use crate::harness::{Origin, Proxy};

#[expect(clippy::too_many_lines, reason = "a table")]
#[rustfmt::skip]
pub(super) fn cases() -> Vec<Case> {
    const POST: &str = "POST /x HTTP/1.1";
    let hello = |lines: &str| post(lines, "hello");
    let chunked = |lines: &str| post(lines, "5\r\nhello\r\n0\r\n\r\n");
    let old = |line: &str, lines: &str, body: &str| {
        format!("{line} HTTP/1.0\r\nhost: a\r\n{lines}\r\n\r\n{body}").into_bytes()
    };
    vec![
        ("a length", hello("Content-Length: 5"), Message(POST, "hello")),
        ("a length in capitals", hello("CONTENT-LENGTH: 5"), Message(POST, "hello")),
        ("a length between tabs", hello("content-length:\t5\t"), Message(POST, "hello")),
        ("a length without a space", hello("content-length:5"), Message(POST, "hello")),
        ("a length of nothing", post("content-length: 0", ""), Message(POST, "")),
        ("no length and no body", post("x-a: 1", ""), Message(POST, "")),
        ("no length and something behind", post("x-a: 1", "hello"), Then400(POST)),
        ("no length of a GET and something behind", [get("/x"), b"hello".to_vec()].concat(), Then400("GET /x HTTP/1.1")),
        ("a length that is too short", post("content-length: 0", "hello"), Then400(POST)),
        ("a body of a GET", [with("content-length: 5"), b"hello".to_vec()].concat(), Message("GET /x HTTP/1.1", "hello")),
        ("a body of a DELETE", [b"DELETE /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello".to_vec()].concat(), Message("DELETE /x HTTP/1.1", "hello")),
        ("a body of a method of one's own", b"PURGE /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello".to_vec(), Message("PURGE /x HTTP/1.1", "hello")),
        ("a body that is a request", post("content-length: 38", super::CANARY), Message(POST, "GET /canary HTTP/1.1\r\nhost: canary\r\n\r\n")),
        ("zeros before a length", hello("content-length: 005"), Message(POST, "hello")),
        ("two lengths that are the same", hello("content-length: 5\r\ncontent-length: 5"), Refused(400)),
        ("two lengths", hello("content-length: 5\r\ncontent-length: 6"), Refused(400)),
        ("two lengths, one of nothing", hello("content-length: 0\r\ncontent-length: 5"), Refused(400)),
        ("two lengths in one line", hello("content-length: 5, 5"), Refused(400)),
        ("two different lengths in one line", hello("content-length: 5, 6"), Refused(400)),
        ("a length and a comma", hello("content-length: 5,"), Refused(400)),
        ("a length with a plus", hello("content-length: +5"), Refused(400)),
        ("a length below nothing", hello("content-length: -5"), Refused(400)),
        ("a length of minus nothing", post("content-length: -0", ""), Refused(400)),
        ("a length in hexadecimal", hello("content-length: 0x5"), Refused(400)),
        ("a length with an exponent", hello("content-length: 5e0"), Refused(400)),
        ("a length with a fraction", hello("content-length: 5.0"), Refused(400)),
        ("a length with a line between", hello("content-length: 0_5"), Refused(400)),
        ("a length with a space between", hello("content-length: 0 5"), Refused(400)),
        ("a length in quotes", hello("content-length: \"5\""), Refused(400)),
        ("a length with a parameter", hello("content-length: 5;a=b"), Refused(400)),
        ("a length in other digits", hello("content-length: \u{ff15}"), Refused(400)),
        ("a length without a number", hello("content-length:"), Refused(400)),
        ("a length of a space", hello("content-length:  "), Refused(400)),
        ("a length beyond all numbers", hello("content-length: 18446744073709551621"), Refused(400)),
        ("a length beyond numbers with a sign", hello("content-length: 9223372036854775813"), Refused(413)),
        ("a length with NUL", hello("content-length: 5\0"), Refused(400)),
        ("a length with a vertical tab", hello("content-length: \x0b5"), Refused(400)),
        ("a length that is spelled otherwise", hello("content_length: 5"), Refused(400)),
        ("a second length that is spelled otherwise", hello("content-length: 5\r\nContent_Length: 0"), Refused(400)),
        ("a space behind the name of a length", hello("content-length : 5"), Refused(400)),
        ("chunks", chunked("Transfer-Encoding: chunked"), Message(POST, "hello")),
        ("chunks in capitals", chunked("transfer-encoding: CHUNKED"), Message(POST, "hello")),
        ("chunks behind a tab", chunked("transfer-encoding:\tchunked"), Message(POST, "hello")),
        ("chunks before a space", chunked("transfer-encoding: chunked "), Message(POST, "hello")),
        ("chunks without a space", chunked("transfer-encoding:chunked"), Message(POST, "hello")),
        ("chunks of a GET", [with("transfer-encoding: chunked"), b"5\r\nhello\r\n0\r\n\r\n".to_vec()].concat(), Message("GET /x HTTP/1.1", "hello")),
        ("chunks that are none", post("transfer-encoding: chunked", "0\r\n\r\n"), Message(POST, "")),
        ("chunks behind a length", chunked("content-length: 15\r\ntransfer-encoding: chunked"), Refused(400)),
        ("chunks before a length", chunked("transfer-encoding: chunked\r\ncontent-length: 15"), Refused(400)),
        ("chunks and a length of nothing", chunked("transfer-encoding: chunked\r\ncontent-length: 0"), Refused(400)),
        ("chunks and a broken length", chunked("transfer-encoding: chunked\r\ncontent-length: x"), Refused(400)),
        ("chunks and a folded length", chunked("transfer-encoding: chunked\r\ncontent-length:\r\n 15"), Refused(400)),
        ("chunks twice in two lines", chunked("transfer-encoding: chunked\r\ntransfer-encoding: chunked"), Refused(400)),
        ("chunks twice in one line", chunked("transfer-encoding: chunked, chunked"), Refused(400)),
        ("chunks and a comma", chunked("transfer-encoding: chunked,"), Refused(400)),
        ("a comma and chunks", chunked("transfer-encoding: , chunked"), Refused(400)),
        ("chunks with a parameter", chunked("transfer-encoding: chunked;a=b"), Refused(400)),
        ("chunks in quotes", chunked("transfer-encoding: \"chunked\""), Refused(400)),
        ("chunks with a vertical tab", chunked("transfer-encoding: \x0bchunked"), Refused(400)),
        ("chunks with NUL", chunked("transfer-encoding: chunked\0"), Refused(400)),
        ("chunks with a tab between", chunked("transfer-encoding: chun\tked"), Refused(400)),
        ("chunks with a name before them", chunked("transfer-encoding: xchunked"), Refused(400)),
        ("chunks behind identity", chunked("transfer-encoding: identity, chunked"), Refused(400)),
        ("chunks before identity", chunked("transfer-encoding: chunked, identity"), Refused(400)),
        ("identity", hello("transfer-encoding: identity"), Refused(400)),
        ("identity and a length", hello("transfer-encoding: identity\r\ncontent-length: 5"), Refused(400)),
        ("gzip in chunks", chunked("transfer-encoding: gzip, chunked"), Refused(400)),
        ("gzip in chunks, in two lines", chunked("transfer-encoding: gzip\r\ntransfer-encoding: chunked"), Refused(400)),
        ("chunks in gzip", chunked("transfer-encoding: chunked, gzip"), Refused(400)),
        ("an empty coding", hello("transfer-encoding:"), Refused(400)),
        ("an empty coding and a length", hello("transfer-encoding:\r\ncontent-length: 5"), Refused(400)),
        ("a folded coding", chunked("transfer-encoding:\r\n chunked"), Refused(400)),
        ("a coding that is spelled otherwise", chunked("transfer_encoding: chunked"), Refused(400)),
        ("a coding that is spelled otherwise, and a length", hello("content-length: 5\r\nTransfer_Encoding: chunked"), Refused(400)),
        ("a coding that is half spelled otherwise", hello("content-length: 5\r\ntransfer-Encoding_: chunked"), Message(POST, "hello")),
        ("a space behind the name of a coding", chunked("transfer-encoding : chunked"), Refused(400)),
        ("a tab behind the name of a coding", chunked("transfer-encoding\t: chunked"), Refused(400)),
        ("a coding with a byte before it", chunked("\x0btransfer-encoding: chunked"), Refused(400)),
        ("chunks for a connection", chunked("transfer-encoding: chunked\r\nconnection: transfer-encoding"), Refused(400)),
        ("a length for a connection", hello("content-length: 5\r\nconnection: content-length"), Refused(400)),
        ("chunks in HTTP/1.0", old("POST /x", "transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("chunks and a length in HTTP/1.0", old("POST /x", "transfer-encoding: chunked\r\ncontent-length: 5", "hello"), Refused(400)),
        ("identity in HTTP/1.0", old("POST /x", "transfer-encoding: identity", ""), Refused(400)),
        ("a length in HTTP/1.0", old("POST /x", "content-length: 5", "hello"), Last(POST, "hello")),
        ("no length in HTTP/1.0", old("POST /x", "x-a: 1", ""), Last(POST, "")),
        ("a length in HTTP/1.0 that is kept open", old("POST /x", "content-length: 5\r\nconnection: keep-alive", "hello"), Message(POST, "hello")),
        ("a body of HEAD", [line("HEAD /x HTTP/1.1").split_off(0)].concat(), Message("HEAD /x HTTP/1.1", "")),
    ]
}

#[test]
fn the_length_of_a_body_has_one_meaning() {
    check(&cases());
}

/// Some read an octal number in zeros.
#[test]
fn lengths_have_no_zeros_in_front() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for (sent, length, body) in [("0010", "10", "0123456789"), ("000", "0", "")] {
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {sent}\r\n\r\n{body}"
        ));
        assert_eq!(client.response().status, 200);
        let request = origin.last();
        assert_eq!(request.header("content-length").as_deref(), Some(length));
        assert_eq!(request.body, body.as_bytes());
    }
}
