//! TLS towards targets: what an upstream's files hold, read once for all connections that are made with it.

use crate::server::tls::files;
use base64::{Engine, prelude::BASE64_STANDARD};
use pingora::{
    upstreams::peer::{HttpPeer, Scheme},
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use portcullis_config::UpstreamTls;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::{
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What every TLS connection of an upstream is made with.
#[derive(Debug)]
pub(crate) struct Profile {
    server_name: String,
    /// `None`: those that Pingora has read from the system when the process was started.
    ca: Option<Arc<[WrappedX509]>>,
    identity: Option<Arc<CertKey>>,
    verifies: bool,
    /// Another one as soon as anything of this is another.
    fingerprint: u64,
}

impl Profile {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what helps.
    pub(crate) fn read(tls: &UpstreamTls) -> Result<Self, String> {
        let mut hasher = DefaultHasher::new();
        // Without a name Pingora would verify nothing, so that it is asked for once more where that would happen.
        if tls.server_name.is_empty() {
            return Err("tls has no server-name".to_owned());
        }
        ServerName::try_from(tls.server_name.as_str())
            .map_err(|_| format!("`{}` cannot be the name of a server", tls.server_name))?;
        (&tls.server_name, tls.insecure_skip_verify).hash(&mut hasher);
        let ca = match &tls.ca {
            Some(path) => Some(authorities(path, &mut hasher)?),
            None => {
                system_authorities()?;
                None
            }
        };
        let identity = match &tls.identity {
            Some((certificate, key)) => Some(identity(certificate, key, &mut hasher)?),
            None => None,
        };
        Ok(Self {
            server_name: tls.server_name.clone(),
            ca,
            identity,
            verifies: !tls.insecure_skip_verify,
            fingerprint: hasher.finish(),
        })
    }

    pub(super) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Has connections to this peer made with TLS.
    pub(super) fn apply(&self, peer: &mut HttpPeer) {
        peer.scheme = Scheme::HTTPS;
        peer.sni.clone_from(&self.server_name);
        peer.client_cert_key.clone_from(&self.identity);
        peer.options.ca.clone_from(&self.ca);
        peer.options.verify_cert = self.verifies;
        peer.options.verify_hostname = self.verifies;
    }
}

/// Writes the authorities of the system into a file in this folder, for Pingora, which would panic at those that it cannot read
/// and at a file or folder of the environment that is not there.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_authorities(folder: &Path) -> io::Result<PathBuf> {
    let Authorities { usable, .. } = &*OF_THE_SYSTEM;
    let mut pem = String::new();
    for certificate in usable {
        pem += "-----BEGIN CERTIFICATE-----\n";
        let text = BASE64_STANDARD.encode(certificate);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            pem += line;
            pem += "\n";
            rest = more;
        }
        pem += "-----END CERTIFICATE-----\n";
    }
    let path = folder.join("authorities.pem");
    std::fs::write(&path, pem)?;
    Ok(path)
}

/// The authorities of the system.
struct Authorities {
    /// Those that are understood.
    usable: Vec<CertificateDer<'static>>,
    /// What went wrong first.
    problem: Option<String>,
}

/// Read once: Pingora has those that there were at the start, whatever becomes of them.
static OF_THE_SYSTEM: LazyLock<Authorities> = LazyLock::new(|| {
    let mut found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    found
        .certs
        .retain(|certificate| roots.add(certificate.clone()).is_ok());
    Authorities {
        usable: found.certs,
        problem: found.errors.first().map(ToString::to_string),
    }
});

/// Whether there are any.
fn system_authorities() -> Result<(), String> {
    let Authorities { usable, problem } = &*OF_THE_SYSTEM;
    if !usable.is_empty() {
        return Ok(());
    }
    let why = problem.as_ref().map(|problem| format!(" ({problem})"));
    Err(format!(
        "the system has no certificates of authorities{}: install them (Debian: ca-certificates), name a file of them in \
         SSL_CERT_FILE, or write `ca=\"…\"`",
        why.unwrap_or_default()
    ))
}

fn authorities(path: &Path, hasher: &mut impl Hasher) -> Result<Arc<[WrappedX509]>, String> {
    let mut roots = RootCertStore::empty();
    certificates(path)?
        .into_iter()
        .map(|certificate| {
            let der = certificate.to_vec();
            roots.add(certificate).map_err(|error| {
                about(
                    path,
                    format!("has a certificate that is of no use: {error}"),
                )
            })?;
            der.hash(hasher);
            parsed(path, der)
        })
        .collect()
}

/// Our certificate, with its chain, and its key; they were seen to belong to each other.
fn identity(
    certificate: &Path,
    key: &Path,
    hasher: &mut impl Hasher,
) -> Result<Arc<CertKey>, String> {
    let chain = certificates(certificate)?;
    let private = files::key(key).map_err(|error| error.to_string())?;
    let der = private.secret_der().to_vec();
    // Pingora finds out by itself again of which kind a key is, and takes for granted that it can.
    let private = PrivateKeyDer::try_from(der.clone())
        .map_err(|_| about(key, "has a private key of a kind that is not known"))?;
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain.clone(), private)
        .map_err(|error| {
            let problem = format!("cannot be used with the key {}: {error}", key.display());
            about(certificate, problem)
        })?;
    let chain = chain
        .into_iter()
        .map(|one| {
            one.hash(hasher);
            parsed(certificate, one.to_vec()).map(|_| one.to_vec())
        })
        .collect::<Result<Vec<_>, _>>()?;
    der.hash(hasher);
    Ok(Arc::new(CertKey::new(chain, der)))
}

/// Pingora would panic at what its parser does not understand.
fn parsed(path: &Path, der: Vec<u8>) -> Result<WrappedX509, String> {
    match X509Certificate::from_der(&der) {
        Ok(_) => Ok(WrappedX509::new(der, parse_x509)),
        Err(_) => Err(about(path, "has a certificate that is not understood")),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    files::certificates(path).map_err(|error| error.to_string())
}

fn about(path: &Path, problem: impl Display) -> String {
    format!("{}: {problem}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/tls")
            .join(name)
    }

    fn tls(ca: &str, identity: Option<(&str, &str)>) -> UpstreamTls {
        UpstreamTls {
            server_name: "agent.example".to_owned(),
            ca: Some(file(ca)),
            identity: identity.map(|(certificate, key)| (file(certificate), file(key))),
            insecure_skip_verify: false,
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        for (ca, identity, named, problem) in [
            ("absent.pem", None, "absent.pem", "No such file"),
            ("agent.key", None, "agent.key", "no certificate in PEM"),
            (".", None, "tls/.", "not a regular file"),
            (
                "ca.pem",
                Some(("proxy.pem", "ca.pem")),
                "ca.pem",
                "no private key in PEM",
            ),
            (
                "ca.pem",
                Some(("proxy.pem", "agent.key")),
                "proxy.pem",
                "agent.key",
            ),
        ] {
            let error = Profile::read(&tls(ca, identity)).unwrap_err();
            assert!(error.contains(named), "{error}");
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn whatever_differs_makes_another_fingerprint() {
        let base = tls("ca.pem", Some(("proxy.pem", "proxy.key")));
        let fingerprint = |tls: &UpstreamTls| Profile::read(tls).unwrap().fingerprint();
        assert_eq!(fingerprint(&base), fingerprint(&base));
        let mut others = vec![
            tls("other-ca.pem", Some(("proxy.pem", "proxy.key"))),
            tls("ca.pem", Some(("agent.pem", "agent.key"))),
            tls("ca.pem", None),
        ];
        others.push(UpstreamTls {
            server_name: "other.example".to_owned(),
            ..base.clone()
        });
        others.push(UpstreamTls {
            insecure_skip_verify: true,
            ..base.clone()
        });
        let mut seen = vec![fingerprint(&base)];
        for other in &others {
            let one = fingerprint(other);
            assert!(!seen.contains(&one), "{other:?}");
            seen.push(one);
        }
    }

    #[test]
    fn the_authorities_of_the_system_are_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = write_authorities(folder.path()).unwrap();
        let written: Vec<_> = CertificateDer::pem_file_iter(path)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(written, OF_THE_SYSTEM.usable);
    }

    #[test]
    fn d25_tls_without_a_name_is_refused_before_a_connection_is_made() {
        let nameless = UpstreamTls {
            server_name: String::new(),
            ..tls("ca.pem", None)
        };
        assert!(
            Profile::read(&nameless)
                .unwrap_err()
                .contains("server-name")
        );
    }
}
