//! Writing JSON by hand: only what events need.

use std::io::Write;
use std::net::IpAddr;

/// Appends a string in quotes.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Appends a string in quotes, or `null`.
pub(super) fn optional_string(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends bytes as a string in quotes: as UTF-8 when they are, as Latin-1
/// when they are not.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
        escaped(out, bytes);
    } else {
        for &byte in bytes {
            if byte.is_ascii() {
                escaped(out, &[byte]);
            } else {
                out.extend_from_slice(&[0xc0 | (byte >> 6), 0x80 | (byte & 0x3f)]);
            }
        }
    }
    out.push(b'"');
}

/// Appends `true` or `false`.
pub(super) fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// Appends a number in decimal.
pub(super) fn number(out: &mut Vec<u8>, mut number: u64) {
    // 20 digits hold the largest 64-bit number.
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends an address in quotes.
pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    out.push(b'"');
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            number(out, a.into());
            for octet in [b, c, d] {
                out.push(b'.');
                number(out, octet.into());
            }
        }
        IpAddr::V6(address) => {
            let written = write!(out, "{address}");
            debug_assert!(written.is_ok(), "writing into a vector cannot go wrong");
        }
    }
    out.push(b'"');
}

// Copies runs of ordinary bytes at once; they are nearly everything.
fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest
        .iter()
        .position(|&byte| NEEDS_ESCAPE[usize::from(byte)])
    {
        out.extend_from_slice(&rest[..at]);
        escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    }
}

static NEEDS_ESCAPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_what_a_json_library_writes() {
        let every_byte: String = (0_u8..128).map(char::from).collect();
        for text in [
            "",
            "plain",
            "a\"b\\c\n\r\t",
            "ä€😀\u{7f}\u{2028}",
            &every_byte,
        ] {
            let ours = written(|out| string(out, text));
            assert_eq!(serde_json::from_str::<String>(&ours).unwrap(), text);
        }
        assert_eq!(written(|out| string(out, "a\u{1}\"")), r#""a\u0001\"""#);
    }

    #[test]
    fn bytes_are_text_one_way_or_the_other() {
        let table: [(&[u8], &str); 4] = [
            (b"a", "a"),
            ("é".as_bytes(), "é"),
            (b"\xe9", "é"),
            (b"\"\xff\x80", "\"ÿ\u{80}"),
        ];
        for (value, text) in table {
            let ours = written(|out| bytes(out, value));
            assert_eq!(serde_json::from_str::<String>(&ours).unwrap(), text);
        }
    }

    #[test]
    fn numbers_and_addresses() {
        for value in [0, 9, 10, 255, 51234, u64::MAX] {
            assert_eq!(written(|out| number(out, value)), value.to_string());
        }
        for value in [
            "203.0.113.7",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "2001:db8::7",
        ] {
            let parsed = value.parse().unwrap();
            assert_eq!(written(|out| address(out, parsed)), format!("\"{value}\""));
        }
    }
}
