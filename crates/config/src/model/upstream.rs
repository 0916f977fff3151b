//! `upstreams { upstream "ID" { … } }`: the servers behind us.

use super::{
    Balance, HealthCheck, Keepalive, Outlier, Place, ProxyProtocol, RetryBudget, Share, Sticky,
    Target, UpstreamId, UpstreamLimits, UpstreamTls,
};
use std::time::Duration;

/// Servers that answer alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name in logs and metrics.
    pub id: UpstreamId,
    /// Who answers.
    pub origin: Origin,
    /// What is spoken to the targets.
    pub protocol: UpstreamProtocol,
    /// None: connections are not encrypted.
    pub tls: Option<UpstreamTls>,
    /// Which connections are kept.
    pub keepalive: Keepalive,
    /// What targets are told about clients before the first request. None: nothing.
    pub send_proxy_protocol: Option<ProxyProtocol>,
    /// How long a target may take.
    pub timeouts: UpstreamTimeouts,
    /// Who among the targets is taken.
    pub balance: Balance,
    /// Whether clients stay with their target. Default None.
    pub sticky: Option<Sticky>,
    /// For so long a target that has come gets less than its share, more and more of it. Default None: not at all.
    pub slow_start: Option<Duration>,
    /// How targets are asked whether they are in order. Default None: not at all.
    pub health_check: Option<HealthCheck>,
    /// What becomes of a target whose answers are failures. Default None: nothing.
    pub outlier: Option<Outlier>,
    /// When less than this part of the targets is in order, and no backup is, all of them get requests. Default 10 %.
    pub panic_threshold: Share,
    /// How many requests may be on their second try.
    pub retry_budget: RetryBudget,
    /// How many requests there may be.
    pub limits: UpstreamLimits,
    /// Where it is written.
    pub place: Place,
}

/// Who answers the requests of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Servers. At least one that is no backup, no address twice.
    Targets(Vec<Target>),
    /// An origin inside this program that answers with what it was asked.
    BuiltinEcho,
}

/// What is spoken to the targets of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1. The default.
    #[default]
    Http1,
    /// HTTP/2 over TLS. A target that does not agree to it gets no request.
    H2,
    /// HTTP/2 with prior knowledge, without TLS.
    H2c,
}

/// How long a target may take. Of these only `total` can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// For a TCP connection to stand. Default 2 s.
    pub connect: Duration,
    /// From the end of the request to the head of the response. Default 30 s.
    pub response_header: Duration,
    /// Between two pieces of a response body. Default 60 s.
    pub idle: Duration,
    /// From the head of the request to the end of the response. None, the default, is without end.
    pub total: Option<Duration>,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            response_header: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: None,
        }
    }
}
