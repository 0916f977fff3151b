//! `split`: requests shared out to several upstreams.

use super::UpstreamId;

/// Requests that are shared out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// 2 to 16, no upstream twice, not all of weight 0.
    pub members: Vec<SplitMember>,
    /// By what a client stays with its upstream. None: each request is shared out by itself.
    pub sticky: Option<ClientKey>,
}

/// An upstream of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMember {
    /// Who answers.
    pub upstream: UpstreamId,
    /// Its share, beside the other weights: 0 to 1 000 000. 0: it gets nothing.
    pub weight: u32,
}

/// What one client is told from another by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// Its address; of IPv6 the first 64 bits.
    ClientIp,
    /// The value of a cookie; its address where there is none.
    Cookie(String),
    /// The first value of a header, whose name is in lower case; its address where there is none.
    Header(String),
}
