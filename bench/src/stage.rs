//! Everything that runs during the measurements: one origin, and a proxy with its agents for each scenario.

use crate::{
    envoy,
    error::BenchError,
    process::{Launcher, Process, accepts_tcp, accepts_unix, answers_ok, free_address},
    roles::load::{LoadReport, SERVER_NAME},
    scenario::{
        Agent, Place, Places, Protocol, Scenario, Start, Subject, TlsFiles, configuration,
        many_routes, route,
    },
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

/// The processors of the two sides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    /// The proxy under test, alone.
    pub(crate) proxy: Option<usize>,
    /// Client, origin and agents.
    pub(crate) others: Option<usize>,
}

/// How to load a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    pub(crate) warmup: f64,
    /// Open loop at this many requests per second; closed loop without it.
    pub(crate) rate: Option<f64>,
    /// The bytes of an answer's body.
    pub(crate) size: usize,
}

/// What is measured.
pub(crate) struct Programs {
    /// Our proxy; also some of its agents.
    pub(crate) proxy: PathBuf,
    pub(crate) envoy: PathBuf,
}

/// The origin and what starts everything.
pub(crate) struct Stage {
    launcher: Launcher,
    directory: PathBuf,
    programs: Programs,
    processors: Processors,
    origin: SocketAddr,
    _origin_process: Process,
    tls: TlsFiles,
}

/// A scenario that is up. Its processes end with it.
pub(crate) struct Cast {
    /// What it is.
    pub(crate) scenario: &'static Scenario,
    address: SocketAddr,
    proxy: Process,
    agents: Vec<Process>,
    access_log: Option<PathBuf>,
}

impl Stage {
    /// Starts the origin. `directory` takes configurations, sockets and logs.
    ///
    /// # Errors
    /// The origin does not come up.
    pub(crate) fn set(
        executable: PathBuf,
        programs: Programs,
        directory: &Path,
        processors: Processors,
        size: usize,
    ) -> Result<Self, BenchError> {
        let launcher = Launcher::new(executable, directory.to_owned());
        let tls = make_certificate(directory)?;
        let origin = free_address()?;
        let listen = origin.to_string();
        let size = size.to_string();
        let arguments = ["origin", "--listen", &listen, "--size", &size];
        let mut process = launcher.start_role("origin", processors.others, &arguments)?;
        process.wait_ready(|| accepts_tcp(origin))?;
        Ok(Self {
            launcher,
            directory: directory.to_owned(),
            programs,
            processors,
            origin,
            _origin_process: process,
            tls,
        })
    }

    /// Starts the proxy of a scenario and its agents, and waits until it is ready.
    ///
    /// # Errors
    /// One of them does not come up.
    pub(crate) fn cast(&self, scenario: &'static Scenario) -> Result<Cast, BenchError> {
        match &scenario.subject {
            Subject::Floor(accept) => {
                let address = free_address()?;
                let (listen, origin) = (address.to_string(), self.origin.to_string());
                let accept = format!("{accept:?}").to_lowercase();
                let mut arguments = vec![
                    "floor", "--listen", &listen, "--origin", &origin, "--accept", &accept,
                ];
                let TlsFiles { certificate, key } = &self.tls;
                let (certificate, key) =
                    (certificate.display().to_string(), key.display().to_string());
                if scenario.request.protocol == Protocol::H2 {
                    arguments.extend(["--certificate", &certificate, "--key", &key]);
                }
                let processor = self.processors.proxy;
                let mut proxy = self
                    .launcher
                    .start_role(scenario.name, processor, &arguments)?;
                proxy.wait_ready(|| accepts_tcp(address))?;
                Ok(Cast {
                    scenario,
                    address,
                    proxy,
                    agents: Vec::new(),
                    access_log: None,
                })
            }
            Subject::Ours { filters, agents } => {
                self.cast_ours(scenario, &route("all", "/", filters), agents)
            }
            Subject::Routes(count) => self.cast_ours(scenario, &many_routes(*count), &[]),
            Subject::Envoy(filter) => self.cast_envoy(scenario, *filter),
        }
    }

    fn cast_ours(
        &self,
        scenario: &'static Scenario,
        routes: &str,
        agents: &'static [Agent],
    ) -> Result<Cast, BenchError> {
        let name = scenario.name;
        let file = |suffix: &str| self.file(&format!("{name}{suffix}"));
        let mut agent_processes = Vec::new();
        let mut agent_places = Vec::new();
        for agent in agents {
            let (place, process) = self.start_agent(name, agent)?;
            agent_places.push(place);
            agent_processes.extend(process);
        }
        let places = Places {
            listener: free_address()?,
            origin: self.origin,
            probes: free_address()?,
            access_log: file(".access.json"),
            tls: self.tls.clone(),
            agents: agent_places,
        };
        let text = configuration(scenario.request.protocol, routes, agents, &places);
        let proxy = self.start_proxy(name, &text, places.probes)?;
        Ok(Cast {
            scenario,
            address: places.listener,
            proxy,
            agents: agent_processes,
            access_log: Some(places.access_log),
        })
    }

    /// Starts our proxy with this configuration and waits until it is ready.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) fn start_proxy(
        &self,
        name: &str,
        configuration: &str,
        probes: SocketAddr,
    ) -> Result<Process, BenchError> {
        let path = self.file(&format!("{name}.kdl"));
        fs::write(&path, configuration).map_err(BenchError::file("write", &path))?;
        let path = path.display().to_string();
        let arguments = ["run", "-c", &path];
        let mut proxy = self.launcher.start(
            name,
            self.processors.proxy,
            &self.programs.proxy,
            &arguments,
        )?;
        proxy.wait_ready(|| answers_ok(probes, "/readyz"))?;
        Ok(proxy)
    }

    /// Starts a role of this program beside the proxy.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start_role<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: &[A],
    ) -> Result<Process, BenchError> {
        self.launcher
            .start_role(name, self.processors.others, arguments)
    }

    /// Where the origin is.
    pub(crate) fn origin(&self) -> SocketAddr {
        self.origin
    }

    /// What listeners with TLS show.
    pub(crate) const fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// A path that belongs to this run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts an agent of a scenario, if it is to be there, and waits until it can be reached.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) fn start_agent(
        &self,
        scenario: &str,
        agent: &Agent,
    ) -> Result<(Place, Option<Process>), BenchError> {
        let name = format!("{scenario}-{}", agent.id);
        let socket = self.file(&format!("{name}.sock"));
        let on_socket = |start: &[&str]| {
            let mut arguments: Vec<String> = start.iter().map(|it| (*it).to_owned()).collect();
            arguments.extend(["--socket".to_owned(), socket.display().to_string()]);
            arguments
        };
        let (processor, proxy) = (self.processors.others, &self.programs.proxy);
        let mut process = match agent.start {
            Start::Absent => return Ok((Place::Socket(socket), None)),
            Start::AsEnvoyKnows(dialect) => {
                let (address, process) = self.start_envoy_agent(&name)?;
                return Ok((Place::Grpc(address, dialect), Some(process)));
            }
            Start::Role(start) => {
                let arguments = on_socket(start);
                self.launcher.start_role(&name, processor, &arguments)?
            }
            Start::Program(start) => {
                let arguments = on_socket(start);
                self.launcher.start(&name, processor, proxy, &arguments)?
            }
        };
        process.wait_ready(|| accepts_unix(&socket))?;
        Ok((Place::Socket(socket), Some(process)))
    }

    fn start_envoy_agent(&self, name: &str) -> Result<(SocketAddr, Process), BenchError> {
        let address = free_address()?;
        let listen = address.to_string();
        let mut process = self.start_role(name, &["envoy-agent", "--listen", &listen])?;
        process.wait_ready(|| accepts_tcp(address))?;
        Ok((address, process))
    }

    fn cast_envoy(
        &self,
        scenario: &'static Scenario,
        filter: envoy::Filter,
    ) -> Result<Cast, BenchError> {
        let name = scenario.name;
        let (agent, agents) = match filter {
            envoy::Filter::None => (None, Vec::new()),
            _ => {
                let (address, process) = self.start_envoy_agent(&format!("{name}-agent"))?;
                (Some(address), vec![process])
            }
        };
        let access_log = self.file(&format!("{name}.access.json"));
        let address = free_address()?;
        let text = envoy::configuration(
            filter,
            &envoy::Places {
                listener: address,
                origin: self.origin,
                agent,
                access_log: &access_log,
            },
        );
        let path = self.file(&format!("{name}.json"));
        fs::write(&path, text).map_err(BenchError::file("write", &path))?;
        let arguments = envoy::arguments(&path);
        let (processor, envoy) = (self.processors.proxy, &self.programs.envoy);
        let mut proxy = self.launcher.start(name, processor, envoy, &arguments)?;
        proxy.wait_ready(|| answers_ok(address, "/"))?;
        Ok(Cast {
            scenario,
            address,
            proxy,
            agents,
            access_log: Some(access_log),
        })
    }

    /// Loads a proxy once. In the report's `usage` the proxy comes first, then its agents.
    ///
    /// # Errors
    /// The client gives up, or a process is gone, or the user wants to stop.
    pub(crate) fn measure(
        &self,
        cast: &Cast,
        load: &Load,
        interrupted: &AtomicBool,
    ) -> Result<LoadReport, BenchError> {
        if let Some(path) = &cast.access_log {
            // It is appended to; without this a long run fills the disk.
            File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .map_err(BenchError::file("empty", path))?;
        }
        let request = &cast.scenario.request;
        let mut arguments = vec!["load".to_owned()];
        let mut add = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
        add("target", cast.address.to_string());
        add("connections", load.connections.to_string());
        add("seconds", load.seconds.to_string());
        add("warmup", load.warmup.to_string());
        add("method", request.method.to_owned());
        add("path", request.path.to_owned());
        add("body-bytes", request.body_bytes.to_string());
        add("expect-bytes", load.size.to_string());
        for header in request.headers {
            add("header", (*header).to_owned());
        }
        if let Some(rate) = load.rate {
            add("rate", rate.to_string());
        }
        for process in std::iter::once(&cast.proxy).chain(&cast.agents) {
            add("watch", process.pid().to_string());
        }
        let authority = format!("--ca={}", self.tls.certificate.display());
        arguments.extend(match request.protocol {
            Protocol::Http1 => vec![],
            Protocol::H2c => vec!["--http2".to_owned()],
            Protocol::H2 => vec!["--http2".to_owned(), authority],
        });
        let process = self
            .launcher
            .start_role("load", self.processors.others, &arguments)?;
        let text = process.finish(interrupted)?;
        serde_json::from_str(&text).map_err(|source| BenchError::Json {
            doing: format!("read the client's report of {}", cast.scenario.name),
            source,
        })
    }
}

/// A certificate for this run alone, that is its own authority.
fn make_certificate(directory: &Path) -> Result<TlsFiles, BenchError> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]);
    let made = made.map_err(|error| BenchError::Usage(format!("no certificate: {error}")))?;
    let files = TlsFiles {
        certificate: directory.join("certificate.pem"),
        key: directory.join("key.pem"),
    };
    for (path, text) in [
        (&files.certificate, made.cert.pem()),
        (&files.key, made.signing_key.serialize_pem()),
    ] {
        fs::write(path, text).map_err(BenchError::file("write", path))?;
    }
    Ok(files)
}
