//! What a configuration says, as plain data. One file per block of the language.

mod address_list;
mod admin;
mod agent;
mod agent_endpoint;
mod agent_pool;
mod agent_reverse;
mod authz;
mod balance;
mod compress;
mod condition;
mod connect;
mod error_pages;
mod ext_proc;
mod filter;
mod guardrail;
mod health;
mod http2;
mod id;
mod inspect;
mod limit;
mod listener;
mod listener_tls;
mod mirror;
mod observability;
mod place;
mod reports;
mod retry;
mod rewrite;
mod route;
mod secret;
mod shadow;
mod split;
mod static_files;
mod system;
mod target;
mod template;
mod units;
mod upstream;
mod verdict_cache;
mod websocket;

pub use address_list::AddressList;
pub use admin::{Admin, AdminAddress, Probes};
pub use agent::{
    Agent, AgentTransport, BuiltinAgent, CircuitBreaker, FailureMode, Json, Overload, SendHeaders,
};
pub use agent_endpoint::{AgentEndpoint, AgentTls, AgentUrl, Dialect};
pub use agent_pool::{Pool, PoolBalance};
pub use agent_reverse::{AgentReverse, Registering, ReverseFiles, ReversePlace};
pub use authz::Authz;
pub use balance::{Balance, Hash, HashAlgorithm, HashKey, Sticky};
pub use compress::{Algorithm, Compress, CompressLevels};
pub use condition::{
    HeaderCondition, HeaderConditionKind, HostPattern, Match, PathPattern, QueryCondition,
};
pub use connect::{Keepalive, ProxyProtocol, UpstreamTls};
pub use error_pages::{ErrorPage, ErrorPages, PagePart};
pub use ext_proc::{ExtProc, HeaderEncoding, OnClose, Overridable};
pub use filter::{AgentUse, Filter, HeaderEdit, OwnFilter};
pub use guardrail::{
    GuardedBody, Guardrail, Inspection, JsonPointer, OnDetect, Otherwise, PointerToken,
};
pub use health::{FailureStatuses, HealthCheck, HealthCheckKind, Outlier};
pub use http2::Http2;
pub use id::{AgentId, ListenerId, RouteId, UpstreamId};
pub use inspect::{BodyEncoding, BodyInspection, BodyMode, Completions, Inspect, OnOversize};
pub use limit::{ConcurrencyLimit, Enforcement, LimitKey, LimitLine, LimitOwner, RateLimit};
pub use listener::{
    Listener, ListenerAddress, ListenerLimits, ListenerProxyProtocol, ListenerTimeouts, Underscores,
};
pub use listener_tls::{ClientAuth, ListenerCertificate, ListenerTls, TlsVersion};
pub use mirror::Mirror;
pub use observability::{
    AccessLog, AccessLogFormat, LogFormat, LogLevel, LogSettings, LogSink, Observability,
    RecentRequests, VerdictTrace,
};
pub use place::Place;
pub use reports::Reports;
pub use retry::{Retry, RetryBudget, RetryOn, UpstreamLimits};
pub use rewrite::{PathRewrite, ReplacementPart, Rewrite};
pub use route::{Action, Route, RouteTimeouts};
pub use secret::Secret;
pub use shadow::{Fallback, Ramp, Shadow};
pub use split::{ClientKey, Split, SplitMember};
pub use static_files::{Precompressed, StaticFiles};
pub use system::{DoubleSlash, EncodedSlash, PathPolicy, System};
pub use target::{Target, TargetAddress};
pub use template::{Template, TemplatePart, Variable};
pub use units::{ByteSize, Share};
pub use upstream::{Origin, Upstream, UpstreamProtocol, UpstreamTimeouts};
pub use verdict_cache::{KeyPart, VerdictCache};
pub use websocket::{Deflate, WebSocket};

/// Everything that the operator decided, with defaults filled in and references resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Settings of the process.
    pub system: System,
    /// The private status page and API. None: not served.
    pub admin: Option<Admin>,
    /// The health and metrics listener. None: not served.
    pub probes: Option<Probes>,
    /// Where clients connect; never empty. In the order written.
    pub listeners: Vec<Listener>,
    /// In the order written, which is the last word between routes that are equal otherwise.
    pub routes: Vec<Route>,
    /// In the order written.
    pub upstreams: Vec<Upstream>,
    /// In the order written.
    pub agents: Vec<Agent>,
    /// Logs.
    pub observability: Observability,
    /// What the proxy's own answers look like when something is wrong, where a route does not say it.
    pub error_pages: ErrorPages,
}

impl Config {
    /// The routes whose requests wait for agents, in the order written: those whose [`Route::agent_budget`] means
    /// something.
    pub fn routes_with_agents(&self) -> impl Iterator<Item = &Route> {
        self.routes
            .iter()
            .filter(|route| !route.agent_budget.is_zero())
    }
}
