//! What shadow agents would have done, as the admin listener tells it and the command line reads it.

use serde::{Deserialize, Serialize};

/// All shadow agents of the configuration in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) shadows: Vec<Entry>,
}

/// A shadow agent on a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) route: String,
    pub(crate) agent: String,
    /// Whose verdicts its own are compared with; `None`: those of all enforced agents of the route.
    pub(crate) compare_with: Option<String>,
    /// The share of clients for which it is obeyed, as it is written.
    pub(crate) enforce: Option<String>,
    /// It failed too often and is obeyed for nobody.
    pub(crate) fallen_back: bool,
    /// Both gave a verdict.
    pub(crate) compared: u64,
    /// Of these, the same one.
    pub(crate) agreed: u64,
    /// Of these, different ones.
    pub(crate) disagreed: u64,
    /// The shadow agent gave none: the names are those of failures.
    pub(crate) failed: u64,
    /// It gave one, and there was none to compare it with.
    pub(crate) not_compared: u64,
    /// Requests that it was not shown, or not to their end, because there was too much for it.
    pub(crate) dropped: u64,
    pub(crate) verdicts: Vec<Pair>,
    /// The newest first.
    pub(crate) disagreements: Vec<Sample>,
}

/// How often two verdicts met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) shadow: String,
    pub(crate) enforced: String,
    pub(crate) count: u64,
}

/// A request about which two agents disagreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) request_id: String,
    /// When its verdict was in, RFC 3339 in UTC.
    pub(crate) ts: String,
    pub(crate) phase: String,
    pub(crate) shadow: String,
    pub(crate) enforced: String,
    /// The shadow agent's reason.
    pub(crate) reason: Option<String>,
}
