//! What an agent wants to happen to its configuration, or to itself.

use std::time::Duration;

/// A wish of an agent. The protocol has no answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigUpdate {
    /// What the agent calls the wish; empty when it does not say.
    pub request_id: String,
    /// What it wants, or says.
    pub change: ConfigChange,
}

/// What an agent wants, or says about its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// The proxy reads its configuration again.
    Reload,
    /// Rules become others.
    Rules {
        /// The set that they belong to.
        rule_set: String,
        /// How many are to be there.
        set: usize,
        /// How many are to go.
        removed: usize,
    },
    /// A list becomes another.
    List {
        /// Which.
        list_id: String,
        /// How many entries come.
        added: usize,
        /// How many go.
        removed: usize,
    },
    /// The agent has to be started again.
    Restart {
        /// Why.
        reason: String,
        /// How long it can wait for that; `None` when the agent does not say.
        grace_period: Option<Duration>,
    },
    /// The agent cannot work with its configuration.
    Error {
        /// What is wrong.
        error: String,
        /// Where; `None` when the agent does not say.
        field: Option<String>,
    },
    /// Something that is not known, by the name that it was given.
    Unknown(String),
}

impl ConfigChange {
    /// The name in the protocol, as in `request_reload`; `unknown` for what
    /// is not known.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reload => "request_reload",
            Self::Rules { .. } => "rule_update",
            Self::List { .. } => "list_update",
            Self::Restart { .. } => "restart_required",
            Self::Error { .. } => "config_error",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What else is said, for people; may be empty. As long as the agent made
    /// it.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Reload => String::new(),
            Self::Rules {
                rule_set,
                set,
                removed,
            } => format!("rule set {rule_set}: {set} rules, {removed} removed"),
            Self::List {
                list_id,
                added,
                removed,
            } => format!("list {list_id}: {added} added, {removed} removed"),
            Self::Restart {
                reason,
                grace_period: None,
            } => reason.clone(),
            Self::Restart {
                reason,
                grace_period: Some(grace),
            } => format!("{reason} (within {grace:?})"),
            Self::Error { error, field: None } => error.clone(),
            Self::Error {
                error,
                field: Some(field),
            } => format!("{field}: {error}"),
            Self::Unknown(name) => name.clone(),
        }
    }
}
