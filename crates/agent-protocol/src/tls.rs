//! What TLS is made of that rustls speaks: authorities, and who we are. All
//! of it reads files and blocks.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::TlsFiles;

/// More is in no file of certificates that anybody wrote.
const MOST_BYTES: u64 = 4 << 20;

/// How the other end is recognised, and what it is shown. Without TLS the
/// configuration is never used; it trusts nobody.
///
/// # Errors
/// Names the file.
pub(crate) fn client_config(tls: Option<&TlsFiles>) -> io::Result<Arc<ClientConfig>> {
    let roots = match tls {
        None => RootCertStore::empty(),
        Some(TlsFiles { ca: None, .. }) => system_roots()?,
        Some(TlsFiles { ca: Some(ca), .. }) => roots_of(ca)?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match tls.and_then(|tls| tls.identity.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (chain, private) = identity(certificate, key)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| about(certificate, error))?
        }
    };
    Ok(Arc::new(config))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate with its chain, and its key.
///
/// # Errors
/// Names the file.
pub(crate) fn identity(
    certificate: &Path,
    key: &Path,
) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?);
    Ok((chain, private.map_err(|error| about(key, error))?))
}

/// The authorities in a file.
///
/// # Errors
/// Names the file.
pub(crate) fn roots_of(ca: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| about(ca, error))?;
    }
    Ok(roots)
}

/// Says which file a problem is about.
pub(crate) fn about(path: &Path, problem: impl std::fmt::Display) -> io::Error {
    let text = format!("{}: {problem}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
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

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = read(path)?;
    let found = CertificateDer::pem_slice_iter(&text);
    let found: Vec<_> = found
        .collect::<Result<_, _>>()
        .map_err(|error| about(path, error))?;
    match found.is_empty() {
        true => Err(about(path, "has no certificate in PEM")),
        false => Ok(found),
    }
}

/// A file in PEM.
///
/// # Errors
/// Names the file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let named = |error: io::Error| {
        let text = format!("{}: {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    // To open something else may take for ever.
    if !path.metadata().map_err(named)?.is_file() {
        return Err(about(path, "is not a regular file"));
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(named)?;
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(named)?;
    match text.len() as u64 > MOST_BYTES {
        true => Err(about(path, "is larger than 4 MiB")),
        false => Ok(text),
    }
}
