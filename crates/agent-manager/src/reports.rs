//! What an agent says unasked about other things than how it is: its metrics, what it wants to happen to the configuration,
//! and what it wants to stand in the log. All of it is bounded here, because it has the length and the pace that the agent
//! gives it.

mod metrics;
mod updates;

use crate::{allowance::Allowance, observer::AgentObserver};
use metrics::Reported;
use portcullis_agent_protocol::{
    ConfigUpdate, ControlHandler, ControlMessage, LogEntry, LogLevel, Metric, MetricsReport,
};
use portcullis_config::AgentId;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use updates::Updates;
pub use updates::{ConfigUpdateStatus, Granted};

/// What an agent may say of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportSettings {
    /// So many series of its metrics are kept; further ones are dropped and counted.
    pub max_series: usize,
    /// It may have the configuration read again, and no sooner than this after the last time that it did; `None`: it may
    /// not.
    pub reload_interval: Option<Duration>,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            max_series: 200,
            reload_interval: None,
        }
    }
}

/// What became of the metrics that an agent has reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportedStatus {
    /// Series that are kept; a histogram has one for each of its buckets, and two more.
    pub series: usize,
    /// Reports that have come.
    pub reports: u64,
    /// Series that were dropped because there were as many as there may be, counted in each report anew.
    pub over_limit: u64,
    /// Entries that were dropped because of what they were: names, labels or numbers that cannot be shown.
    pub invalid: u64,
}

/// Lines of one agent in our log in one second, for each of the two: what it wants there, and what we say of its wishes.
const ENTRIES_PER_SECOND: u32 = 100;
const WISHES_PER_SECOND: u32 = 5;
/// More of an entry is cut off.
const LONGEST_MESSAGE_BYTES: usize = 4096;
/// More fields of an entry, or longer ones, are cut off.
const MOST_FIELDS: usize = 16;
const LONGEST_FIELD_BYTES: usize = 256;

/// What one agent has said.
pub(crate) struct Reports {
    id: AgentId,
    observer: Option<Arc<dyn AgentObserver>>,
    state: Mutex<State>,
}

struct State {
    metrics: Reported,
    updates: Updates,
    entries: Allowance,
    wishes: Allowance,
}

impl Reports {
    pub(crate) fn new(
        id: AgentId,
        settings: ReportSettings,
        observer: Option<Arc<dyn AgentObserver>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            id,
            observer,
            state: Mutex::new(State {
                metrics: Reported::new(settings.max_series),
                updates: Updates::new(settings.reload_interval),
                entries: Allowance::new(ENTRIES_PER_SECOND, now),
                wishes: Allowance::new(WISHES_PER_SECOND, now),
            }),
        }
    }

    /// What hears the agent on its connections. `also` hears all of it first.
    pub(crate) fn hearing(self: &Arc<Self>, also: Option<ControlHandler>) -> ControlHandler {
        let reports = self.clone();
        Arc::new(move |message| {
            if let Some(also) = &also {
                also(message);
            }
            reports.hear(message, Instant::now());
        })
    }

    fn hear(&self, message: &ControlMessage, now: Instant) {
        match message {
            ControlMessage::Metrics(report) => self.metrics(report, now),
            ControlMessage::ConfigUpdate(update) => self.config_update(update, now),
            ControlMessage::Log(entry) => self.log(entry, now),
            ControlMessage::Health(_)
            | ControlMessage::FlowControl(_)
            | ControlMessage::PurgeVerdicts
            | ControlMessage::Pong { .. } => {}
        }
    }

    fn metrics(&self, report: &MetricsReport, now: Instant) {
        if let Some(first) = self.state().metrics.take(report, now) {
            tracing::warn!(agent = %self.id, "metrics of this agent are dropped: {first}");
        }
    }

    fn config_update(&self, update: &ConfigUpdate, now: Instant) {
        let mut state = self.state();
        let granted = state.updates.judge(update, now);
        let dropped = state.wishes.take(now);
        drop(state);
        if let Some(observer) = &self.observer {
            observer.config_update(&update.change, granted);
        }
        let Some(dropped) = dropped else { return };
        let (kind, detail) = (update.change.name(), shortened(&update.change.detail()));
        let request_id = shortened(&update.request_id);
        match granted {
            Granted::Yes => {
                tracing::info!(agent = %self.id, ?request_id, dropped, "agent asks for a reload of the configuration");
            }
            Granted::Repeated => {
                tracing::debug!(agent = %self.id, ?request_id, "agent asks for the same reload once more");
            }
            refused => {
                tracing::warn!(agent = %self.id, kind, ?detail, ?request_id, dropped, "agent asks for a change that is not made: {}", refused.reason());
            }
        }
    }

    fn log(&self, entry: &LogEntry, now: Instant) {
        let Some(dropped) = self.state().entries.take(now) else {
            return;
        };
        if dropped > 0 {
            tracing::warn!(agent = %self.id, dropped, "the agent logs too much, entries were dropped");
        }
        let message = cut(&entry.message, LONGEST_MESSAGE_BYTES);
        let fields = entry.fields.iter().take(MOST_FIELDS);
        let fields: serde_json::Map<_, _> = fields
            .map(|(name, value)| (shortened(name), shortened(value).into()))
            .collect();
        let fields = match fields.is_empty() {
            true => String::new(),
            false => serde_json::Value::from(fields).to_string(),
        };
        /// The level of an event is part of where it is in the program.
        macro_rules! log {
            ($level:ident) => {
                tracing::event!(target: "portcullis::agent_output", tracing::Level::$level, agent = %self.id, fields, "{message}")
            };
        }
        match entry.level {
            LogLevel::Debug => log!(DEBUG),
            LogLevel::Info => log!(INFO),
            LogLevel::Warn => log!(WARN),
            LogLevel::Error => log!(ERROR),
        }
    }

    /// The metrics that hold, by name.
    pub(crate) fn reported(&self) -> Vec<Metric> {
        self.state().metrics.now(Instant::now())
    }

    /// The agent is another process than the one that reported: what it has not said is not so.
    pub(crate) fn forget_metrics(&self) {
        self.state().metrics.clear();
    }

    pub(crate) fn status(&self) -> (ReportedStatus, Option<ConfigUpdateStatus>) {
        let state = self.state();
        (state.metrics.status(), state.updates.last().cloned())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(text: &str) -> String {
    cut(text, LONGEST_FIELD_BYTES).to_owned()
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;
    use tracing::{
        Event, Level, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<(Level, String)>>>);

    impl Subscriber for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            struct Line(String);
            impl Visit for Line {
                fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                    self.0 += &format!("{field}={value:?};");
                }
            }
            let mut line = Line(String::new());
            event.record(&mut line);
            let kept = (*event.metadata().level(), line.0);
            self.0.lock().unwrap().push(kept);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn entry(level: LogLevel, message: &str) -> ControlMessage {
        let fields = [("rule".to_owned(), "942100".to_owned())];
        ControlMessage::Log(LogEntry {
            level,
            message: message.to_owned(),
            fields: fields.to_vec(),
        })
    }

    #[test]
    fn what_agents_log_is_in_our_log_with_their_names_and_not_too_much_of_it() {
        let kept = Kept::default();
        let reports = Reports::new("waf".into(), ReportSettings::default(), None);
        let now = Instant::now();
        tracing::subscriber::with_default(kept.clone(), || {
            reports.hear(&entry(LogLevel::Warn, "rule disabled"), now);
            let long = "x".repeat(LONGEST_MESSAGE_BYTES + 1);
            for _ in 0..ENTRIES_PER_SECOND + 7 {
                reports.hear(&entry(LogLevel::Debug, &long), now);
            }
            let later = now + Duration::from_secs(1);
            reports.hear(&entry(LogLevel::Error, "again"), later);
        });
        let lines = kept.0.lock().unwrap();
        let (level, first) = &lines[0];
        assert_eq!(*level, Level::WARN);
        assert!(first.contains("agent=waf;"), "{first}");
        assert!(first.contains("942100"), "{first}");
        assert!(first.contains("message=rule disabled;"), "{first}");
        assert!(lines[1].1.len() < LONGEST_MESSAGE_BYTES + 200);
        // Those of the first second, that some are missing, and the one after.
        assert_eq!(lines.len(), ENTRIES_PER_SECOND as usize + 2);
        assert!(lines[lines.len() - 2].1.contains("dropped=8;"));
        assert_eq!(lines[lines.len() - 1].0, Level::ERROR);
    }
}
