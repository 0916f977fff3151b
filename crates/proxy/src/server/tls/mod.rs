//! TLS with clients: what a listener shows of itself, what it wants to see, and what is known of a connection because of it.
//!
//! The configuration of rustls is ours, made anew at every reload. What a client may come back with, a ticket of an earlier
//! connection, outlives a reload as long as the same is asked of clients: whoever shows a ticket shows no certificate again.

mod certificate;
mod client;
pub(crate) mod files;
mod handshake;
mod names;
mod validity;

use certificate::Certificate;
use client::ClientCertificate;
use files::TlsError;
pub(crate) use handshake::{Failure, TlsSession, handshake};
pub(crate) use validity::{announce, warnings};

use portcullis_config::{ClientAuth, ListenerId, TlsVersion};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

/// TLS of one listener, ready for handshakes.
pub(crate) struct ListenerTls {
    server: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    /// What was asked of the clients that have tickets.
    asked: Option<AskedOfClients>,
}

/// What is asked of clients, as far as it tells one demand from another.
#[derive(Debug, PartialEq, Eq)]
struct AskedOfClients {
    required: bool,
    /// The certificates of the authorities.
    authorities: Vec<Vec<u8>>,
}

/// TLS of the listeners that speak it.
pub(crate) type TlsOfListeners = HashMap<ListenerId, Arc<ListenerTls>>;

/// Reads all files that listeners name. `in_use` is what listeners have now.
///
/// # Errors
/// Files that cannot be used, one of each listener.
pub(crate) fn load(
    listeners: &[portcullis_config::Listener],
    in_use: &TlsOfListeners,
) -> Result<TlsOfListeners, TlsErrors> {
    let mut loaded = TlsOfListeners::new();
    let mut errors = Vec::new();
    let speak_tls = listeners
        .iter()
        .filter_map(|it| Some((it, it.tls.as_ref()?)));
    for (listener, tls) in speak_tls {
        let before = in_use.get(&listener.id).map(AsRef::as_ref);
        match ListenerTls::load(tls, before) {
            Ok(tls) => {
                loaded.insert(listener.id.clone(), Arc::new(tls));
            }
            Err(error) => errors.push(error.of_listener(&listener.id)),
        }
    }
    match errors.is_empty() {
        true => Ok(loaded),
        false => Err(TlsErrors(errors)),
    }
}

/// Why TLS of listeners cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct TlsErrors(pub(crate) Vec<TlsError>);

impl ListenerTls {
    fn load(
        config: &portcullis_config::ListenerTls,
        before: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificates = config
            .certificates
            .iter()
            .map(|certificate| Certificate::load(certificate, &provider))
            .collect::<Result<_, _>>()?;
        let certificates = Arc::new(Certificates::new(certificates));
        let versions: &[_] = match config.min_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::library(&error))?;
        let (builder, asked) = match &config.client_auth {
            None => (builder.with_no_client_auth(), None),
            Some(auth) => {
                let (verifier, asked) = verifier(auth, provider)?;
                (builder.with_client_cert_verifier(verifier), Some(asked))
            }
        };
        let mut server = builder.with_cert_resolver(certificates.clone());
        server.alpn_protocols = match config.http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        // Whoever comes back brings what there is to know, so that nothing is kept for those who do not.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.ticketer = tickets(before.filter(|before| before.asked == asked))?;
        Ok(Self {
            server: Arc::new(server),
            certificates,
            asked,
        })
    }

    /// Whether clients are asked for certificates.
    pub(crate) const fn asks_clients(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether a client that has asked for this name in TLS has been shown a certificate for that host.
    pub(crate) fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        self.certificates
            .find(server_name)
            .iter()
            .any(|certificate| certificate.names.covers(host, ip))
    }
}

/// What makes tickets of those who have connected, for when they come again. The keys are made here, change by themselves, and
/// are never written down.
fn tickets(same: Option<&ListenerTls>) -> Result<Arc<dyn ProducesTickets>, TlsError> {
    match same {
        Some(before) => Ok(before.server.ticketer.clone()),
        None => rustls::crypto::ring::Ticketer::new().map_err(|error| TlsError::library(&error)),
    }
}

fn verifier(
    auth: &ClientAuth,
    provider: Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, AskedOfClients), TlsError> {
    let authorities = files::certificates(&auth.ca).map_err(|error| error.at(&auth.place))?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        let added = roots.add(authority.clone());
        added.map_err(|error| TlsError::of(&auth.ca, error).at(&auth.place))?;
    }
    let asked = AskedOfClients {
        required: auth.required,
        authorities: authorities.iter().map(|it| it.to_vec()).collect(),
    };
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !auth.required {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder
        .build()
        .map_err(|error| TlsError::of(&auth.ca, error).at(&auth.place))?;
    Ok((verifier, asked))
}

/// Which certificate is shown to whom.
struct Certificates {
    /// In the order written.
    all: Vec<Arc<Certificate>>,
    /// The first, and those with the names that it has.
    default: Vec<Arc<Certificate>>,
    exact: HashMap<String, Vec<Arc<Certificate>>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<Arc<Certificate>>>,
}

impl Certificates {
    fn new(certificates: Vec<Certificate>) -> Self {
        let all: Vec<_> = certificates.into_iter().map(Arc::new).collect();
        let like_the_first =
            |it: &&Arc<Certificate>| all.first().is_some_and(|first| first.names == it.names);
        let mut this = Self {
            default: all.iter().filter(like_the_first).cloned().collect(),
            all,
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for certificate in &this.all {
            for name in certificate.names.iter() {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut this.wildcard, parent),
                    None => (&mut this.exact, name),
                };
                let having = names.entry(name.to_owned()).or_default();
                having.push(certificate.clone());
            }
        }
        this
    }

    /// Those for this name: exact before wildcard, and the first of all for others. Never empty; where there are several they
    /// differ in what a client has to understand.
    fn find(&self, server_name: Option<&str>) -> &[Arc<Certificate>] {
        let default = self.default.as_slice();
        let Some(name) = server_name else {
            return default;
        };
        let exact = self.exact.get(name);
        let found = exact.or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        });
        found.map_or(default, Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let found = self.find(name.as_deref());
        let understood = |certificate: &&Arc<Certificate>| {
            let schemes = hello.signature_schemes();
            certificate.key.key.choose_scheme(schemes).is_some()
        };
        let chosen = found.iter().find(understood).or(found.first())?;
        Some(chosen.key.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.all).finish()
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerTls")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}
