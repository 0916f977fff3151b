//! What frames go over. The rules of HTTP/2 are the same for all of it, and so are the tests.

use crate::harness::{
    Authority, Proxy, Response, TestCertificate,
    frames::FrameClient,
    proxy::Builder,
    tls::{Connector, Stream},
};
use std::{net::SocketAddr, ops::Deref};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// TCP alone, whose clients know what the proxy speaks.
    Plain,
    /// TLS 1.3, in which both sides agree to speak HTTP/2.
    Tls,
}

/// A proxy whose listener `http` is reached that way.
pub(super) struct Served {
    proxy: Proxy,
    tls: Option<Tls>,
}

struct Tls {
    certificate: TestCertificate,
    connector: Connector,
}

impl Transport {
    /// Starts a proxy. That its listener takes frames without TLS is written as for any other test.
    pub(super) fn start(self, builder: Builder) -> Served {
        let tls = (self == Self::Tls).then(|| {
            let authority = Authority::new("servers");
            Tls {
                certificate: authority.server(&["test"]),
                connector: authority
                    .connector_speaking(&rustls::version::TLS13)
                    .offering(&["h2", "http/1.1"]),
            }
        });
        let proxy = match &tls {
            None => builder.start(),
            Some(tls) => builder.tls_in_place_of_h2c(&tls.certificate).start(),
        };
        Served { proxy, tls }
    }
}

impl Served {
    /// See [`FrameClient::connect`].
    pub(super) fn connect(&self) -> FrameClient {
        self.silent().begun()
    }

    /// See [`FrameClient::with_preface`].
    pub(super) fn with_preface(&self) -> FrameClient {
        self.silent().greeting()
    }

    /// A connection whose client has said nothing, of HTTP/2 at least.
    pub(super) fn silent(&self) -> FrameClient {
        let address = self.address_of("http");
        match &self.tls {
            None => FrameClient::silent(address),
            Some(tls) => FrameClient::over(handshake(address, &tls.connector)),
        }
    }

    /// Asks for a path over HTTP/1.1, on a connection of its own.
    pub(super) fn get(&self, path: &str) -> Response {
        match &self.tls {
            None => self.proxy.get(path),
            Some(tls) => {
                let connector = tls.connector.offering(&[]);
                connector.get(self.address_of("http"), path)
            }
        }
    }

    /// See [`Proxy::reload`].
    pub(super) fn reload(&self, builder: Builder) {
        self.proxy.reload(&match &self.tls {
            None => builder,
            Some(tls) => builder.tls_in_place_of_h2c(&tls.certificate),
        });
    }
}

fn handshake(address: SocketAddr, connector: &Connector) -> Stream {
    let stream = connector.handshake(address, "test").unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    stream
}

impl Deref for Served {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

/// Makes tests of these functions, one for each transport.
macro_rules! over_every_transport {
    ($($name:ident),+ $(,)?) => {
        mod plain {
            $(#[test] fn $name() { super::$name($crate::http2::transport::Transport::Plain); })+
        }
        mod tls {
            $(#[test] fn $name() { super::$name($crate::http2::transport::Transport::Tls); })+
        }
    };
}

pub(super) use over_every_transport;
