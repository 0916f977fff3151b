//! TLS behind a client that does not speak it: what comes in is passed on within TLS.

use super::agent_ways::tls_file;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{net::SocketAddr, sync::Arc, thread};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsConnector;

/// What a listener says that shows the certificate of `agent.test`.
pub(crate) fn listener() -> String {
    let (certificate, key) = (tls_file("agent.pem"), tls_file("agent.key"));
    format!(
        "tls {{ certificate \"{}\" key=\"{}\" }}",
        certificate.display(),
        key.display()
    )
}

/// What an upstream says whose targets show the certificate of `agent.test` and speak HTTP/2.
pub(crate) fn upstream() -> String {
    let ca = tls_file("ca.pem");
    format!(
        "protocol \"h2\"; tls server-name=\"agent.test\" ca=\"{}\"",
        ca.display()
    )
}

/// A running tail. It ends when it is dropped, and its connections with it.
pub(crate) struct TlsTail {
    address: SocketAddr,
    _running: oneshot::Sender<()>,
}

impl TlsTail {
    /// Passes on to a server that shows the certificate of `agent.test` and agrees to this protocol.
    pub(crate) fn start(server: SocketAddr, protocol: &'static str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (running, ended) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, server, protocol) => {}
                    _ = ended => {}
                }
            });
            runtime.shutdown_background();
        });
        Self {
            address,
            _running: running,
        }
    }

    /// Where to connect without TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, protocol: &'static str) {
    let connector = TlsConnector::from(Arc::new(config(protocol)));
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let connector = connector.clone();
        tokio::spawn(async move {
            let behind = TcpStream::connect(server).await.unwrap();
            socket.set_nodelay(true).unwrap();
            behind.set_nodelay(true).unwrap();
            let name = ServerName::try_from("agent.test").unwrap();
            let Ok(mut stream) = connector.connect(name, behind).await else {
                return;
            };
            assert_eq!(
                stream.get_ref().1.alpn_protocol(),
                Some(protocol.as_bytes())
            );
            let _ = copy_bidirectional(&mut socket, &mut stream).await;
        });
    }
}

fn config(protocol: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(tls_file("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    config
}
