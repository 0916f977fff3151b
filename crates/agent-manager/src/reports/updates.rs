//! What an agent wants to happen to the configuration, and whether it does.

use portcullis_agent_protocol::{ConfigChange, ConfigUpdate};
use std::time::{Duration, Instant, SystemTime};

/// What becomes of a wish of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granted {
    /// It is done.
    Yes,
    /// It is the wish that was granted last, heard on another connection.
    Repeated,
    /// The agent may not have it.
    NotAllowed,
    /// The agent has had it a short while ago.
    TooSoon,
    /// Nobody here could do it.
    NotPossible,
}

impl Granted {
    /// The name in metrics and in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "done",
            Self::Repeated => "repeated",
            Self::NotAllowed => "not_allowed",
            Self::TooSoon => "too_soon",
            Self::NotPossible => "not_possible",
        }
    }

    /// Why, for people.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Yes => "it is done",
            Self::Repeated => "it was done already",
            Self::NotAllowed => "its block in the configuration has no `allow-reload`",
            Self::TooSoon => "its last reload is less than `min-interval` ago",
            Self::NotPossible => {
                "the proxy keeps no rules and lists for agents and restarts them only when they end; change the agent's `config` instead"
            }
        }
    }
}

/// The last that an agent wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigUpdateStatus {
    /// What it wanted, by its name in the protocol.
    pub kind: &'static str,
    /// More about it, in the words of the agent; at most 256 bytes.
    pub detail: String,
    /// What became of it.
    pub granted: Granted,
    /// When.
    pub at: SystemTime,
}

pub(super) struct Updates {
    /// `None`: the agent may not reload.
    interval: Option<Duration>,
    reloaded: Option<Reloaded>,
    last: Option<ConfigUpdateStatus>,
}

struct Reloaded {
    at: Instant,
    request_id: String,
}

impl Updates {
    pub(super) const fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            reloaded: None,
            last: None,
        }
    }

    /// Whether it is done.
    pub(super) fn judge(&mut self, update: &ConfigUpdate, now: Instant) -> Granted {
        let granted = match &update.change {
            ConfigChange::Reload => self.reload(&update.request_id, now),
            _ => Granted::NotPossible,
        };
        // What is heard again says nothing new.
        if granted != Granted::Repeated {
            self.last = Some(ConfigUpdateStatus {
                kind: update.change.name(),
                detail: super::shortened(&update.change.detail()),
                granted,
                at: SystemTime::now(),
            });
        }
        granted
    }

    fn reload(&mut self, request_id: &str, now: Instant) -> Granted {
        let Some(interval) = self.interval else {
            return Granted::NotAllowed;
        };
        let request_id = super::shortened(request_id);
        if let Some(reloaded) = &self.reloaded
            && now.saturating_duration_since(reloaded.at) < interval
        {
            let is_same = !request_id.is_empty() && request_id == reloaded.request_id;
            return match is_same {
                true => Granted::Repeated,
                false => Granted::TooSoon,
            };
        }
        self.reloaded = Some(Reloaded {
            at: now,
            request_id,
        });
        Granted::Yes
    }

    pub(super) const fn last(&self) -> Option<&ConfigUpdateStatus> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(change: ConfigChange, request_id: &str) -> ConfigUpdate {
        ConfigUpdate {
            request_id: request_id.to_owned(),
            change,
        }
    }

    #[test]
    fn a_reload_has_to_be_allowed_and_is_not_done_too_often() {
        let start = Instant::now();
        let reload = |id| update(ConfigChange::Reload, id);
        let mut refused = Updates::new(None);
        assert_eq!(refused.judge(&reload("u1"), start), Granted::NotAllowed);
        let interval = Duration::from_secs(30);
        let mut updates = Updates::new(Some(interval));
        let mut judge = |id, after| updates.judge(&reload(id), start + after);
        assert_eq!(judge("u1", Duration::ZERO), Granted::Yes);
        assert_eq!(judge("u1", Duration::from_secs(1)), Granted::Repeated);
        assert_eq!(judge("u2", Duration::from_secs(1)), Granted::TooSoon);
        // Those that were not done do not put it off.
        assert_eq!(judge("u2", interval), Granted::Yes);
        assert_eq!(judge("", 2 * interval), Granted::Yes);
        assert_eq!(judge("", 2 * interval), Granted::TooSoon);
    }

    #[test]
    fn what_nobody_could_do_is_not_done_and_remembered() {
        let now = Instant::now();
        let mut updates = Updates::new(Some(Duration::from_secs(1)));
        let restart = update(
            ConfigChange::Restart {
                reason: "ä".repeat(200),
                grace_period: None,
            },
            "u1",
        );
        assert_eq!(updates.judge(&restart, now), Granted::NotPossible);
        let last = updates.last().unwrap();
        assert_eq!(last.kind, "restart_required");
        assert_eq!(last.detail, "ä".repeat(128));
        let reload = update(ConfigChange::Reload, "u2");
        assert_eq!(updates.judge(&reload, now), Granted::Yes);
        updates.judge(&reload, now);
        assert_eq!(updates.last().unwrap().granted, Granted::Yes);
    }
}
