//! `match { … }`: the conditions under which a request belongs to a route.

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// The host without its port. None: any.
    pub host: Option<HostPattern>,
    /// The path in its normal form. None: any.
    pub path: Option<PathPattern>,
    /// Any of these methods, as they are spelled on the wire. Empty: any.
    pub methods: Vec<String>,
    /// All of these must hold.
    pub headers: Vec<HeaderCondition>,
    /// All of these must hold.
    pub query: Vec<QueryCondition>,
    /// None of these may hold.
    pub not: Vec<Self>,
}

/// Which hosts. Always lower case but for the regular expression, which is matched against the lower-cased host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This host.
    Exact(String),
    /// Every host that ends with this suffix, which begins with a dot, and has at least one character before it.
    /// `*.example.com` is kept as `.example.com`.
    Wildcard(String),
    /// A regular expression of the `regex` crate, known to compile. It need not match the whole host.
    Regex(String),
}

/// Which paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// This path and everything below it, by whole segments. Without a slash at its end, except for `/` itself.
    Prefix(String),
    /// A regular expression of the `regex` crate, known to compile. It need not match the whole path.
    Regex(String),
}

/// A condition on a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Lower case.
    pub name: String,
    /// What must be true of it.
    pub kind: HeaderConditionKind,
}

/// What must be true of a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderConditionKind {
    /// The request has it.
    Present,
    /// The request does not have it.
    Absent,
    /// One of its lines has exactly this value.
    Equals(String),
}

/// A condition on a query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryCondition {
    /// The decoded name.
    pub name: String,
    /// The decoded value. None: the parameter is there, with any value or none.
    pub value: Option<String>,
}
