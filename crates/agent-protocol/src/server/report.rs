//! What an agent says without being asked: how it is, whether it wants events,
//! that what it said before holds no longer, its metrics, and that the proxy
//! should read its configuration again.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use crate::{FlowAction, HealthState, MetricsReport};

/// Tells all proxies how the agent is, on the connections that they have and
/// on those that they will make. Clones tell the same. A proxy that has been
/// told nothing takes the agent for healthy and willing.
///
/// What is told is the present state: of several changes at once, or while a
/// proxy does not read, it learns the last.
#[derive(Debug, Clone)]
pub struct Reporter {
    present: watch::Sender<Report>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self {
            present: watch::Sender::new(Report::WELL),
        }
    }
}

impl Reporter {
    /// Says how the agent is. While it is being shut down, proxies are told
    /// that it drains, whatever is said here.
    /// [`Unknown`](HealthState::Unknown) cannot be told, and leaves the state
    /// as it was.
    pub fn health(&self, health: HealthState) {
        if health != HealthState::Unknown {
            self.change(|report| report.health = health);
        }
    }

    /// Asks for no more events. Those that come all the same are worked on.
    pub fn pause(&self) {
        self.change(|report| report.paused = true);
    }

    /// Asks for events again.
    pub fn resume(&self) {
        self.change(|report| report.paused = false);
    }

    /// Takes back all verdicts that were to [hold for a
    /// while](crate::Decision::hold_for): proxies that have kept any ask
    /// again. To be called when what they came from has changed already: an
    /// event that a proxy sends after it has heard of this meets the new state,
    /// and an answer that it gets to an earlier one is not kept. A proxy that
    /// connects later is told too, for it may have been connected before.
    /// Proxies that do not know `verdict-ttl` keep nothing and are not told.
    pub fn purge_verdicts(&self) {
        self.change(|report| report.purges += 1);
    }

    /// Reports the agent's own metrics, as they have been counted since it
    /// began; to be called every few seconds. A proxy that connects later is
    /// told the last report. It shows a limited number of series, and none
    /// that it was not told of for some minutes.
    pub fn metrics(&self, report: MetricsReport) {
        let report = Arc::new(report);
        self.change(|present| {
            let version = present.metrics.as_ref().map_or(0, |(version, _)| *version);
            present.metrics = Some((version + 1, report));
        });
    }

    /// Asks the proxies that are connected now to read their configuration
    /// again. A proxy does so only where its configuration lets the agent, and
    /// not too often; there is no answer.
    pub fn request_reload(&self) {
        self.change(|report| report.reloads += 1);
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        self.present.send_if_modified(|present| {
            let before = present.clone();
            change(present);
            *present != before
        });
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Report {
    health: HealthState,
    paused: bool,
    /// How many times all verdicts were taken back.
    purges: u64,
    /// The last report, and how many there were.
    metrics: Option<(u64, Arc<MetricsReport>)>,
    /// How many times a reload was asked for.
    reloads: u64,
}

impl Report {
    /// What a proxy believes that has been told nothing.
    const WELL: Self = Self {
        health: HealthState::Healthy,
        paused: false,
        purges: 0,
        metrics: None,
        reloads: 0,
    };
}

/// How far the end of a server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has not begun.
    Not,
    /// Proxies are told, and what they send is still taken.
    Announced,
    /// Nothing more is read.
    Now,
}

/// Something that a proxy has to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    Purge,
    Health(HealthState),
    Flow(FlowAction),
    /// A reload is asked for, for the time of this number.
    Reload(u64),
    Metrics(Arc<MetricsReport>),
}

/// What a session is told by its server and its agent, and what of it its
/// proxy has been told.
pub(super) struct Signals {
    stops: BoxStream<'static, Stop>,
    stop: Stop,
    reports: BoxStream<'static, Report>,
    present: Report,
    told: Report,
}

impl Signals {
    pub(super) fn new(stop: watch::Receiver<Stop>, reporter: &Reporter) -> Self {
        let reports = reporter.present.subscribe();
        let (present, stopping) = (reports.borrow().clone(), *stop.borrow());
        // What was asked for before concerns those who were there then.
        let reloads = present.reloads;
        Self {
            stop: stopping,
            stops: values(stop),
            present,
            reports: values(reports),
            told: Report {
                reloads,
                ..Report::WELL
            },
        }
    }

    /// Takes note of what has changed, and says whether to stop.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Stop {
        while self.stop != Stop::Now {
            match self.stops.poll_next_unpin(cx) {
                Poll::Ready(Some(stop)) => self.stop = stop,
                // The whole server is gone.
                Poll::Ready(None) => self.stop = Stop::Now,
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(report)) = self.reports.poll_next_unpin(cx) {
            self.present = report;
        }
        self.stop
    }

    /// What the proxy has to be told next. It counts as told then.
    pub(super) fn news(&mut self) -> Option<News> {
        // What is wrong by now goes first.
        if self.present.purges != self.told.purges {
            self.told.purges = self.present.purges;
            return Some(News::Purge);
        }
        let health = match self.stop {
            Stop::Not => self.present.health,
            Stop::Announced | Stop::Now => HealthState::Draining,
        };
        if health != self.told.health {
            self.told.health = health;
            return Some(News::Health(health));
        }
        let paused = self.present.paused;
        if paused != self.told.paused {
            self.told.paused = paused;
            return Some(News::Flow(match paused {
                true => FlowAction::Pause,
                false => FlowAction::Resume,
            }));
        }
        if self.present.reloads != self.told.reloads {
            self.told.reloads = self.present.reloads;
            return Some(News::Reload(self.told.reloads));
        }
        let version = |report: &Report| report.metrics.as_ref().map(|(version, _)| *version);
        if version(&self.present) == version(&self.told) {
            return None;
        }
        self.told.metrics.clone_from(&self.present.metrics);
        let (_, report) = self.told.metrics.as_ref()?;
        Some(News::Metrics(Arc::clone(report)))
    }
}

// The values that follow the present one, until the sender is gone.
fn values<T: Clone + Send + Sync + 'static>(receiver: watch::Receiver<T>) -> BoxStream<'static, T> {
    let next = |mut receiver: watch::Receiver<T>| async move {
        receiver.changed().await.ok()?;
        let value = receiver.borrow_and_update().clone();
        Some((value, receiver))
    };
    stream::unfold(receiver, next).fuse().boxed()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let reporter = Reporter::default();
        let (stop, stopping) = watch::channel(Stop::Not);
        let mut signals = Signals::new(stopping, &reporter);
        let mut told = || {
            let stop = signals.poll(&mut Context::from_waker(Waker::noop()));
            (stop, [(); 3].map(|()| signals.news()))
        };
        assert_eq!(told(), (Stop::Not, [const { None }; 3]));
        reporter.pause();
        reporter.resume();
        reporter.health(HealthState::Unknown);
        assert_eq!(told(), (Stop::Not, [const { None }; 3]));
        reporter.pause();
        reporter.health(HealthState::Degraded);
        let degraded = Some(News::Health(HealthState::Degraded));
        assert_eq!(
            told(),
            (
                Stop::Not,
                [degraded, Some(News::Flow(FlowAction::Pause)), None]
            )
        );
        stop.send_replace(Stop::Announced);
        reporter.health(HealthState::Healthy);
        reporter.resume();
        let draining = Some(News::Health(HealthState::Draining));
        let expected = [draining, Some(News::Flow(FlowAction::Resume)), None];
        assert_eq!(told(), (Stop::Announced, expected));
        drop(stop);
        assert_eq!(told(), (Stop::Now, [const { None }; 3]));
        assert_eq!(told(), (Stop::Now, [const { None }; 3]));
    }

    #[test]
    fn several_purges_are_told_as_one_and_before_anything_else() {
        let reporter = Reporter::default();
        let (_stop, stopping) = watch::channel(Stop::Not);
        let mut signals = Signals::new(stopping.clone(), &reporter);
        reporter.pause();
        reporter.purge_verdicts();
        reporter.purge_verdicts();
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(signals.poll(&mut context), Stop::Not);
        assert_eq!(signals.news(), Some(News::Purge));
        assert_eq!(signals.news(), Some(News::Flow(FlowAction::Pause)));
        assert_eq!(signals.news(), None);
        // The proxy may have kept what it heard on an earlier connection.
        let mut later = Signals::new(stopping, &reporter);
        assert_eq!(later.news(), Some(News::Purge));
    }

    #[test]
    fn metrics_are_told_each_time_and_reloads_to_those_who_are_there() {
        let reporter = Reporter::default();
        let (_stop, stopping) = watch::channel(Stop::Not);
        let mut signals = Signals::new(stopping.clone(), &reporter);
        let mut context = Context::from_waker(Waker::noop());
        let report = Arc::new(MetricsReport::default());
        for _ in 0..2 {
            reporter.metrics(MetricsReport::default());
            assert_eq!(signals.poll(&mut context), Stop::Not);
            assert_eq!(signals.news(), Some(News::Metrics(Arc::clone(&report))));
            assert_eq!(signals.news(), None);
        }
        reporter.request_reload();
        assert_eq!(signals.poll(&mut context), Stop::Not);
        assert_eq!(signals.news(), Some(News::Reload(1)));
        assert_eq!(signals.news(), None);
        let mut later = Signals::new(stopping, &reporter);
        assert_eq!(later.news(), Some(News::Metrics(report)));
        assert_eq!(later.news(), None);
    }

    #[test]
    fn a_new_session_is_told_the_present_state() {
        let reporter = Reporter::default();
        reporter.pause();
        let (_stop, stopping) = watch::channel(Stop::Not);
        let mut signals = Signals::new(stopping, &reporter);
        assert_eq!(signals.news(), Some(News::Flow(FlowAction::Pause)));
        assert_eq!(signals.news(), None);
    }
}
