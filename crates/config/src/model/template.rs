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
}

/// What a template can ask of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variable {
    /// `{client.ip}`: the client's address, after X-Forwarded-For of trusted proxies.
    ClientIp,
    /// `{client.port}`: the port of the peer that is connected to us.
    ClientPort,
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
    /// `{route.id}`: the route that matched.
    RouteId,
}

impl Variable {
    /// All variables, in the order of the reference.
    pub const ALL: [Self; 8] = [
        Self::ClientIp,
        Self::ClientPort,
        Self::RequestId,
        Self::RequestMethod,
        Self::RequestPath,
        Self::RequestHost,
        Self::RequestScheme,
        Self::RouteId,
    ];

    /// The name between the braces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientIp => "client.ip",
            Self::ClientPort => "client.port",
            Self::RequestId => "request.id",
            Self::RequestMethod => "request.method",
            Self::RequestPath => "request.path",
            Self::RequestHost => "request.host",
            Self::RequestScheme => "request.scheme",
            Self::RouteId => "route.id",
        }
    }
}
