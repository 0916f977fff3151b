//! PEM files of certificates and keys, on both sides of the proxy. What is wrong with one is said with its name, and never with what is in it.

use portcullis_config::{ListenerId, Place};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// More is in no file of certificates that anybody wrote.
const MOST_BYTES: u64 = 4 << 20;

/// Why TLS of a listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) struct TlsError {
    listener: Option<ListenerId>,
    place: Option<Place>,
    file: Option<PathBuf>,
    problem: String,
}

impl TlsError {
    pub(super) fn of(file: &Path, problem: impl fmt::Display) -> Self {
        Self {
            listener: None,
            place: None,
            file: Some(file.to_owned()),
            problem: problem.to_string(),
        }
    }

    pub(super) fn library(problem: &rustls::Error) -> Self {
        Self {
            listener: None,
            place: None,
            file: None,
            problem: problem.to_string(),
        }
    }

    /// Where the file is named.
    pub(super) fn at(self, place: &Place) -> Self {
        let place = Some(place.clone());
        Self { place, ..self }
    }

    pub(super) fn of_listener(self, listener: &ListenerId) -> Self {
        let listener = Some(listener.clone());
        Self { listener, ..self }
    }
}

/// As in `conf.kdl:3:9: listener "https": certs/a.pem: has no certificate in PEM`.
impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(listener) = &self.listener {
            write!(f, "listener \"{listener}\": ")?;
        }
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        f.write_str(&self.problem)
    }
}

/// The certificates of a file, in their order; there is at least one.
///
/// # Errors
/// Names the file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::of(path, pem_problem(&error)))?;
    match found.is_empty() {
        true => Err(TlsError::of(path, "has no certificate in PEM")),
        false => Ok(found),
    }
}

/// The first key of a file.
///
/// # Errors
/// Names the file.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(_) if is_encrypted(&text) => Err(TlsError::of(
            path,
            "the key is encrypted, and there is nobody to ask for its password: store it without, readable to this user alone",
        )),
        Err(pem::Error::NoItemsFound) => Err(TlsError::of(path, "has no private key in PEM")),
        Err(error) => Err(TlsError::of(path, pem_problem(&error))),
    }
}

/// All bytes of a file, whatever it is.
///
/// # Errors
/// Names the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let of = |error: io::Error| TlsError::of(path, error);
    // To open something else may take for ever.
    if !path.metadata().map_err(of)?.is_file() {
        return Err(TlsError::of(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(of)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(of)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(TlsError::of(path, "is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn is_encrypted(text: &[u8]) -> bool {
    let marks: [&[u8]; 2] = [b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    let holds = |mark: &[u8]| memchr::memmem::find(text, mark).is_some();
    marks.into_iter().any(holds)
}

/// The library's own texts may quote the file.
const fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section of PEM has no end",
        pem::Error::IllegalSectionStart { .. } => "a section of PEM begins wrongly",
        pem::Error::Base64Decode(_) => "a section of PEM is not base64",
        pem::Error::NoItemsFound => "has nothing in PEM",
        _ => "is not PEM",
    }
}

/// An OCSP response, which has no form in PEM. What is in it is between the authority and the client.
///
/// # Errors
/// Names the file.
pub(super) fn ocsp(path: &Path) -> Result<Vec<u8>, TlsError> {
    /// The tag of a SEQUENCE, which every response begins with (RFC 6960 section 4.2.1).
    const SEQUENCE: u8 = 0x30;
    let response = read(path)?;
    match response.first() {
        Some(&SEQUENCE) => Ok(response),
        _ => Err(TlsError::of(path, "is not an OCSP response in DER")),
    }
}
