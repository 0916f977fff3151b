//! The PROXY protocol towards targets: what a connection begins with so that its target knows whose it is.
//!
//! Such a connection belongs to one client. It is kept for the next request of the same client on the same connection of
//! theirs, and never used for another: its group key is made of what its header says.

use async_trait::async_trait;
use pingora::{
    Error,
    ErrorType::{ConnectError, ConnectRefused, WriteError},
    OrErr, Result,
    connectors::L4Connect,
    protocols::l4::{ext, socket::SocketAddr as PeerAddress, stream::Stream},
};
use portcullis_config::ProxyProtocol;
use std::{
    hash::{BuildHasher, RandomState},
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};
use tokio::{io::AsyncWriteExt, net::UnixStream};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// The bytes of a header.
pub(super) fn header(version: ProxyProtocol, ends: Ends) -> Vec<u8> {
    let (client, local) = one_family(ends);
    match version {
        ProxyProtocol::V1 => text(client, local),
        ProxyProtocol::V2 => binary(client, local),
    }
}

/// The header of a connection that is nobody's but the proxy's: its target takes the real ends for the client's.
pub(super) fn of_our_own(version: ProxyProtocol) -> Vec<u8> {
    /// Version 2, a connection for the proxy itself.
    const LOCAL: u8 = 0x20;
    match version {
        ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        // Neither family nor addresses follow.
        ProxyProtocol::V2 => [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat(),
    }
}

/// Connections with different headers must have different keys, whatever clients do to their ports and addresses.
pub(super) fn group_key(base: u64, header: &[u8]) -> u64 {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    HASHER.hash_one((base, header))
}

fn text(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        client.ip(),
        local.ip(),
        client.port(),
        local.port()
    )
    .into_bytes()
}

fn binary(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    /// Version 2, a connection made for somebody else.
    const PROXIED: u8 = 0x21;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let mut bytes = SIGNATURE.to_vec();
    bytes.push(PROXIED);
    let (family, length) = match client.ip() {
        IpAddr::V4(_) => (TCP_OVER_IPV4, 12_u16),
        IpAddr::V6(_) => (TCP_OVER_IPV6, 36),
    };
    bytes.push(family);
    bytes.extend(length.to_be_bytes());
    for end in [client, local] {
        match end.ip() {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes
}

/// A header has addresses of one family; a proxy in between may have named a client of the other.
fn one_family(ends: Ends) -> (SocketAddr, SocketAddr) {
    let Ends { client, local } = ends;
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local);
    }
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    (mapped(client), mapped(local))
}

/// Makes connections that begin with a header. Pingora bounds the time that it takes.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) header: Vec<u8>,
}

#[async_trait]
impl L4Connect for Introduced {
    async fn connect(&self, address: &PeerAddress) -> Result<Stream> {
        match address {
            PeerAddress::Inet(address) => {
                let mut stream = ext::connect(address, None).await?;
                // Before anything else it fits into an empty buffer, and goes out with one packet.
                stream
                    .write_all(&self.header)
                    .await
                    .or_err(WriteError, SENDING)?;
                Ok(stream.into())
            }
            PeerAddress::Unix(address) => {
                let path = address.as_pathname().unwrap_or("".as_ref());
                let mut stream = UnixStream::connect(path).await.map_err(|error| {
                    let kind = match error.kind() {
                        ErrorKind::ConnectionRefused => ConnectRefused,
                        _ => ConnectError,
                    };
                    Error::because(kind, path.display().to_string(), error)
                })?;
                stream
                    .write_all(&self.header)
                    .await
                    .or_err(WriteError, SENDING)?;
                Ok(stream.into())
            }
        }
    }
}

const SENDING: &str = "sending the PROXY header";

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, local: &str) -> Ends {
        Ends {
            client: client.parse().unwrap(),
            local: local.parse().unwrap(),
        }
    }

    #[test]
    fn headers_are_as_the_specification_has_them() {
        let v4 = ends("192.0.2.7:40000", "198.51.100.1:443");
        let v6 = ends("[2001:db8::7]:40000", "[2001:db8::1]:443");
        let mixed = ends("192.0.2.7:0", "[2001:db8::1]:443");
        let line = |ends| String::from_utf8(header(ProxyProtocol::V1, ends)).unwrap();
        assert_eq!(line(v4), "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n");
        assert_eq!(line(v6), "PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n");
        assert_eq!(
            line(mixed),
            "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 0 443\r\n"
        );
        let own = String::from_utf8(of_our_own(ProxyProtocol::V1)).unwrap();
        assert_eq!(own, "PROXY UNKNOWN\r\n");
        assert_eq!(
            of_our_own(ProxyProtocol::V2),
            b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
        );
        let expected =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x01\xbb";
        assert_eq!(header(ProxyProtocol::V2, v4), expected);
        let binary = header(ProxyProtocol::V2, v6);
        assert_eq!(&binary[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(binary.len(), 16 + 36);
        assert_eq!(binary[48..], [0x9c, 0x40, 0x01, 0xbb]);
    }

    #[test]
    fn whoever_differs_has_another_group() {
        let of = |client: &str| {
            let ends = ends(client, "198.51.100.1:443");
            group_key(7, &header(ProxyProtocol::V2, ends))
        };
        assert_eq!(of("192.0.2.7:1"), of("192.0.2.7:1"));
        assert_ne!(of("192.0.2.7:1"), of("192.0.2.7:2"));
        assert_ne!(of("192.0.2.7:1"), of("192.0.2.8:1"));
    }
}
