//! The handshake with a client, and what is known of a connection after it.

use super::{ClientCertificate, ListenerTls};
use crate::server::socket::Transport;
use rustls::{
    CertificateError, HandshakeKind, PeerIncompatible, ProtocolVersion, ServerConnection,
    server::Acceptor,
};
use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// What TLS says about a connection.
#[derive(Debug)]
pub(crate) struct TlsSession {
    /// As in `TLSv1.3`.
    pub(crate) version: &'static str,
    /// The name of the cipher suite, in the register of IANA.
    pub(crate) cipher: String,
    /// The name that the client has asked for, in lower case.
    pub(crate) server_name: Option<String>,
    /// Whether the client has come back with a ticket.
    pub(crate) resumed: bool,
    /// Whether both have settled on HTTP/2.
    pub(crate) http2: bool,
    pub(crate) client: Option<ClientCertificate>,
    /// What the listener was when the handshake was made.
    pub(crate) listener: Arc<ListenerTls>,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HandshakeFailure {
    /// Not complete within `timeouts` `tls-handshake`.
    Timeout,
    /// The client went away.
    Closed,
    /// The client speaks HTTP without TLS.
    PlainHttp,
    /// It speaks something else.
    NotTls,
    /// No version, cipher suite, group or signature that both know.
    NothingInCommon,
    /// The client offers protocols, and none of ours is among them.
    NoProtocol,
    /// The client has to show a certificate, and has none.
    NoClientCertificate,
    /// What it shows is not valid.
    InvalidClientCertificate,
    /// What it shows was valid once.
    ExpiredClientCertificate,
    /// The client has refused, our certificate most likely.
    RefusedByClient,
    /// The client does what TLS does not allow.
    Protocol,
}

impl HandshakeFailure {
    /// The name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::PlainHttp => "plain_http",
            Self::NotTls => "not_tls",
            Self::NothingInCommon => "nothing_in_common",
            Self::NoProtocol => "no_common_protocol",
            Self::NoClientCertificate => "client_certificate_missing",
            Self::InvalidClientCertificate => "client_certificate_invalid",
            Self::ExpiredClientCertificate => "client_certificate_expired",
            Self::RefusedByClient => "refused_by_client",
            Self::Protocol => "protocol_error",
        }
    }

    fn of(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|it| it.downcast_ref::<rustls::Error>());
        match tls {
            None => Self::Closed,
            Some(rustls::Error::PeerIncompatible(why)) => Self::incompatible(why),
            Some(rustls::Error::NoApplicationProtocol) => Self::NoProtocol,
            Some(rustls::Error::NoCertificatesPresented) => Self::NoClientCertificate,
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => Self::ExpiredClientCertificate,
            Some(rustls::Error::InvalidCertificate(_)) => Self::InvalidClientCertificate,
            Some(rustls::Error::AlertReceived(_)) => Self::RefusedByClient,
            Some(_) => Self::Protocol,
        }
    }

    const fn incompatible(_why: &PeerIncompatible) -> Self {
        Self::NothingInCommon
    }
}

/// A handshake that did not come to its end.
pub(crate) struct Failure {
    pub(crate) why: HandshakeFailure,
    /// In the words of the library.
    pub(crate) detail: String,
    /// The name that the client has asked for.
    pub(crate) server_name: Option<String>,
    /// Where the client can be told, because it does not expect TLS.
    pub(crate) transport: Option<Box<Transport>>,
}

impl Failure {
    fn new(why: HandshakeFailure) -> Self {
        Self {
            why,
            detail: String::new(),
            server_name: None,
            transport: None,
        }
    }

    fn of(error: &io::Error) -> Self {
        Self {
            detail: error.to_string(),
            ..Self::new(HandshakeFailure::of(error))
        }
    }
}

/// Makes a connection of TLS, until the deadline.
///
/// # Errors
/// Why there is none.
pub(crate) async fn handshake(
    transport: Transport,
    tls: &Arc<ListenerTls>,
    deadline: Instant,
) -> Result<(TlsStream<Transport>, TlsSession), Failure> {
    let shaken = timeout_at(deadline, shake_hands(transport, tls)).await;
    match shaken {
        Ok(Ok(shaken)) => Ok(shaken),
        Ok(Err(Broken { failure, left })) => {
            // It has its own time: the reason is known, whatever the deadline.
            if let Some(transport) = left {
                part(*transport).await;
            }
            Err(failure)
        }
        Err(_) => Err(Failure::new(HandshakeFailure::Timeout)),
    }
}

/// A handshake that did not come to its end, and the connection if the client may not know yet.
struct Broken {
    failure: Failure,
    left: Option<Box<Transport>>,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            left: None,
        }
    }
}

async fn shake_hands(
    mut transport: Transport,
    tls: &Arc<ListenerTls>,
) -> Result<(TlsStream<Transport>, TlsSession), Broken> {
    /// The type of the record that every client begins with (RFC 8446 section 5.1).
    const HANDSHAKE: u8 = 22;
    let first = transport.peek_byte().await;
    match first.map_err(|error| Failure::of(&error))? {
        None => return Err(Failure::new(HandshakeFailure::Closed).into()),
        Some(HANDSHAKE) => {}
        Some(byte) => {
            // Requests begin with the name of a method.
            let is_http = byte.is_ascii_uppercase();
            let mut failure = Failure::new(match is_http {
                true => HandshakeFailure::PlainHttp,
                false => HandshakeFailure::NotTls,
            });
            failure.transport = is_http.then(|| Box::new(transport));
            return Err(failure.into());
        }
    }
    let start = LazyConfigAcceptor::new(Acceptor::default(), transport).await;
    let start = start.map_err(|error| Failure::of(&error))?;
    let hello = start.client_hello();
    let asked_for = hello.server_name().map(str::to_ascii_lowercase);
    let accepted = start.into_stream(tls.server.clone()).into_fallible().await;
    let failed = |failure: Failure| Failure {
        server_name: asked_for.clone(),
        ..failure
    };
    let stream = match accepted {
        Ok(stream) => stream,
        Err((error, transport)) => {
            return Err(Broken {
                failure: failed(Failure::of(&error)),
                left: Some(Box::new(transport)),
            });
        }
    };
    let session = TlsSession::of(stream.get_ref().1, asked_for.clone(), tls.clone())
        .map_err(|why| failed(Failure::new(why)))?;
    Ok((stream, session))
}

/// Lets the client read why there is no connection. What it has sent behind its handshake would make a reset of the end, and a
/// reset takes away what is not read yet.
async fn part(mut transport: Transport) {
    /// It has this long to read and to go.
    const LONGEST: Duration = Duration::from_millis(500);
    const MOST: usize = 64 << 10;
    // Whatever goes wrong here, the client is not served.
    let read = async {
        let _ = transport.shutdown().await;
        let mut left = MOST;
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = transport.read(&mut piece).await
            && count <= left
        {
            left -= count;
        }
    };
    let _ = timeout(LONGEST, read).await;
}

impl TlsSession {
    fn of(
        connection: &ServerConnection,
        server_name: Option<String>,
        listener: Arc<ListenerTls>,
    ) -> Result<Self, HandshakeFailure> {
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let client = match shown {
            None => None,
            Some(shown) => {
                let client = ClientCertificate::read(shown);
                Some(client.ok_or(HandshakeFailure::InvalidClientCertificate)?)
            }
        };
        // Who comes back with a ticket has not shown it again.
        if client
            .as_ref()
            .is_some_and(|it| it.expires < SystemTime::now())
        {
            return Err(HandshakeFailure::ExpiredClientCertificate);
        }
        Ok(Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .map_or_else(String::new, registered),
            server_name,
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            http2: connection.alpn_protocol() == Some(b"h2"),
            client,
            listener,
        })
    }

    /// Whether a request for this host belongs here: on a connection whose client may have shown who it is, only one for the
    /// name that the connection was made for.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let asked_for = self.server_name.as_deref();
        !self.listener.asks_clients()
            || asked_for.is_none_or(|name| name == host) && self.listener.covers(asked_for, host)
    }
}

/// The library has names of its own for those of TLS 1.3.
fn registered(name: &str) -> String {
    match name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => name.to_owned(),
    }
}
