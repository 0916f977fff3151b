//! The policy of calling agents: who is asked, in what order, for how long, and what a failure means.
//!
//! [`AgentManager`] is the only public type with state. It belongs to a configuration, and what it knows of agents that stay
//! the same goes over to the next one. Each worker of the proxy [attaches](AgentManager::attach) to it once and gets
//! [`Links`], its own connections, so that a call never leaves the worker's thread. Agents are asked with [`AgentManager::ask`], in every phase of a request alike, which answers with what the
//! proxy has to do and never with an error: a failure has already become a decision in [`failure`].
#![warn(missing_docs)]

mod agent;
mod allowance;
mod breaker;
mod cache;
mod call;
mod chain;
mod changed;
mod clock;
mod completions;
mod conversation;
pub mod failure;
mod headers;
mod manager;
mod merge;
mod observer;
mod operations;
mod permits;
mod pool;
mod quota;
mod record;
mod replica;
mod reports;
mod settings;
mod status;
pub mod supervise;

pub use agent::AgentEnd;
pub use allowance::Allowance;
pub use breaker::{BreakerSettings, BreakerState};
pub use cache::{CacheSettings, CacheStatus, KeyContext};
pub use chain::{Answer, Ask, Changes, Refusal};
pub use changed::HeaderChange;
pub use completions::{Completed, CompletionSettings};
pub use conversation::Conversation;
pub use failure::FailureReason;
pub use headers::{HeaderNames, HeaderRules, SendHeaders};
pub use manager::{AgentManager, AgentUse, Unsettled};
pub use observer::AgentObserver;
pub use operations::problem_of;
pub use pool::{Links, PoolSettings};
pub use quota::OverloadSettings;
pub use record::{Phase, Record, RecordedVerdict, Told};
pub use reports::{ConfigUpdateStatus, Granted, ReportSettings, ReportedStatus};
pub use settings::AgentSettings;
pub use status::{AgentState, AgentStatus, PoolStatus, ReplicaStatus};
