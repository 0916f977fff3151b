//! Channels of gRPC: from where an agent is to something that calls can be
//! made on.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::ConnectError;
use crate::codec::frame::MAX_FRAME_BYTES;
use crate::tls;

/// The largest message of gRPC that is sent or accepted: what a frame over a
/// Unix socket may have, and something for the fields around a body.
pub(crate) const MAX_MESSAGE_BYTES: usize = MAX_FRAME_BYTES + (64 << 10);

/// How much may be under way on a stream before its reader has taken it, and on
/// a connection. The 64 KiB of the standard would make large bodies wait for
/// the other end again and again.
pub(crate) const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// How long a peer may take to answer a ping of HTTP/2, or a probe of TCP.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// After how long without traffic the kernel probes a connection.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where an agent speaks gRPC, and how the two ends recognise each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcEndpoint {
    /// Scheme, host and port, as in `https://agents.example.com:50051`.
    pub url: String,
    /// Means something only with `https`.
    pub tls: TlsFiles,
    /// How long nothing may come before a ping of HTTP/2 asks whether the
    /// agent is there, also while no call is under way. Many servers (those
    /// on grpc-go and grpc-core) end connections that ping more often than
    /// every five minutes, so `None` unless the server is known to take it.
    pub keep_alive: Option<Duration>,
}

/// How the two ends of a connection recognise each other. The files are read
/// at every connecting, so that new ones are taken up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// PEM file with the authorities that may have signed the agent's
    /// certificate. `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The name that the agent's certificate must have. `None`: the host of
    /// the URL.
    pub server_name: Option<String>,
    /// PEM files with our certificate, its chain after it, and with its key,
    /// for agents that want to know who calls.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Connects. This has no deadline but that of the TCP connection and of the
/// TLS handshake, which get `connect_timeout` each.
///
/// # Errors
/// [`ConnectError::Unreachable`], which names the file when one is at fault.
pub(crate) async fn connect(
    endpoint: &GrpcEndpoint,
    connect_timeout: Duration,
) -> Result<Channel, ConnectError> {
    let configured = configure(endpoint, connect_timeout).await;
    let configured = configured.map_err(ConnectError::Unreachable)?;
    let connected = configured.connect().await;
    connected.map_err(|error| ConnectError::Unreachable(io::Error::other(reasons(&error))))
}

/// What calls are made with: bounded messages, no compression.
pub(crate) fn client(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// An error with everything that led to it, each said once: tonic's own texts
/// do not say more than that there was one.
pub(crate) fn reasons(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let reason = error.to_string();
        if !text.contains(&reason) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{reason}");
        }
        next = error.source();
    }
    text
}

async fn configure(endpoint: &GrpcEndpoint, connect_timeout: Duration) -> io::Result<Endpoint> {
    let invalid = |error: tonic::transport::Error| {
        let reason = format!("{}: {}", endpoint.url, reasons(&error));
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    };
    let mut configured = Endpoint::from_shared(endpoint.url.clone())
        .map_err(invalid)?
        .connect_timeout(connect_timeout)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .tcp_keepalive(Some(TCP_KEEP_ALIVE))
        .tcp_keepalive_interval(Some(KEEP_ALIVE_TIMEOUT));
    if let Some(interval) = endpoint.keep_alive {
        configured = configured
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
    }
    if endpoint.url.starts_with("https:") {
        let tls = client_tls(&endpoint.tls).await?.timeout(connect_timeout);
        configured = configured.tls_config(tls).map_err(invalid)?;
    }
    Ok(configured)
}

async fn client_tls(files: &TlsFiles) -> io::Result<ClientTlsConfig> {
    let mut tls = ClientTlsConfig::new();
    tls = match &files.ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(certificates(path).await?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &files.identity {
        tls = tls.identity(identity(certificate, key).await?);
    }
    Ok(match &files.server_name {
        Some(name) => tls.domain_name(name),
        None => tls,
    })
}

/// A PEM file with a certificate and its chain, and one with the key.
///
/// # Errors
/// Names the file that cannot be read or has no such thing in it.
pub(crate) async fn identity(certificate: &Path, key: &Path) -> io::Result<Identity> {
    let chain = certificates(certificate).await?;
    let pem = read(key).await?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| about(key, "has no private key in PEM"))?;
    Ok(Identity::from_pem(chain, pem))
}

/// A PEM file with at least one certificate.
///
/// # Errors
/// Names the file.
pub(crate) async fn certificates(path: &Path) -> io::Result<Vec<u8>> {
    let pem = read(path).await?;
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|_| about(path, "has something in it that is not PEM"))?;
        found += 1;
    }
    match found {
        0 => Err(about(path, "has no certificate in PEM")),
        _ => Ok(pem),
    }
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || tls::read(&path)).await;
    read.map_err(io::Error::other)?
}

fn about(path: &Path, problem: &str) -> io::Error {
    let text = format!("{}: {problem}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (absent, empty) = (folder.path().join("absent"), folder.path().join("empty"));
        std::fs::write(&empty, "nothing\n").unwrap();
        let large = folder.path().join("large");
        let file = std::fs::File::create(&large).unwrap();
        file.set_len(5 << 20).unwrap();
        for (path, problem) in [
            (absent, "No such file"),
            (empty, "no certificate in PEM"),
            (folder.path().to_owned(), "not a regular file"),
            (large, "larger than 4 MiB"),
        ] {
            let tls = TlsFiles {
                ca: Some(path.clone()),
                ..TlsFiles::default()
            };
            let endpoint = GrpcEndpoint {
                url: "https://127.0.0.1:1".to_owned(),
                tls,
                keep_alive: None,
            };
            let error = connect(&endpoint, Duration::from_secs(1))
                .await
                .unwrap_err();
            let error = error.to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(error.contains(problem), "{error}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_named_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let endpoint = GrpcEndpoint {
            url: format!("http://{address}"),
            tls: TlsFiles::default(),
            keep_alive: None,
        };
        let error = connect(&endpoint, Duration::from_secs(1))
            .await
            .unwrap_err();
        let error = error.to_string();
        assert_eq!(error.matches("refused").count(), 1, "{error}");
    }
}
