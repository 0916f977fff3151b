//! Text with request variables, such as `https://{request.host}/new`.

/// Text with request variables. `{{` in the configuration is a brace in a literal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    /// In order; literals are not empty and never neighbours.
    pub parts: Vec<TemplatePart>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// As it is.
    Literal(String),
    /// Filled in for each request.
    Variable(Variable),
    /// `{request.header.NAME}`, in lower case: all lines of a header of the request, with commas in between; empty without
    /// any. Only in `request-headers` and `response-headers`.
    RequestHeader(String),
}

/// What a template can ask of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variable {
    /// `{client.ip}`: the client's address, after X-Forwarded-For of trusted proxies.
    ClientIp,
    /// `{client.port}`: the port of the peer that is connected to us.
    ClientPort,
    /// `{client.certificate.subject}`: whose certificate the client has shown, as in `CN=app,O=Example`; empty without.
    ClientCertificateSubject,
    /// `{client.certificate.sans}`: its other names, as in `DNS:a.example,URI:spiffe://example/a`.
    ClientCertificateSans,
    /// `{client.certificate.fingerprint}`: SHA-256 of it, in hexadecimal digits.
    ClientCertificateFingerprint,
    /// `{request.id}`: what is in X-Request-Id.
    RequestId,
    /// `{request.method}`.
    RequestMethod,
    /// `{request.path}`: in its normal form, without the query.
    RequestPath,
    /// `{request.host}`: lower case, without the port.
    RequestHost,
    /// `{request.scheme}`: `http` or `https`.
    RequestScheme,
    /// `{request.query}`: what is behind the `?`, which is no part of it.
    RequestQuery,
    /// `{request.uri}`: path and query, in their normal form.
    RequestUri,
    /// `{route.id}`: the route that matched.
    RouteId,
    /// `{tls.version}`: as in `TLSv1.3`; empty without TLS.
    TlsVersion,
    /// `{tls.cipher}`: the cipher suite, as in `TLS_AES_128_GCM_SHA256`; empty without TLS.
    TlsCipher,
    /// `{tls.server-name}`: the name that the client has asked for in TLS; empty without.
    TlsServerName,
    /// `{upstream.id}`: the upstream of the route; empty where another action answers.
    UpstreamId,
    /// `{listener.id}`: the listener that the client is connected to.
    ListenerId,
    /// `{time.unix}`: when the request began, in seconds since 1970.
    TimeUnix,
    /// `{time.rfc3339}`: the same as a date and a time in UTC, with milliseconds.
    TimeRfc3339,
}

impl Variable {
    /// All variables, in the order of the reference.
    pub const ALL: [Self; 20] = [
        Self::ClientIp,
        Self::ClientPort,
        Self::ClientCertificateSubject,
        Self::ClientCertificateSans,
        Self::ClientCertificateFingerprint,
        Self::RequestId,
        Self::RequestMethod,
        Self::RequestPath,
        Self::RequestHost,
        Self::RequestScheme,
        Self::RequestQuery,
        Self::RequestUri,
        Self::RouteId,
        Self::TlsVersion,
        Self::TlsCipher,
        Self::TlsServerName,
        Self::UpstreamId,
        Self::ListenerId,
        Self::TimeUnix,
        Self::TimeRfc3339,
    ];

    /// The name between the braces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientIp => "client.ip",
            Self::ClientPort => "client.port",
            Self::ClientCertificateSubject => "client.certificate.subject",
            Self::ClientCertificateSans => "client.certificate.sans",
            Self::ClientCertificateFingerprint => "client.certificate.fingerprint",
            Self::RequestId => "request.id",
            Self::RequestMethod => "request.method",
            Self::RequestPath => "request.path",
            Self::RequestHost => "request.host",
            Self::RequestScheme => "request.scheme",
            Self::RequestQuery => "request.query",
            Self::RequestUri => "request.uri",
            Self::RouteId => "route.id",
            Self::TlsVersion => "tls.version",
            Self::TlsCipher => "tls.cipher",
            Self::TlsServerName => "tls.server-name",
            Self::UpstreamId => "upstream.id",
            Self::ListenerId => "listener.id",
            Self::TimeUnix => "time.unix",
            Self::TimeRfc3339 => "time.rfc3339",
        }
    }
}
