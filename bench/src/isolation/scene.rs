//! A proxy with two routes, the agent that one of them asks, and the clients of both.

use super::trouble::Trouble;
use crate::{
    error::BenchError,
    process::{Process, answers_ok, free_address},
    roles::load::LoadReport,
    scenario::{Agent, Places, Protocol, configuration, route},
    stage::Stage,
    usage::{MachineTicks, Memory},
};
use rustix::process::Signal;
use std::{net::SocketAddr, slice, sync::atomic::AtomicBool, thread, time::Duration};

/// Connections of the client of the route that asks nobody.
const FREE_CONNECTIONS: usize = 32;

/// How to load both routes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) seconds: f64,
    pub(super) warmup: f64,
    /// Requests per second to the route that asks nobody.
    pub(super) rate: f64,
    /// The bytes of an answer of the origin.
    pub(super) size: usize,
}

/// What one half of a round has shown.
pub(super) struct Measured {
    /// The client of the route that asks nobody.
    pub(super) free: LoadReport,
    /// The client of the route that asks the agent.
    pub(super) asked: LoadReport,
    /// The share of the machine that was used, 0 to 1.
    pub(super) busy: f64,
    /// The proxy's before the clients came.
    pub(super) before: Memory,
    /// The proxy's when they had gone.
    pub(super) after: Memory,
}

/// Everything that runs during the rounds. It ends when this is dropped.
pub(super) struct Scene {
    name: String,
    trouble: &'static Trouble,
    listener: SocketAddr,
    probes: SocketAddr,
    proxy: Process,
    agent: Process,
}

impl Scene {
    /// Starts the agent and the proxy, and waits until they know each other.
    pub(super) fn start(
        stage: &Stage,
        name: &str,
        trouble: &'static Trouble,
        agent: &'static Agent,
    ) -> Result<Self, BenchError> {
        let (place, process) = stage.start_agent(name, agent)?;
        let process =
            process.ok_or_else(|| BenchError::Usage(format!("{name} has no agent to trouble")))?;
        let places = Places {
            listener: free_address()?,
            origin: stage.origin(),
            probes: free_address()?,
            access_log: stage.file(&format!("{name}.access.json")),
            tls: stage.tls().clone(),
            agents: vec![place],
        };
        let text = configuration(
            Protocol::Http1,
            &routes(trouble),
            slice::from_ref(agent),
            &places,
        );
        let proxy = stage.start_proxy(name, &text, places.probes)?;
        Ok(Self {
            name: name.to_owned(),
            trouble,
            listener: places.listener,
            probes: places.probes,
            proxy,
            agent: process,
        })
    }

    /// Loads both routes once; with `stops`, the agent is stopped for the measured time.
    pub(super) fn measure(
        &mut self,
        stage: &Stage,
        stops: bool,
        load: &Load,
        interrupted: &AtomicBool,
    ) -> Result<Measured, BenchError> {
        let before = Memory::of(self.proxy.pid())?;
        let asked = self.start_asking(stage, load)?;
        let free = self.start_free(stage, load)?;
        thread::sleep(Duration::from_secs_f64(load.warmup));
        let ticks = MachineTicks::take();
        if stops {
            self.agent.signal(Signal::STOP)?;
        }
        thread::sleep(Duration::from_secs_f64(load.seconds));
        let busy = MachineTicks::take().busy_since(ticks);
        let free = self.report(free, interrupted)?;
        let asked = self.report(asked, interrupted)?;
        let after = Memory::of(self.proxy.pid())?;
        if stops {
            self.agent.signal(Signal::CONT)?;
            let probes = self.probes;
            self.proxy.wait_ready(|| answers_ok(probes, "/readyz"))?;
        }
        Ok(Measured {
            free,
            asked,
            busy,
            before,
            after,
        })
    }

    fn start_asking(&self, stage: &Stage, load: &Load) -> Result<Process, BenchError> {
        let asked = &self.trouble.asked;
        let mut arguments = self.arguments("/asked", asked.connections, asked.rate, load);
        arguments.push("--any-status".to_owned());
        if asked.together {
            arguments.push("--together".to_owned());
        }
        stage.start_role(&format!("{}-asking", self.name), &arguments)
    }

    fn start_free(&self, stage: &Stage, load: &Load) -> Result<Process, BenchError> {
        let mut arguments = self.arguments("/free", FREE_CONNECTIONS, load.rate, load);
        arguments.push(format!("--expect-bytes={}", load.size));
        arguments.push(format!("--watch={}", self.proxy.pid()));
        stage.start_role(&format!("{}-free", self.name), &arguments)
    }

    fn arguments(&self, path: &str, connections: usize, rate: f64, load: &Load) -> Vec<String> {
        let mut arguments = vec!["load".to_owned()];
        let mut add = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
        add("target", self.listener.to_string());
        add("path", path.to_owned());
        add("connections", connections.to_string());
        add("rate", rate.to_string());
        add("seconds", load.seconds.to_string());
        add("warmup", load.warmup.to_string());
        add("header", "user-agent: portcullis-bench".to_owned());
        arguments
    }

    fn report(&self, client: Process, interrupted: &AtomicBool) -> Result<LoadReport, BenchError> {
        let text = client.finish(interrupted)?;
        serde_json::from_str(&text).map_err(|source| BenchError::Json {
            doing: format!("read a client's report of {}", self.name),
            source,
        })
    }
}

fn routes(trouble: &Trouble) -> String {
    route("asked", "/asked", trouble.filter) + &route("free", "/free", trouble.measured)
}

#[cfg(test)]
mod tests {
    use super::{super::trouble::TROUBLES, *};
    use crate::scenario::{Place, TlsFiles};
    use std::path::Path;

    #[test]
    fn every_configuration_loads_without_a_warning() {
        for trouble in TROUBLES {
            let places = Places {
                listener: "127.0.0.1:1".parse().unwrap(),
                origin: "127.0.0.1:2".parse().unwrap(),
                probes: "127.0.0.1:3".parse().unwrap(),
                access_log: "/l".into(),
                tls: TlsFiles {
                    certificate: "/c".into(),
                    key: "/k".into(),
                },
                agents: vec![Place::Socket("/s".into())],
            };
            let agent = slice::from_ref(&trouble.ill);
            let text = configuration(Protocol::Http1, &routes(trouble), agent, &places);
            let loaded =
                portcullis_config::load_str(trouble.name, &text, Path::new("/"), &|_| None);
            let loaded = loaded.unwrap_or_else(|errors| panic!("{errors:?} in\n{text}"));
            assert!(
                loaded.warnings.is_empty(),
                "{:?} in\n{text}",
                loaded.warnings
            );
        }
    }
}
