//! What is counted of a shadow agent on a route.

use super::report::{Pair, Sample};
use crate::telemetry::metrics::ShadowMetrics;
use chrono::{DateTime, SecondsFormat, Utc};
use portcullis_agent_manager::{Record, RecordedVerdict};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Disagreements that are remembered of each shadow agent on each route, the newest.
const MOST_SAMPLES: usize = 20;

/// What an enforced verdict is called that there is not.
const NONE: &str = "none";

/// Why a shadow agent is not shown a request, or no more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// As many events wait for it as may.
    Calls,
    /// Copies take as much memory as they may.
    Memory,
    /// The rest of a coded body is not decoded, because nobody else looks at it.
    Coding,
    /// The request has been over for as long as the agent is asked on.
    Time,
}

impl Dropped {
    /// The name in metrics.
    const fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Memory => "memory",
            Self::Coding => "coding",
            Self::Time => "time",
        }
    }
}

/// The counts of a shadow agent on a route. They outlive the configuration.
pub(super) struct Tally {
    metrics: ShadowMetrics,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// By the names of both verdicts. Names are few, so they stand in a list.
    pairs: Vec<(&'static str, &'static str, Meeting, u64)>,
    dropped: u64,
    samples: VecDeque<Sample>,
}

/// What it means that two verdicts met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Meeting {
    Agreed,
    Disagreed,
    /// There is none of the shadow agent, because something went wrong.
    Failed,
    /// There is none of one of them, and nothing is wrong with that.
    NotCompared,
}

impl Meeting {
    fn of(shadow: RecordedVerdict, enforced: Option<RecordedVerdict>) -> Self {
        match enforced.filter(|enforced| enforced.is_verdict()) {
            _ if shadow.is_failure() => Self::Failed,
            Some(enforced) if shadow.is_verdict() => match shadow == enforced {
                true => Self::Agreed,
                false => Self::Disagreed,
            },
            _ => Self::NotCompared,
        }
    }
}

/// What a [`Tally`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) compared: u64,
    pub(super) agreed: u64,
    pub(super) failed: u64,
    pub(super) not_compared: u64,
    pub(super) dropped: u64,
    pub(super) verdicts: Vec<Pair>,
    pub(super) disagreements: Vec<Sample>,
}

impl Tally {
    pub(super) fn new(metrics: ShadowMetrics) -> Self {
        Self {
            metrics,
            counts: Mutex::default(),
        }
    }

    /// Counts what became of a question, beside what was enforced, if anything was.
    pub(super) fn count(
        &self,
        record: &Record,
        enforced: Option<RecordedVerdict>,
        request_id: &str,
    ) {
        let meeting = Meeting::of(record.verdict, enforced);
        let shadow = record.verdict.name();
        let enforced = enforced.map_or(NONE, RecordedVerdict::name);
        self.metrics.verdict(shadow, enforced);
        let sample = (meeting == Meeting::Disagreed).then(|| Sample {
            request_id: request_id.to_owned(),
            ts: DateTime::<Utc>::from(SystemTime::now())
                .to_rfc3339_opts(SecondsFormat::Millis, true),
            phase: record.phase.name().to_owned(),
            shadow: shadow.to_owned(),
            enforced: enforced.to_owned(),
            reason: record.reason.clone(),
        });
        let mut counts = self.counts();
        let known = counts
            .pairs
            .iter_mut()
            .find(|(one, other, ..)| (*one, *other) == (shadow, enforced));
        match known {
            Some((.., count)) => *count += 1,
            None => counts.pairs.push((shadow, enforced, meeting, 1)),
        }
        if let Some(sample) = sample {
            counts.samples.truncate(MOST_SAMPLES - 1);
            counts.samples.push_front(sample);
        }
    }

    /// The agent is not shown a request, or no more of it.
    pub(super) fn dropped(&self, why: Dropped) {
        self.metrics.dropped(why.name());
        self.counts().dropped += 1;
    }

    /// The agent is obeyed for nobody any longer.
    pub(super) fn fell_back(&self) {
        self.metrics.fell_back();
    }

    pub(super) fn counted(&self) -> Counted {
        let counts = self.counts();
        let mut pairs = counts.pairs.clone();
        pairs.sort_unstable();
        let mut counted = Counted {
            dropped: counts.dropped,
            disagreements: counts.samples.iter().cloned().collect(),
            ..Counted::default()
        };
        drop(counts);
        let mut disagreed = 0;
        for (shadow, enforced, meeting, count) in pairs {
            match meeting {
                Meeting::Agreed => counted.agreed += count,
                Meeting::Disagreed => disagreed += count,
                Meeting::Failed => counted.failed += count,
                Meeting::NotCompared => counted.not_compared += count,
            }
            counted.verdicts.push(Pair {
                shadow: shadow.to_owned(),
                enforced: enforced.to_owned(),
                count,
            });
        }
        counted.compared = counted.agreed + disagreed;
        counted
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use portcullis_agent_manager::{FailureReason, Phase, RecordedVerdict};
    use portcullis_config::FailureMode;
    use std::time::Duration;

    fn record(verdict: RecordedVerdict) -> Record {
        Record {
            agent: "next".into(),
            phase: Phase::RequestHeaders,
            verdict,
            reason: Some("rule:1".into()),
            tags: Vec::new(),
            duration: Duration::ZERO,
            calls: 1,
            cached: false,
        }
    }

    #[test]
    fn verdicts_are_compared_and_failures_are_not() {
        let tally = Tally::new(Metrics::new().shadow("all", &"next".into()));
        let failed = RecordedVerdict::Failed {
            reason: FailureReason::Timeout,
            mode: FailureMode::Closed,
        };
        let refused = RecordedVerdict::Refused(FailureReason::Oversize);
        use RecordedVerdict::{Allow, Block, Close, Drop, Skipped};
        for (verdict, enforced) in [
            (Allow, Some(Allow)),
            (Allow, Some(Allow)),
            (Block, Some(Block)),
            (Drop, Some(Drop)),
            (Close, Some(Close)),
            (Block, Some(Allow)),
            // Without a verdict on both sides there is nothing to compare.
            (Block, Some(failed)),
            (Allow, None),
            (Allow, Some(Skipped)),
            (Skipped, Some(Allow)),
            (failed, Some(Allow)),
            (failed, Some(failed)),
            (failed, None),
            (refused, Some(Allow)),
        ] {
            tally.count(&record(verdict), enforced, "id");
        }
        tally.dropped(Dropped::Memory);
        let counted = tally.counted();
        assert_eq!((counted.compared, counted.agreed), (6, 5));
        assert_eq!((counted.failed, counted.not_compared), (4, 4));
        assert_eq!((counted.dropped, counted.verdicts.len()), (1, 13));
        let [sample] = &counted.disagreements[..] else {
            panic!("{:?}", counted.disagreements);
        };
        assert_eq!((&*sample.shadow, &*sample.enforced), ("block", "allow"));
        assert_eq!(sample.reason.as_deref(), Some("rule:1"));
    }

    #[test]
    fn the_newest_disagreements_are_kept() {
        let tally = Tally::new(Metrics::new().shadow("all", &"next".into()));
        for number in 0..50 {
            let id = number.to_string();
            tally.count(
                &record(RecordedVerdict::Block),
                Some(RecordedVerdict::Allow),
                &id,
            );
        }
        let samples = tally.counted().disagreements;
        assert_eq!(samples.len(), MOST_SAMPLES);
        assert_eq!(samples[0].request_id, "49");
        assert_eq!(samples[MOST_SAMPLES - 1].request_id, "30");
    }
}
