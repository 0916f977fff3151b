//! Targets that are found while the process runs: by the addresses of a name, by the SRV records of a service, in a file.
//!
//! Each of them is a [`Source`] with a task of its own on the main thread, which asks again and again and keeps the last good
//! answer, whatever comes after it. A source belongs to an upstream and stays over a reload that leaves it as it is. Nothing here
//! waits for an answer but `settled`, and that not for long.

mod dns;
mod file;
mod source;

use crate::telemetry::metrics::{DiscoveryMetrics, Metrics};
use dns::Resolver;
use portcullis_config::{Origin, TargetAddress, Upstream, UpstreamId};
pub(crate) use source::{Changes, Source};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// All sources of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    /// What `resolver` says.
    servers: Vec<SocketAddr>,
    /// There is none where no name has to be resolved.
    resolver: Option<Arc<Resolver>>,
    sources: Vec<Arc<Source>>,
}

impl Discovery {
    /// The sources of these upstreams, which ask these servers for names, or those of the system. Those that the one before has too are the same, and others that ask for the same begin
    /// with what it has found.
    ///
    /// # Errors
    /// The system does not say who resolves names, or a file lists no targets and never has.
    pub(crate) fn new(
        servers: &[SocketAddr],
        upstreams: &[Upstream],
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        let previous_resolver = previous
            .filter(|previous| previous.servers == servers)
            .and_then(|previous| previous.resolver.clone());
        let mut discovery = Self {
            servers: servers.to_vec(),
            resolver: previous_resolver,
            sources: Vec::new(),
        };
        for (upstream, address) in found_targets(upstreams) {
            let known = previous.and_then(|previous| previous.source(upstream, address));
            let source = discovery.make(upstream, address, known, metrics);
            let source = source.map_err(|problem| format!("upstream {upstream}: {problem}"))?;
            discovery.sources.push(source);
        }
        Ok(discovery)
    }

    fn make(
        &mut self,
        upstream: &UpstreamId,
        address: &TargetAddress,
        known: Option<&Arc<Source>>,
        metrics: &Metrics,
    ) -> Result<Arc<Source>, String> {
        let resolver = match address {
            TargetAddress::File { .. } => None,
            _ => Some(self.resolver()?),
        };
        if let Some(known) = known
            && known.asks(resolver.as_ref())
        {
            return Ok(known.clone());
        }
        let found = known.and_then(|known| known.found());
        let counts = DiscoveryMetrics::of(metrics, upstream);
        Source::start(upstream, address, resolver, found, counts).map(Arc::new)
    }

    fn resolver(&mut self) -> Result<Arc<Resolver>, String> {
        if let Some(resolver) = &self.resolver {
            return Ok(resolver.clone());
        }
        let resolver = Arc::new(Resolver::new(&self.servers)?);
        self.resolver = Some(resolver.clone());
        Ok(resolver)
    }

    /// The source of an upstream that finds these targets.
    pub(crate) fn source(
        &self,
        upstream: &UpstreamId,
        address: &TargetAddress,
    ) -> Option<&Arc<Source>> {
        self.sources
            .iter()
            .find(|source| source.is_of(upstream, address))
    }

    /// Waits until every source has asked once, with or without success, but not for longer than this.
    pub(crate) async fn settled(&self, within: Duration) {
        let all = async {
            for source in &self.sources {
                source.asked().await;
            }
        };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!(
                "some names are not resolved yet; their upstreams have no targets until they are"
            );
        }
    }
}

/// Targets of the configuration that stand for those that are found.
fn found_targets(upstreams: &[Upstream]) -> impl Iterator<Item = (&UpstreamId, &TargetAddress)> {
    upstreams.iter().flat_map(|upstream| {
        let targets = match &upstream.origin {
            Origin::Targets(targets) => targets.as_slice(),
            Origin::BuiltinEcho => &[],
        };
        let addresses = targets.iter().map(|target| &target.address);
        addresses
            .filter(|address| address.is_found())
            .map(|address| (&upstream.id, address))
    })
}
