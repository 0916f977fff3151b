//! Writing the primitives of the binary encoding.

use std::net::IpAddr;

use http::HeaderMap;

use super::ABSENT;

// Nothing that is encoded reaches 4 GiB: a frame has at most 16 MiB, and the
// caller throws away a frame that turned out larger.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    bytes(out, text.as_bytes());
}

pub(super) fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(&ABSENT.to_be_bytes()),
    }
}

pub(super) fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u32).to_be_bytes());
}

pub(super) fn strings(out: &mut Vec<u8>, list: &[String]) {
    count(out, list.len());
    for text in list {
        string(out, text);
    }
}

pub(super) fn pairs(out: &mut Vec<u8>, list: &[(String, String)]) {
    count(out, list.len());
    for (name, value) in list {
        string(out, name);
        string(out, value);
    }
}

pub(super) fn headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    count(out, headers.len());
    for (name, value) in headers {
        string(out, name.as_str());
        bytes(out, value.as_bytes());
    }
}

/// Writes the family of an address and its bytes.
pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
}

/// Writes a byte that says whether a number follows, and the number.
pub(super) fn present_u64(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(number.is_some().into());
    if let Some(number) = number {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// Writes the length of bytes that follow.
pub(super) fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u32).to_be_bytes());
}

/// Writes a section in place and fills in its length afterwards.
pub(super) fn section(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    section_before(out, tag, 0, write);
}

/// The same for a section whose last bytes, so many, are kept elsewhere.
pub(super) fn section_before(
    out: &mut Vec<u8>,
    tag: u8,
    follows: usize,
    write: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(&[tag, 0, 0, 0, 0]);
    let start = out.len();
    write(out);
    let length = (out.len() - start + follows) as u32;
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
}
