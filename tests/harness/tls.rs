//! Authorities, certificates and clients of TLS, all made for one test.

use super::{DEADLINE, RawClient, Response};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub(crate) struct TestCertificate {
    pub(crate) pem: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate of a server with these names.
    pub(crate) fn server(&self, names: &[&str]) -> TestCertificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate of a client: the common name of its subject, and its other names.
    pub(crate) fn client(&self, common_name: &str, dns: &[&str], uris: &[&str]) -> TestCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Test, Inc.");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let dns = dns
            .iter()
            .map(|name| SanType::DnsName((*name).try_into().unwrap()));
        let uris = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names = dns.chain(uris).collect();
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The same with a key of this kind.
    pub(crate) fn server_with(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
    ) -> TestCertificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TestCertificate {
            pem: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Signs what a test has thought up.
    pub(crate) fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> TestCertificate {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TestCertificate {
            pem: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A client that believes this authority, and shows this certificate.
    pub(crate) fn client_config(&self, identity: Option<&TestCertificate>) -> ClientConfig {
        self.client_config_of(rustls::ALL_VERSIONS, identity)
    }

    fn client_config_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&TestCertificate>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(vec![identity.der()], identity.private())
                .unwrap(),
        }
    }

    /// How tests usually connect: every connection stands for itself.
    pub(crate) fn connector(&self) -> Connector {
        let mut config = self.client_config(None);
        config.resumption = Resumption::disabled();
        Connector::new(config)
    }

    /// The same for a client that speaks this version alone.
    pub(crate) fn connector_speaking(
        &self,
        version: &'static SupportedProtocolVersion,
    ) -> Connector {
        let mut config = self.client_config_of(&[version], None);
        config.resumption = Resumption::disabled();
        Connector::new(config)
    }

    /// The same for a client with a certificate.
    pub(crate) fn connector_of(&self, identity: &TestCertificate) -> Connector {
        let mut config = self.client_config(Some(identity));
        config.resumption = Resumption::disabled();
        Connector::new(config)
    }
}

impl TestCertificate {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// Makes connections of TLS.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) config: Arc<ClientConfig>,
}

/// A connection of TLS on which nothing was asked yet.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Connector {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self {
            config: Arc::new(config),
        }
    }

    /// The same that offers these protocols.
    pub(crate) fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        Self::new(config)
    }

    /// Connects and shakes hands, asking for this name.
    ///
    /// # Errors
    /// One of the two does not want to.
    pub(crate) fn handshake(&self, address: SocketAddr, name: &str) -> io::Result<Stream> {
        let socket = TcpStream::connect_timeout(&address, DEADLINE)?;
        self.handshake_over(socket, name)
    }

    /// The same over what is connected already.
    ///
    /// # Errors
    /// One of the two does not want to.
    pub(crate) fn handshake_over(&self, socket: TcpStream, name: &str) -> io::Result<Stream> {
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection =
            ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut socket = socket;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }

    /// A client of HTTP/1.1 that asks for the name `test`.
    ///
    /// # Panics
    /// There is no connection.
    pub(crate) fn connect(&self, address: SocketAddr) -> RawClient {
        self.try_connect(address, "test").unwrap()
    }

    /// The same with any name.
    ///
    /// # Errors
    /// One of the two does not want to.
    pub(crate) fn try_connect(&self, address: SocketAddr, name: &str) -> io::Result<RawClient> {
        Ok(RawClient::over_tls(self.handshake(address, name)?))
    }

    /// Asks for a path on a connection of its own, for the host `test`.
    pub(crate) fn get(&self, address: SocketAddr, path: &str) -> Response {
        self.connect(address).get(path, &[])
    }

    /// How a connection ends that is not wanted, seen by a client that says something: over TLS 1.3 it learns of that only
    /// afterwards.
    pub(crate) fn refusal(&self, address: SocketAddr, name: &str) -> Option<rustls::Error> {
        let mut stream = match self.handshake(address, name) {
            Ok(stream) => stream,
            Err(error) => return reason(error),
        };
        let asked =
            write!(stream, "GET / HTTP/1.1\r\nhost: {name}\r\n\r\n").and_then(|()| stream.flush());
        match asked.and_then(|()| stream.read(&mut [0])) {
            Ok(_) => None,
            Err(error) => reason(error),
        }
    }
}

fn reason(error: io::Error) -> Option<rustls::Error> {
    error
        .into_inner()?
        .downcast::<rustls::Error>()
        .ok()
        .map(|error| *error)
}

/// For tests that want to see what is shown, whatever it is.
#[derive(Debug)]
pub(crate) struct BelievesAnything {
    provider: CryptoProvider,
    understands: Vec<SignatureScheme>,
    stapled: Mutex<Vec<u8>>,
}

impl BelievesAnything {
    pub(crate) fn new() -> Arc<Self> {
        let known = crypto::ring::default_provider().signature_verification_algorithms;
        Self::understanding(known.supported_schemes())
    }

    /// The same where signatures of other kinds are not understood.
    pub(crate) fn understanding(understands: Vec<SignatureScheme>) -> Arc<Self> {
        Arc::new(Self {
            provider: crypto::ring::default_provider(),
            understands,
            stapled: Mutex::default(),
        })
    }

    /// What was last shown beside a certificate.
    pub(crate) fn stapled(&self) -> Vec<u8> {
        self.stapled.lock().unwrap().clone()
    }
}

impl ServerCertVerifier for BelievesAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.stapled.lock().unwrap() = ocsp_response.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.understands.clone()
    }
}
