//! One source of targets: asks, waits, asks again, and remembers the last good answer.

use super::{
    dns::Resolver,
    file::{self, Stamp},
};
use crate::telemetry::metrics::DiscoveryMetrics;
use portcullis_config::{TargetAddress, UpstreamId};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, task::AbortHandle};

/// Targets that one source may find; what is more is left out of an answer, and makes a file void.
pub(super) const MOST_TARGETS: usize = 1024;
/// How long an answer is used at least and at most where its records decide.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(300);
/// After how long it is asked again when there was no answer; it doubles up to the latter.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A target that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    /// Lower ones come first, others when none of those is left.
    pub(crate) priority: u16,
    pub(crate) address: SocketAddr,
    pub(crate) weight: u32,
}

/// What a source has found at once.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) found: Vec<Found>,
    /// As the records say; `None`: until there is another.
    pub(super) valid_for: Option<Duration>,
}

/// What is known now.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The last good answer.
    found: Option<Arc<[Found]>>,
    /// Something has come of asking, be it nothing.
    asked: bool,
}

/// See the module. Its task ends with it.
#[derive(Debug)]
pub(crate) struct Source {
    upstream: UpstreamId,
    address: TargetAddress,
    resolver: Option<Arc<Resolver>>,
    known: watch::Receiver<Known>,
    task: AbortHandle,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    /// Begins to ask. `found` is what another source has found that asked for the same.
    ///
    /// # Errors
    /// A file cannot be used, and nothing was found before. Others may have to be waited for.
    pub(super) fn start(
        upstream: &UpstreamId,
        address: &TargetAddress,
        resolver: Option<Arc<Resolver>>,
        found: Option<Arc<[Found]>>,
        counts: DiscoveryMetrics,
    ) -> Result<Self, String> {
        let mut known = Known {
            found,
            asked: false,
        };
        let mut stamp = None;
        if let TargetAddress::File { path, .. } = address {
            match file::read(path, None) {
                Ok(Some((answer, read))) => {
                    known = Known {
                        found: Some(ordered(answer.found)),
                        asked: true,
                    };
                    stamp = Some(read);
                }
                Ok(None) => {}
                Err(unusable) if known.found.is_none() => return Err(unusable.problem),
                Err(_) => {}
            }
        }
        let (sender, receiver) = watch::channel(known);
        let asking = Asking {
            upstream: upstream.clone(),
            address: address.clone(),
            resolver: resolver.clone(),
            known: sender,
            counts,
            stamp,
            failures: 0,
        };
        Ok(Self {
            upstream: upstream.clone(),
            address: address.clone(),
            resolver,
            known: receiver,
            task: tokio::spawn(asking.forever()).abort_handle(),
        })
    }

    pub(super) fn is_of(&self, upstream: &UpstreamId, address: &TargetAddress) -> bool {
        self.upstream == *upstream && self.address == *address
    }

    /// Whether it asks this resolver.
    pub(super) fn asks(&self, resolver: Option<&Arc<Resolver>>) -> bool {
        match (&self.resolver, resolver) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// The last good answer.
    pub(crate) fn found(&self) -> Option<Arc<[Found]>> {
        self.known.borrow().found.clone()
    }

    /// Waits until it was asked once.
    pub(super) async fn asked(&self) {
        // An error means that the task is gone, and nothing will come of it.
        let _ = self.known.clone().wait_for(|known| known.asked).await;
    }

    /// What tells that there is another answer.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.known.clone())
    }
}

/// Tells that a source has found something else.
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<Known>);

impl Changes {
    /// Waits for another answer; false when there will be none.
    pub(crate) async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// The task of a source.
struct Asking {
    upstream: UpstreamId,
    address: TargetAddress,
    resolver: Option<Arc<Resolver>>,
    known: watch::Sender<Known>,
    counts: DiscoveryMetrics,
    /// Of the file that was read last.
    stamp: Option<Stamp>,
    /// In a row.
    failures: u32,
}

impl Asking {
    async fn forever(mut self) {
        loop {
            let wait = match self.look_up().await {
                Ok(Some(answer)) => self.take(answer),
                Ok(None) => self.interval().unwrap_or(LEAST),
                Err(problem) => self.fail(&problem),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// `None`: it is what it was.
    async fn look_up(&mut self) -> Result<Option<Answer>, String> {
        match (&self.address, &self.resolver) {
            (TargetAddress::Name { host, port, .. }, Some(resolver)) => {
                resolver.name(host, *port).await.map(Some)
            }
            (TargetAddress::Service { name, .. }, Some(resolver)) => {
                resolver.service(name).await.map(Some)
            }
            (TargetAddress::File { path, .. }, _) => {
                let path = path.clone();
                self.look(path).await
            }
            _ => Err("there is nobody to ask".to_owned()),
        }
    }

    /// A file system may be slow, and the thread has other things to do.
    async fn look(&mut self, path: PathBuf) -> Result<Option<Answer>, String> {
        let before = self.stamp;
        let read = tokio::task::spawn_blocking(move || file::read(&path, before)).await;
        match read.map_err(|error| error.to_string())? {
            Ok(None) => Ok(None),
            Ok(Some((answer, stamp))) => {
                self.stamp = Some(stamp);
                Ok(Some(answer))
            }
            Err(unusable) => {
                // One that is bad is not read again before it is another.
                self.stamp = unusable.stamp;
                Err(unusable.problem)
            }
        }
    }

    fn interval(&self) -> Option<Duration> {
        match &self.address {
            TargetAddress::Name { resolve, .. } | TargetAddress::Service { resolve, .. } => {
                *resolve
            }
            TargetAddress::File { interval, .. } => Some(*interval),
            TargetAddress::Socket(_) | TargetAddress::Unix(_) => None,
        }
    }

    fn take(&mut self, answer: Answer) -> Duration {
        self.counts.found.inc();
        if self.failures > 0 {
            tracing::info!(upstream = %self.upstream, address = %self.address, "targets are found again");
        }
        self.failures = 0;
        let found = ordered(answer.found);
        self.known.send_if_modified(|known| {
            let is_other = known.found.as_ref() != Some(&found);
            if is_other {
                tracing::info!(upstream = %self.upstream, address = %self.address, count = found.len(), "targets were found");
                known.found = Some(found);
            }
            let is_first = !std::mem::replace(&mut known.asked, true);
            is_other || is_first
        });
        let by_records = answer.valid_for.unwrap_or(MOST).clamp(LEAST, MOST);
        self.interval().unwrap_or(by_records)
    }

    /// Says so once, and again only after there was an answer.
    fn fail(&mut self, problem: &str) -> Duration {
        self.counts.failed.inc();
        if self.failures == 0 {
            let kept = self
                .known
                .borrow()
                .found
                .as_ref()
                .map_or(0, |found| found.len());
            tracing::warn!(upstream = %self.upstream, address = %self.address, problem, kept, "targets are not found");
        }
        let retry = FIRST_RETRY * 2_u32.saturating_pow(self.failures.min(5));
        self.failures += 1;
        self.known
            .send_if_modified(|known| !std::mem::replace(&mut known.asked, true));
        retry
            .min(self.interval().unwrap_or(LAST_RETRY))
            .min(LAST_RETRY)
    }
}

/// In an order of its own, so that answers that differ in nothing else are the same.
fn ordered(mut found: Vec<Found>) -> Arc<[Found]> {
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST_TARGETS);
    found.into()
}
