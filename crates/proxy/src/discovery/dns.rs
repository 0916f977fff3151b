//! Names and SRV records, asked for without blocking anybody. Nothing is cached: how long an answer is used is up to the source.

use super::source::{Answer, Found, MOST_TARGETS};
use futures::{StreamExt, stream};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How long one server may take to answer.
const SERVER_WITHIN: Duration = Duration::from_secs(2);
/// How often it is asked again.
const RETRIES: usize = 1;
/// How long an answer may take in all, whatever servers and search domains there are.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Hosts of SRV records that are asked for at the same time.
const AT_ONCE: usize = 8;

/// Who is asked.
pub(super) struct Resolver(TokioResolver);

impl Resolver {
    /// Asks these servers; without any, those of the system, after its hosts file.
    ///
    /// # Errors
    /// The system does not say whom to ask.
    pub(super) fn new(servers: &[SocketAddr]) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| {
                format!("the system does not say who resolves names (/etc/resolv.conf: {error}): write `resolver \"…\"` in `system`")
            })?
        } else {
            let servers = servers.iter().copied().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = SERVER_WITHIN;
        options.attempts = RETRIES;
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = match servers.is_empty() {
            true => ResolveHosts::Always,
            false => ResolveHosts::Never,
        };
        builder
            .build()
            .map(Self)
            .map_err(|error| format!("names cannot be resolved: {error}"))
    }

    /// All addresses of a name, with a port.
    ///
    /// # Errors
    /// There is no answer, or it has no address.
    pub(super) async fn name(&self, host: &str, port: u16) -> Result<Answer, String> {
        let (addresses, valid_for) = self.addresses(host).await?;
        let found = addresses.into_iter().map(|ip| Found {
            address: SocketAddr::new(ip, port),
            weight: 1,
            priority: 0,
        });
        Ok(Answer {
            found: found.collect(),
            valid_for: Some(valid_for),
        })
    }

    /// All addresses of all hosts that the SRV records of a name say.
    ///
    /// # Errors
    /// There is no answer, or none of its hosts has an address.
    pub(super) async fn service(&self, name: &str) -> Result<Answer, String> {
        let lookup = within(self.0.srv_lookup(name)).await?;
        let mut valid_for = until(lookup.valid_until());
        let records: Vec<_> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => {
                    Some((srv.priority, srv.weight, srv.port, srv.target.to_string()))
                }
                _ => None,
            })
            // A lone dot says that there is no such service (RFC 2782).
            .filter(|(.., host)| host != ".")
            .take(MOST_TARGETS)
            .collect();
        let mut hosts = stream::iter(records)
            .map(|(priority, weight, port, host)| async move {
                let addresses = self.addresses(&host).await;
                (priority, weight, port, addresses)
            })
            .buffer_unordered(AT_ONCE);
        let (mut found, mut problem) = (Vec::new(), None);
        while let Some((priority, weight, port, addresses)) = hosts.next().await {
            match addresses {
                Ok((addresses, valid)) => {
                    valid_for = valid_for.min(valid);
                    found.extend(addresses.into_iter().map(|ip| Found {
                        address: SocketAddr::new(ip, port),
                        // Weight 0 is for servers that shall hardly be asked.
                        weight: u32::from(weight.max(1)),
                        priority,
                    }));
                }
                Err(error) => problem = Some(error),
            }
        }
        match (found.is_empty(), problem) {
            (true, Some(problem)) => Err(problem),
            (true, None) => Err("there is no such service".to_owned()),
            (false, _) => Ok(Answer {
                found,
                valid_for: Some(valid_for),
            }),
        }
    }

    async fn addresses(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let lookup = within(self.0.lookup_ip(host)).await?;
        let addresses: Vec<IpAddr> = lookup.iter().take(MOST_TARGETS).collect();
        match addresses.is_empty() {
            true => Err("it has no address".to_owned()),
            false => Ok((addresses, until(lookup.valid_until()))),
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

async fn within<T, E: fmt::Display>(
    lookup: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, lookup).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn until(moment: Instant) -> Duration {
    moment.saturating_duration_since(Instant::now())
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
