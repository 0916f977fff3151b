//! Chunks: their sizes, their extensions, their ends, and what follows the last one (RFC 9112 section 7.1).

use super::{Case, Expected::*, check, post};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<Case> {
    const POST: &str = "POST /x HTTP/1.1";
    let chunks = |body: &str| post("transfer-encoding: chunked", body);
    let long = "e".repeat(20_000);
    vec![
        ("one chunk", chunks("5\r\nhello\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("two chunks", chunks("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("a size in hexadecimal", chunks("A\r\n0123456789\r\n0\r\n\r\n"), Message(POST, "0123456789")),
        ("a size in small letters", chunks("a\r\n0123456789\r\n0\r\n\r\n"), Message(POST, "0123456789")),
        ("zeros before a size", chunks("0005\r\nhello\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("many zeros at the end", chunks("5\r\nhello\r\n000\r\n\r\n"), Message(POST, "hello")),
        ("a chunk that is a request", chunks("26\r\nGET /canary HTTP/1.1\r\nhost: canary\r\n\r\n\r\n0\r\n\r\n"), Message(POST, "GET /canary HTTP/1.1\r\nhost: canary\r\n\r\n")),
        ("an extension", chunks("5;a=b\r\nhello\r\n0;c\r\n\r\n"), Message(POST, "hello")),
        ("an extension in quotes", chunks("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("an extension behind a space", chunks("5 ;a\r\nhello\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("an extension with a bare LF", chunks("5;a\nb\r\nhello\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("an extension with a bare CR", chunks("5;a\rb\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("an extension that is very long", chunks(&format!("5;{long}\r\nhello\r\n0\r\n\r\n")), Message(POST, "hello")),
        ("a size before a space", chunks("5 \r\nhello\r\n0\r\n\r\n"), Message(POST, "hello")),
        ("a size behind a space", chunks(" 5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size behind a tab", chunks("\t5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size with a plus", chunks("+5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size below nothing", chunks("-5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size with a prefix", chunks("0x5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size with a line between", chunks("0_5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size with a suffix", chunks("5h\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size in quotes", chunks("\"5\"\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("two sizes", chunks("5 5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("two sizes with a comma", chunks("5,5\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size that is a letter", chunks("g\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size in other digits", chunks("\u{ff15}\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("no size, which is none", chunks("\r\nhello\r\n0\r\n\r\n"), Message(POST, "")),
        ("no size but an extension", chunks(";a\r\nhello\r\n0\r\n\r\n"), Message(POST, "")),
        ("a size with NUL", chunks("5\0\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("the largest size", chunks("ffffffffffffffff\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size beyond all", chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size that does not come", chunks("8000000000000000\r\nhello\r\n0\r\n\r\n"), Broken(408)),
        ("a size before LF", chunks("5\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("a size before CR", chunks("5\rhello\r\n0\r\n\r\n"), Broken(400)),
        ("a chunk before LF", chunks("5\r\nhello\n0\r\n\r\n"), Broken(400)),
        ("a chunk before CR", chunks("5\r\nhello\r0\r\n\r\n"), Broken(400)),
        ("a chunk before nothing", chunks("5\r\nhello0\r\n\r\n"), Broken(400)),
        ("a chunk longer than its size", chunks("5\r\nhello!\r\n0\r\n\r\n"), Broken(400)),
        ("a chunk shorter than its size", chunks("6\r\nhello\r\n0\r\n\r\n"), Broken(400)),
        ("an end before LF", chunks("5\r\nhello\r\n0\n\r\n"), Broken(400)),
        ("an end and LF", chunks("5\r\nhello\r\n0\r\n\n"), Broken(400)),
        ("an end and CR and something else", chunks("5\r\nhello\r\n0\r\n\rX"), Broken(400)),
        ("an end behind a space", chunks("5\r\nhello\r\n 0\r\n\r\n"), Broken(400)),
        ("trailers", chunks("5\r\nhello\r\n0\r\nx-a: b\r\nx-c: d\r\n\r\n"), Message(POST, "hello")),
        ("trailers with a length", chunks("5\r\nhello\r\n0\r\ncontent-length: 0\r\n\r\n"), Message(POST, "hello")),
        ("trailers with a host", chunks("5\r\nhello\r\n0\r\nhost: b\r\n\r\n"), Message(POST, "hello")),
    ]
}

#[test]
fn chunks_have_one_meaning() {
    check(&cases());
}
