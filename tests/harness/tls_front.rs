//! TLS in front of an origin: shows a certificate, remembers what it was shown, and passes on what is in it.

use super::agent_ways::tls_file;
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
};
use tokio::{
    io::{AsyncWriteExt, copy, copy_bidirectional, split},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

/// How a front behaves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// What it agrees to, the first that a client offers; none: it says nothing about protocols.
    pub(crate) protocols: &'static [&'static str],
    /// Whether it wants a certificate that `ca.pem` has signed.
    pub(crate) wants_certificate: bool,
    /// Whether its end is that of the TCP connection, without a word within TLS.
    pub(crate) ends_silently: bool,
}

/// A handshake that came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) server_name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) has_certificate: bool,
    /// Whether it goes on from an earlier one.
    pub(crate) is_resumed: bool,
}

/// A running front. It ends when it is dropped, and its connections with it.
pub(crate) struct TlsFront {
    address: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    _running: oneshot::Sender<()>,
}

impl TlsFront {
    /// Shows the certificate of `agent.test` and of 127.0.0.1.
    pub(crate) fn start(origin: SocketAddr, manner: Manner) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::default());
        let (running, ended) = oneshot::channel();
        let acceptor = TlsAcceptor::from(Arc::new(config(manner)));
        let seen = handshakes.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, acceptor, origin, manner, seen) => {}
                    _ = ended => {}
                }
            });
            runtime.shutdown_background();
        });
        Self {
            address,
            handshakes,
            _running: running,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The handshakes that came about so far.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    origin: SocketAddr,
    manner: Manner,
    seen: Arc<Mutex<Vec<Handshake>>>,
) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        // Windows of HTTP/2 are small, and the other side waits for them.
        socket.set_nodelay(true).unwrap();
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(socket).await else {
                return;
            };
            let (_, connection) = stream.get_ref();
            let protocol = connection.alpn_protocol();
            seen.lock().unwrap().push(Handshake {
                server_name: connection.server_name().map(str::to_owned),
                protocol: protocol.map(|name| String::from_utf8(name.to_vec()).unwrap()),
                has_certificate: connection.peer_certificates().is_some(),
                is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            });
            let mut behind = TcpStream::connect(origin).await.unwrap();
            behind.set_nodelay(true).unwrap();
            if manner.ends_silently {
                let (mut reading, mut writing) = split(stream);
                let (mut from_origin, mut to_origin) = behind.into_split();
                tokio::select! {
                    _ = copy(&mut reading, &mut to_origin) => {}
                    _ = copy(&mut from_origin, &mut writing) => {}
                }
                // Everything goes out, and then nothing is said.
                let _ = writing.flush().await;
            } else {
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            }
        });
    }
}

fn config(manner: Manner) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ClientCertVerifier> = if manner.wants_certificate {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(tls_file("ca.pem")).unwrap())
            .unwrap();
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .unwrap()
    } else {
        Arc::new(NoClientAuth)
    };
    let chain = CertificateDer::pem_file_iter(tls_file("agent.pem")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_file(tls_file("agent.key")).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = manner
        .protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    config
}
