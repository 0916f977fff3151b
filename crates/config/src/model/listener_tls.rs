//! `tls { … }` of a listener: what it shows of itself, and what it wants to see of clients.

use super::Place;
use std::path::PathBuf;

/// TLS with clients.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTls {
    /// What the listener shows of itself; never empty. The first is for clients that ask for no name, or for one that
    /// none of them has.
    pub certificates: Vec<ListenerCertificate>,
    /// The oldest version that is spoken. Default 1.2.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is offered beside HTTP/1.1 (ALPN). Default true.
    pub http2: bool,
    /// What clients have to show of themselves. `None`, the default: nothing.
    pub client_auth: Option<ClientAuth>,
}

/// A certificate with its key. The files are read at the start and at every reload.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerCertificate {
    /// PEM file with the certificate, its chain after it.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
    /// The name that it is shown for, in lower case, perhaps with `*.` in front. `None`: those in the certificate.
    pub server_name: Option<String>,
    /// File with an OCSP response (DER) about it, which is handed to clients.
    pub ocsp: Option<PathBuf>,
    /// Where it is written.
    pub place: Place,
}

/// A version of TLS. Older ones are not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What clients have to show of themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientAuth {
    /// A client without a certificate is turned away. What is shown has to be valid in any case.
    pub required: bool,
    /// PEM file with the authorities that may have signed it.
    pub ca: PathBuf,
    /// Where it is written.
    pub place: Place,
}
