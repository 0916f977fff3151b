//! A certificate that a listener shows, with its key and what is written in it.

use super::{
    files::{self, TlsError},
    names::Names,
};
use portcullis_config::{ListenerCertificate, Place};
use rustls::{InconsistentKeys, crypto::CryptoProvider, sign::CertifiedKey};
use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, time::ASN1Time};

/// See the module.
pub(crate) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// Those that it is shown for.
    pub(super) names: Names,
    /// When it ends.
    pub(super) expires: SystemTime,
    /// When it begins.
    pub(super) begins: SystemTime,
    /// Where it is from.
    pub(super) file: PathBuf,
    /// Where it is named.
    pub(super) place: Place,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read, or the two do not belong together.
    pub(super) fn load(
        config: &ListenerCertificate,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        Self::read(config, provider).map_err(|error| error.at(&config.place))
    }

    fn read(config: &ListenerCertificate, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let file = &config.certificate;
        let chain = files::certificates(file)?;
        let facts = chain.first().map(|first| Facts::read(first));
        let facts = facts
            .flatten()
            .ok_or_else(|| TlsError::of(file, "the first certificate in it cannot be read"))?;
        let private = files::key(&config.key)?;
        let mut key =
            CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::of(
                    &config.key,
                    format!("is not the key of the certificate in {}", file.display()),
                ),
                rustls::Error::InvalidCertificate(_) => TlsError::of(file, error),
                // The library says no more than that, and nothing of the key.
                _ => TlsError::of(&config.key, "this key cannot be used for TLS"),
            })?;
        if let Some(ocsp) = &config.ocsp {
            key.ocsp = Some(files::ocsp(ocsp)?);
        }
        let names = match &config.server_name {
            Some(name) => Names::new([name.clone()], Vec::new()),
            None => facts.names,
        };
        Ok(Self {
            key: Arc::new(key),
            names,
            expires: facts.expires,
            begins: facts.begins,
            file: file.clone(),
            place: config.place.clone(),
        })
    }
}

/// What is written in a certificate.
struct Facts {
    names: Names,
    expires: SystemTime,
    begins: SystemTime,
}

impl Facts {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let mut dns = Vec::new();
        let mut ips = Vec::new();
        for name in alternative_names(&certificate) {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                _ => {}
            }
        }
        let validity = certificate.validity();
        Some(Self {
            names: Names::new(dns, ips),
            expires: time(validity.not_after),
            begins: time(validity.not_before),
        })
    }
}

/// Its other names; the subject is none (RFC 9525 section 2).
pub(super) fn alternative_names<'a, 'b>(
    certificate: &'b X509Certificate<'a>,
) -> &'b [GeneralName<'a>] {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.map_or(&[], |extension| extension.value.general_names.as_slice())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Times before 1970 are as over as any.
pub(super) fn time(time: ASN1Time) -> SystemTime {
    let since = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since)
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
