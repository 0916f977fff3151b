//! The PROXY protocol, versions 1 and 2: what a proxy in front of us says about a connection before its first byte.
//!
//! Decoding is pure and strict: a header that is not written as its description has it is no header. The crates that there are
//! accept more than that, a sign in front of a port or any byte behind `PROXY`, or cannot tell a header that is not complete from
//! one that never will be.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// No header is longer; one of version 2 could say that it is.
pub(super) const MOST_BYTES: usize = 4096;

/// What version 2 begins with, and nothing else does.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const PROXY: &[u8] = b"PROXY ";
/// The longest header of version 1, its end included.
const MOST_BYTES_V1: usize = 107;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// The connection was made for this client, to this address.
    For {
        client: SocketAddr,
        destination: SocketAddr,
    },
    /// The proxy speaks for itself, or does not know who the client is, or knows no address of the client that means
    /// anything here.
    Nothing,
}

/// How far a header has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoded {
    /// It takes so many bytes.
    Whole(Said, usize),
    /// There has to be more.
    Part,
}

/// What has come is not the beginning of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Decodes what has come so far.
///
/// # Errors
/// Whatever follows, it is no header.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Malformed> {
    if begins(bytes, SIGNATURE) {
        return version_2(bytes);
    }
    if begins(bytes, PROXY) {
        return version_1(bytes);
    }
    Err(Malformed)
}

/// Whether the bytes begin with these, as far as they have come.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let common = bytes.len().min(with.len());
    bytes[..common] == with[..common]
}

fn version_1(bytes: &[u8]) -> Result<Decoded, Malformed> {
    let line = &bytes[..bytes.len().min(MOST_BYTES_V1)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < MOST_BYTES_V1 {
            true => Ok(Decoded::Part),
            false => Err(Malformed),
        };
    };
    // The end stands behind the beginning, which has no line break in it.
    let said = std::str::from_utf8(&line[PROXY.len()..end]).map_err(|_| Malformed)?;
    let said = addresses(said).ok_or(Malformed)?;
    Ok(Decoded::Whole(said, end + 2))
}

/// What stands between `PROXY ` and the end of the line.
fn addresses(said: &str) -> Option<Said> {
    let mut words = said.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows has no meaning.
        return Some(Said::Nothing);
    }
    let [client, destination, client_port, destination_port] = [(); 4].map(|()| words.next());
    if words.next().is_some() {
        return None;
    }
    let (client, destination) = match family {
        "TCP4" => (
            client?.parse::<Ipv4Addr>().ok()?.into(),
            destination?.parse::<Ipv4Addr>().ok()?.into(),
        ),
        "TCP6" => (
            client?.parse::<Ipv6Addr>().ok()?.to_canonical(),
            destination?.parse::<Ipv6Addr>().ok()?.to_canonical(),
        ),
        _ => return None,
    };
    Some(Said::For {
        client: SocketAddr::new(client, port(client_port?)?),
        destination: SocketAddr::new(destination, port(destination_port?)?),
    })
}

/// Digits alone, and no more than there have to be.
fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    (is_number && is_short).then(|| text.parse().ok()).flatten()
}

fn version_2(bytes: &[u8]) -> Result<Decoded, Malformed> {
    /// Signature, version and command, family, length.
    const FIXED: usize = 16;
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return match bytes.get(SIGNATURE.len()) {
            Some(0x20 | 0x21) | None => Ok(Decoded::Part),
            Some(_) => Err(Malformed),
        };
    };
    let [.., version_and_command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > MOST_BYTES {
        return Err(Malformed);
    }
    // Something about TLS and the like follows the addresses, and is left alone.
    let Some(block) = rest.get(..length) else {
        return match version_and_command {
            0x20 | 0x21 => Ok(Decoded::Part),
            _ => Err(Malformed),
        };
    };
    let said = match (version_and_command, family) {
        // The proxy speaks for itself, whatever it says of addresses.
        (0x20, _) => Said::Nothing,
        // Not known; sockets of Unix.
        (0x21, 0x00 | 0x31) => Said::Nothing,
        (0x21, 0x11) => ipv4(block)?,
        (0x21, 0x21) => ipv6(block)?,
        _ => return Err(Malformed),
    };
    Ok(Decoded::Whole(said, FIXED + length))
}

fn ipv4(block: &[u8]) -> Result<Said, Malformed> {
    let (block, _) = block.split_first_chunk::<12>().ok_or(Malformed)?;
    let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
    let client = Ipv4Addr::new(a, b, c, d).into();
    Ok(said(client, Ipv4Addr::new(e, f, g, h).into(), ports))
}

fn ipv6(block: &[u8]) -> Result<Said, Malformed> {
    let (client, block) = block.split_first_chunk::<16>().ok_or(Malformed)?;
    let (destination, block) = block.split_first_chunk::<16>().ok_or(Malformed)?;
    let (ports, _) = block.split_first_chunk::<4>().ok_or(Malformed)?;
    let client = Ipv6Addr::from(*client).to_canonical();
    let destination = Ipv6Addr::from(*destination).to_canonical();
    Ok(said(client, destination, *ports))
}

const fn said(
    client: std::net::IpAddr,
    destination: std::net::IpAddr,
    [a, b, c, d]: [u8; 4],
) -> Said {
    Said::For {
        client: SocketAddr::new(client, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made_for(client: &str, destination: &str) -> Said {
        Said::For {
            client: client.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// A header of version 2.
    fn header_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, block].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0xc8, 0x22, 0x01, 0xbb];

    fn v6() -> Vec<u8> {
        let client: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let destination: Ipv6Addr = "2001:db8::1".parse().unwrap();
        [&client.octets()[..], &destination.octets(), &V4[8..]].concat()
    }

    #[test]
    fn headers_that_are_whole() {
        let v4 = made_for("203.0.113.9:51234", "192.0.2.1:443");
        let v6_said = made_for("[2001:db8::9]:51234", "[2001:db8::1]:443");
        let with_more = [&V4[..], b"\x01\x00\x02h2\x04\x00\x00"].concat();
        let with_unix = vec![b'a'; 216];
        for (header, said) in [
            (
                b"PROXY TCP4 203.0.113.9 192.0.2.1 51234 443\r\n".to_vec(),
                v4,
            ),
            (
                b"PROXY TCP6 2001:db8::9 2001:db8::1 51234 443\r\n".to_vec(),
                v6_said,
            ),
            (
                b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:192.0.2.1 51234 443\r\n".to_vec(),
                v4,
            ),
            (
                b"PROXY TCP4 203.0.113.9 192.0.2.1 0 65535\r\n".to_vec(),
                made_for("203.0.113.9:0", "192.0.2.1:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Said::Nothing),
            (
                b"PROXY UNKNOWN ffff:f...f:ffff ffff 65535 65535\r\n".to_vec(),
                Said::Nothing,
            ),
            (header_2(0x21, 0x11, &V4), v4),
            (header_2(0x21, 0x11, &with_more), v4),
            (header_2(0x21, 0x21, &v6()), v6_said),
            (header_2(0x20, 0x00, b""), Said::Nothing),
            (header_2(0x20, 0x11, &V4), Said::Nothing),
            (header_2(0x20, 0xff, b"x"), Said::Nothing),
            (header_2(0x21, 0x00, b"anything"), Said::Nothing),
            (header_2(0x21, 0x31, &with_unix), Said::Nothing),
        ] {
            let followed = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(
                decode(&followed),
                Ok(Decoded::Whole(said, header.len())),
                "{header:?}"
            );
            for end in 0..header.len() {
                assert_eq!(
                    decode(&header[..end]),
                    Ok(Decoded::Part),
                    "{end} of {header:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 93]].concat();
        let mut too_long = header_2(0x20, 0x00, b"");
        too_long.splice(14..16, [0x10, 0x00]);
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"proxy TCP4 203.0.113.9 192.0.2.1 51234 443\r\n",
            b"PROXYTCP4 203.0.113.9 192.0.2.1 51234 443\r\n",
            b"PROXY\tTCP4 203.0.113.9 192.0.2.1 51234 443\r\n",
            b"PROXY TCP5 203.0.113.9 192.0.2.1 51234 443\r\n",
            b"PROXY TCP4  203.0.113.9 192.0.2.1 51234 443\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 51234\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 51234 443 \r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 51234 443 1\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 +51234 443\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 051234 443\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 443\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1  443\r\n",
            b"PROXY TCP4 203.0.113.09 192.0.2.1 1 443\r\n",
            b"PROXY TCP4 2001:db8::9 2001:db8::1 51234 443\r\n",
            b"PROXY TCP6 203.0.113.9 192.0.2.1 51234 443\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 51234 443\n\r\n",
            b"PROXY \xff\r\n",
            b"PROXY \r\n",
            &long,
            b"\r\n\r\n\0\r\nQUIT\r",
            &header_2(0x11, 0x11, &V4),
            &header_2(0x22, 0x11, &V4),
            &header_2(0x21, 0x12, &V4),
            &header_2(0x21, 0x41, &V4),
            &header_2(0x21, 0x11, &V4[..11]),
            &header_2(0x21, 0x21, &v6()[..35]),
            &too_long,
        ] {
            assert_eq!(decode(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    proptest! {
        /// More bytes never change what was said, and nothing makes it panic.
        #[test]
        fn a_decision_is_final(
            start in prop_oneof![Just(&b""[..]), Just(PROXY), Just(SIGNATURE), Just(&b"PROXY TCP4 1.1.1.1 "[..])],
            tail in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, &tail].concat();
            let mut decided = None;
            for end in 0..=bytes.len() {
                let now = decode(&bytes[..end]);
                match decided {
                    None if now != Ok(Decoded::Part) => decided = Some(now),
                    None => {}
                    Some(before) => prop_assert_eq!(before, now),
                }
            }
        }
    }
}
