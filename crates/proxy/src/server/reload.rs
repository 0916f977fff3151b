//! Another configuration takes effect while requests are served, or everything stays as it is.
//!
//! What can go wrong goes wrong first: files are read and checked, addresses are bound, logs are opened, agents are started
//! and have accepted what they are configured with. Only then do the workers take the new snapshot, all within moments.
//! Requests that have begun keep the old one to their end, and with it the old agents.

use super::{
    Process, ServeError, TARGETS_FOUND_WITHIN, access_log_error, agents, bytes,
    changes::Changes,
    listeners, manager, reached, reverse,
    tls::{self, TlsOfListeners},
};
use crate::{
    admin,
    snapshot::{Parts, Snapshot},
    telemetry::{access_log::Sink, notify},
    trace,
};
use portcullis_agent_manager::{AgentManager, supervise::Launch};
use portcullis_config::{AgentId, Config};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a reload waits for agents that are new in it. Those of closed routes would refuse requests until they are ready.
const AGENTS_READY_WITHIN: Duration = Duration::from_secs(5);

/// Everything that a configuration needs and that can fail, in place and not yet in use.
struct Prepared {
    listeners: listeners::Plan,
    admin: admin::Plan,
    doors: reverse::Plan,
    /// `None`: as it is.
    access_log: Option<Sink>,
    snapshot: Arc<Snapshot>,
}

impl Process {
    /// Reads the configuration again and puts it into effect. What is wrong is reported, and changes nothing.
    pub(super) async fn reload(&mut self) {
        let started = Instant::now();
        notify::reloading();
        tracing::info!("reloading the configuration");
        let done = self.try_reload().await;
        let config_metrics = &self.telemetry.metrics.config;
        match done {
            Some(()) => config_metrics.reloaded(started.elapsed()),
            None => {
                config_metrics.reload_failed(started.elapsed());
                tracing::error!("the configuration was not reloaded, everything stays as it is");
            }
        }
        notify::ready();
    }

    async fn try_reload(&mut self) -> Option<()> {
        let load = self.load.clone();
        // Files may be slow, and probes want their answers meanwhile. A panic is an error as good as any.
        let config = tokio::task::spawn_blocking(move || load()).await.ok()??;
        let changes = Changes::between(&self.config, &config);
        let launches = agents::launches(&config, &self.executable);
        match self.prepare(&config).await {
            Ok(prepared) => {
                let committed = self.commit(config, prepared, &launches).await;
                if let Err(error) = committed {
                    // Nothing of this depends on the configuration: a worker is gone, and the process is not well.
                    tracing::error!(%error, "the configuration is not in effect everywhere");
                    return None;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the configuration cannot be put into effect");
                self.abandon().await;
                return None;
            }
        }
        let generation = self.telemetry.metrics.config.generation();
        tracing::info!(generation = generation + 1, %changes, "configuration reloaded");
        for setting in changes.restart {
            tracing::warn!(
                setting,
                "this takes effect when the process is started again"
            );
        }
        Some(())
    }

    async fn prepare(&mut self, config: &Config) -> Result<Prepared, ServeError> {
        let log = &config.observability.access_log;
        let access_log = match *log == self.config.observability.access_log {
            true => None,
            false => {
                Some(Sink::open(log.as_ref()).map_err(|source| access_log_error(config, source))?)
            }
        };
        let tls = self.load_tls(config).await?;
        let listeners = self
            .listeners
            .plan(&config.listeners, &tls, self.workers.count())?;
        let admin = self.admin.plan(config).await?;
        let supervisor = &mut self.supervisor;
        let (settings, doors) = reached(config, &self.executable, supervisor, &self.doors).await?;
        let old = &self.snapshot;
        let manager = manager(
            settings,
            Some(&old.agents),
            &self.telemetry,
            &self.reload_asked,
        );
        let snapshot = Arc::new(self.compile(config, manager).await?);
        snapshot.targets_are_found(TARGETS_FOUND_WITHIN).await;
        self.workers.prepare(&snapshot).await?;
        let awaited = |agent: &AgentId| agents::is_awaited(config, agent);
        await_agents(&snapshot.agents, &old.agents, awaited).await?;
        Ok(Prepared {
            listeners,
            admin,
            doors,
            access_log,
            snapshot,
        })
    }

    /// Files may be slow, here too.
    async fn load_tls(&self, config: &Config) -> Result<TlsOfListeners, ServeError> {
        let (listeners, in_use) = (config.listeners.clone(), self.listeners.tls());
        let loaded = tokio::task::spawn_blocking(move || tls::load(&listeners, &in_use)).await;
        // A panic is an error as good as any.
        Ok(loaded.map_err(io::Error::other)??)
    }

    /// Certificates, folders and lists of targets are in files as well.
    async fn compile(
        &self,
        config: &Config,
        agents: Arc<AgentManager>,
    ) -> Result<Snapshot, ServeError> {
        let (config, echo) = (config.clone(), self.echo_socket());
        let (telemetry, beside) = (self.telemetry.clone(), self.beside.clone());
        let (buffer_memory, sockets) = (self.buffer_memory.clone(), self.sockets.clone());
        let previous = self.snapshot.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let parts = Parts {
                agents,
                metrics: &telemetry.metrics,
                buffer_memory: &buffer_memory,
                sockets: &sockets,
                beside: &beside,
                echo_socket: &echo,
                previous: Some(&previous),
            };
            Snapshot::compile(&config, &parts)
        });
        let compiled = compiled.await.map_err(io::Error::other)?;
        compiled.map_err(ServeError::Compile)
    }

    async fn commit(
        &mut self,
        config: Config,
        prepared: Prepared,
        launches: &[Launch],
    ) -> Result<(), ServeError> {
        let old = std::mem::replace(&mut self.snapshot, prepared.snapshot);
        let (assignments, adopted) = prepared.listeners.split();
        self.limits.set_max(config.system.max_connections);
        self.buffer_memory.set_limit(
            bytes(config.system.buffer_memory),
            config.system.buffer_memory_per_client,
        );
        if let Some(sink) = prepared.access_log {
            self.telemetry.access_log.switch(sink);
        }
        self.log.apply(config.observability.log);
        let kept = trace::kept(&config.observability, config.admin.is_some());
        self.telemetry.recent.limit(kept);
        let committed = self.workers.commit(assignments).await;
        self.snapshot.takes_over_from(&old);
        let metrics = &self.telemetry.metrics.connections;
        self.listeners.adopt(adopted, metrics);
        self.health
            .serves(self.snapshot.clone(), agents::needed(&config));
        self.admin.adopt(prepared.admin, &self.health);
        self.doors.adopt(prepared.doors);
        let (workers, grace) = (
            self.config.system.worker_threads,
            config.system.shutdown_grace,
        );
        self.config = config;
        // Still what it was, for the next comparison.
        self.config.system.worker_threads = workers;
        let manager = old.agents.clone();
        // The agents of old requests end with the last of these.
        drop(old);
        self.supervisor.retain(launches, grace, |id| {
            let end = manager.end_of(id);
            async move {
                if let Some(end) = end {
                    end.reached().await;
                }
            }
        });
        committed
    }

    /// Takes back what was prepared.
    async fn abandon(&mut self) {
        self.workers.discard().await;
        let launches = agents::launches(&self.config, &self.executable);
        self.supervisor
            .retain(&launches, Duration::ZERO, |_| std::future::ready(()));
    }
}

/// Waits for those of the agents that are new in this configuration. One that is not there yet is waited for as at the start; one
/// that refuses ends the reload.
async fn await_agents(
    new: &AgentManager,
    old: &AgentManager,
    awaited: impl Fn(&AgentId) -> bool,
) -> Result<(), ServeError> {
    for unsettled in new.settled(old, AGENTS_READY_WITHIN, awaited).await {
        let (agent, reason) = (unsettled.agent, unsettled.reason);
        if unsettled.refused {
            return Err(ServeError::Agent { agent, reason });
        }
        tracing::warn!(%agent, reason, "agent is not ready, the configuration takes effect without it");
    }
    Ok(())
}
