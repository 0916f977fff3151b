//! TLS of the client: one server, whose certificate is known.

use crate::error::BenchError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{path::Path, sync::Arc};
use tokio_rustls::TlsConnector;

/// What the certificate of every server is for.
pub(crate) const SERVER_NAME: &str = "localhost";

/// The same, as the library has it.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("the name is one")
}

/// Connects to who shows the certificate in this file, for HTTP/2.
///
/// # Errors
/// The file holds no certificate.
pub(super) fn connector(certificate: &Path) -> Result<TlsConnector, BenchError> {
    let wrong = |error: &dyn std::fmt::Display| {
        BenchError::Usage(format!("{}: {error}", certificate.display()))
    };
    let shown = CertificateDer::from_pem_file(certificate).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(shown).map_err(|error| wrong(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
