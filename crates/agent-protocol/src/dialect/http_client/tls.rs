//! What TLS to an agent is made of: the authorities, and who we are.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::HttpEndpoint;
use crate::TlsFiles;

/// The configuration for connections to an endpoint. Reads files, apart from
/// the runtime's thread.
///
/// # Errors
/// Names the file.
pub(super) async fn config(endpoint: &HttpEndpoint) -> io::Result<Arc<ClientConfig>> {
    if endpoint.url.scheme_str() != Some("https") {
        return read(None);
    }
    let tls = endpoint.tls.clone();
    // It does not panic, and nobody aborts it.
    tokio::task::spawn_blocking(move || read(Some(&tls))).await?
}

/// Without TLS the configuration is never used; it trusts nobody.
fn read(tls: Option<&TlsFiles>) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match tls {
        None => RootCertStore::empty(),
        Some(TlsFiles { ca: None, .. }) => system_roots()?,
        Some(TlsFiles { ca: Some(ca), .. }) => roots_of(ca)?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match tls.and_then(|tls| tls.identity.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| about(key, error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| about(certificate, error))?
        }
    };
    Ok(Arc::new(config))
}

/// Certificates that the library does not understand are passed over: systems
/// have some of those, and no connection can be made with them.
fn system_roots() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let why = found.errors.first().map(|error| format!(" ({error})"));
    let text = format!(
        "the system has no certificates of authorities{}",
        why.unwrap_or_default()
    );
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

fn roots_of(ca: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| about(ca, error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| about(path, error))?;
    match read.is_empty() {
        true => Err(about(path, "has no certificate in PEM")),
        false => Ok(read),
    }
}

fn about(path: &Path, problem: impl std::fmt::Display) -> io::Error {
    let text = format!("{}: {problem}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}
