//! `agent "…" mode="shadow"` in `filters`: an agent that is asked and not obeyed.

use super::{AgentId, Share};
use std::time::Duration;

/// How an agent is asked in the shadow of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// The agent of the route whose verdicts its own are compared with; that one's verdict always holds. None: they are
    /// compared with what the route's agents together decided.
    pub compare_with: Option<AgentId>,
    /// The share of clients for which its verdict holds all the same. None: for nobody.
    pub ramp: Option<Ramp>,
}

/// An agent that is obeyed for a share of all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// Clients whose hash falls below it get the agent's verdicts. 0% to 100%.
    pub share: Share,
    /// When the agent is obeyed for nobody any longer.
    pub fallback: Fallback,
}

/// When a ramp is given up by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    /// Failed calls, as a share of a window of `calls`, that end the ramp. Default 10%, 0.01% to 100%.
    pub failures: Share,
    /// The calls of a window. Default 100, 1 to 1 000 000.
    pub calls: u32,
    /// How long the agent is obeyed for nobody; a reload ends it too. Default 10 m, 1 ms to 24 h.
    pub lasts: Duration,
}

impl Default for Fallback {
    fn default() -> Self {
        Self {
            failures: Share::of_hundredths(1000),
            calls: 100,
            lasts: Duration::from_secs(600),
        }
    }
}
