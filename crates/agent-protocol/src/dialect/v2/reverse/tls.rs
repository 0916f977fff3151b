//! Agents that dial over TLS: who the proxy says it is, and whose certificates
//! it accepts.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::tls::{about, identity, provider, roots_of};
use crate::transport::tune;

/// What a proxy shows to agents that dial it over TLS, and what they have to
/// show. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReverseTlsFiles {
    /// The proxy's certificate, its chain after it.
    pub certificate: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
    /// The authorities that must have signed the certificate of an agent.
    pub ca: PathBuf,
}

/// The same, read. Clones are the same.
#[derive(Clone)]
pub struct ReverseTls(Arc<RwLock<Arc<Loaded>>>);

struct Loaded {
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ReverseTls {
    /// Reads the files. This blocks.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub fn read(files: &ReverseTlsFiles) -> io::Result<Self> {
        let roots = roots_of(&files.ca)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| about(&files.ca, error))?;
        let (chain, key) = identity(&files.certificate, &files.key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain, key)
            .map_err(|error| about(&files.certificate, error))?;
        // Each connection has to show its certificate, for what was accepted
        // before may be so no longer.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let loaded = Arc::new(Loaded { config, verifier });
        Ok(Self(Arc::new(RwLock::new(loaded))))
    }

    /// Is from now on what the other is.
    pub fn become_like(&self, other: &Self) {
        let loaded = other.loaded();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Vec<CertificateDer<'static>>)> {
        tune(&stream)?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.loaded().config));
        let stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let shown = shown.map(<[_]>::to_vec).unwrap_or_default();
        Ok((stream.into(), shown))
    }

    /// Whether somebody who shows this would be let in now.
    pub(super) fn trusts(&self, shown: &[CertificateDer<'_>]) -> bool {
        let Some((certificate, chain)) = shown.split_first() else {
            return false;
        };
        let verifier = &self.loaded().verifier;
        verifier
            .verify_client_cert(certificate, chain, UnixTime::now())
            .is_ok()
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for ReverseTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReverseTls").finish_non_exhaustive()
    }
}

/// Whether a certificate is for this name: a DNS name, or a URI when it has a
/// scheme. A wildcard is for no name, since it would be for several agents.
pub(super) fn is_named(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return false;
    };
    match name.contains("://") {
        true => certificate.valid_uri_names().any(|it| it == name),
        false => certificate
            .valid_dns_names()
            .any(|it| it.eq_ignore_ascii_case(name)),
    }
}
