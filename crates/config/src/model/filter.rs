//! `filters { … }` of a route: what a request goes through before it is answered, and the response after.

use super::{
    AddressList, AgentId, ByteSize, Compress, ConcurrencyLimit, FailureMode, Guardrail, LimitLine,
    RateLimit, Shadow, Template,
};
use std::time::Duration;

/// One step of a route's filter chain.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// One agent is asked.
    Agent(AgentUse),
    /// Agents are asked at the same time, all with the same view. At least one, no agent twice.
    Parallel(Vec<AgentUse>),
    /// An agent is shown texts within bodies.
    Guardrail(Box<Guardrail>),
    /// Nobody is asked.
    Own(OwnFilter),
}

/// A step in which the proxy asks nobody.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnFilter {
    /// The request's header fields are changed, in the order written. Never empty.
    RequestHeaders(Vec<HeaderEdit>),
    /// The response's header fields are changed, in the order written. Never empty.
    ResponseHeaders(Vec<HeaderEdit>),
    /// Requests beyond a rate are refused.
    RateLimit(LimitLine, RateLimit),
    /// Requests beyond a number at a time are refused.
    ConcurrencyLimit(LimitLine, ConcurrencyLimit),
    /// Clients are refused by their addresses.
    Addresses(AddressList),
    /// Bodies of requests that are larger are refused. 1 byte to 1 TiB.
    BodyLimit(ByteSize),
    /// Responses are compressed, behind all other steps. Once on a route at most.
    Compress(Compress),
}

impl OwnFilter {
    /// The name in the configuration, in logs and in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RequestHeaders(_) => "request-headers",
            Self::ResponseHeaders(_) => "response-headers",
            Self::RateLimit(..) => "rate-limit",
            Self::ConcurrencyLimit(..) => "concurrency-limit",
            Self::Addresses(list) if list.allows => "ip-allow",
            Self::Addresses(_) => "ip-deny",
            Self::BodyLimit(_) => "body-limit",
            Self::Compress(_) => "compress",
        }
    }
}

impl Filter {
    /// Who is asked by this step, in the order written.
    pub fn agents(&self) -> &[AgentUse] {
        match self {
            Self::Agent(one) => std::slice::from_ref(one),
            Self::Parallel(several) => several,
            Self::Guardrail(guardrail) => std::slice::from_ref(&guardrail.used),
            Self::Own(_) => &[],
        }
    }
}

/// An agent on a route, with the settings that hold there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUse {
    /// Who is asked.
    pub agent: AgentId,
    /// For one answer: the route's, else the agent's.
    pub timeout: Duration,
    /// What a failure means: the route's, else the agent's.
    pub failure_mode: FailureMode,
    /// It is asked in the shadow of the request. None: its verdict holds.
    pub shadow: Option<Shadow>,
}

impl AgentUse {
    /// Whether a request may wait for this agent: its verdict holds, for all clients or for a share of them.
    pub const fn may_decide(&self) -> bool {
        match &self.shadow {
            None => true,
            Some(shadow) => shadow.ramp.is_some(),
        }
    }

    /// The same, where a share of no clients at all does not count.
    pub fn decides_for_some(&self) -> bool {
        self.shadow.as_ref().is_none_or(|shadow| {
            let ramp = shadow.ramp.as_ref();
            ramp.is_some_and(|ramp| ramp.share.hundredths() > 0)
        })
    }
}

/// A change of a header field. Names are lower case and never those that decide how a message is framed or routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Replaces every line of that name by one.
    Set(String, Template),
    /// Adds a line.
    Add(String, Template),
    /// Removes every line of that name.
    Remove(String),
}
