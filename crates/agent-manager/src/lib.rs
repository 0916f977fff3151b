//! The policy of calling agents: who is asked, in what order, for how long, and what a failure means.
//!
//! [`AgentManager`] is the only public type with state. It belongs to a configuration, and what it knows of agents that stay
//! the same goes over to the next one. Each worker of the proxy [attaches](AgentManager::attach) to it once and gets
//! [`Links`], its own connections, so that a call never leaves the worker's thread. A step of a route's filter chain is asked with [`AgentManager::ask`], which answers with what the
//! proxy has to do and never with an error: a failure has already become a decision in [`failure`].
#![warn(missing_docs)]

mod agent;
mod breaker;
mod call;
mod chain;
mod clock;
mod conversation;
pub mod failure;
mod headers;
mod manager;
mod merge;
mod operations;
mod permits;
mod pool;
mod quota;
mod record;
mod status;
pub mod supervise;

pub use agent::{AgentEnd, AgentSettings, PoolSettings, WaitObserver};
pub use breaker::{BreakerSettings, BreakerState};
pub use chain::{Answer, Changes, Refusal};
pub use conversation::Conversation;
pub use failure::FailureReason;
pub use headers::{HeaderRules, OwnedHeaders, SendHeaders};
pub use manager::{AgentManager, AgentUse, Step, Unsettled};
pub use pool::Links;
pub use quota::OverloadSettings;
pub use record::{Phase, Record, RecordedVerdict};
pub use status::{AgentState, AgentStatus};
