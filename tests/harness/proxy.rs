//! The proxy as its users have it: a process, a configuration file, signals, logs.

use super::{
    Origin, RawClient, Response, Saboteur, TestAgent, TestCertificate, eventually, lines::Lines,
};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};
use tempfile::TempDir;

const GENERATION: &str = "portcullis_config_generation";
const FAILED_RELOADS: &str = r#"portcullis_config_reloads_total{result="failure"}"#;

/// What is still missing before a proxy can start.
#[derive(Clone)]
pub(crate) struct Builder {
    kdl: String,
    listener: String,
    upstreams: String,
    agents: String,
    files: Vec<(String, String)>,
    environment: Vec<(&'static str, String)>,
    verbatim: bool,
}

/// A running proxy. It is killed when it is dropped.
pub(crate) struct Proxy {
    child: Child,
    folder: TempDir,
    stdout: Lines,
    stderr: Lines,
}

impl Proxy {
    /// A proxy with this configuration. What nearly every test needs is added where it is not written: the schema version, a
    /// listener named `http`, probes, and logs that can be read back.
    pub(crate) fn builder(kdl: impl Into<String>) -> Builder {
        Builder {
            kdl: kdl.into(),
            listener: "h2c".to_owned(),
            upstreams: String::new(),
            agents: String::new(),
            files: Vec::new(),
            environment: Vec::new(),
            verbatim: false,
        }
    }

    /// A proxy that sends everything to this origin, by the route `all`.
    pub(crate) fn in_front_of(origin: &Origin) -> Builder {
        Self::builder(r#"routes { route "all" { upstream "origin" } }"#).origin(origin)
    }

    /// The same with these timeouts of the upstream, started.
    pub(crate) fn in_front_of_slow(origin: &Origin, timeouts: &str) -> Self {
        let target = format!("target \"{}\"; timeouts {{ {timeouts} }}", origin.address());
        Self::builder(r#"routes { route "all" { upstream "slow" } }"#)
            .upstream("slow", &target)
            .start()
    }

    /// The address of a listener, of `probes` or of `admin`; the last one when it has had several.
    pub(crate) fn address_of(&self, listener: &str) -> SocketAddr {
        self.stderr.addresses()[listener]
    }

    /// Where the configuration is, and beside it what it names by a relative path.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it another configuration, tells it so, and waits until that is in effect. Returns the line about it.
    pub(crate) fn reload(&self, builder: &Builder) -> Value {
        let generation = self.metric(GENERATION);
        builder.rewrite(self);
        self.hang_up();
        self.wait_metric(GENERATION, generation + 1.0);
        self.log_line(|line| line["generation"] == generation + 1.0)
    }

    /// Gives it a configuration that it cannot use, tells it so, and waits until it has said no.
    pub(crate) fn reload_in_vain(&self, builder: &Builder) {
        let failures = self.metric(FAILED_RELOADS);
        let generation = self.metric(GENERATION);
        builder.rewrite(self);
        self.hang_up();
        self.wait_metric(FAILED_RELOADS, failures + 1.0);
        assert_eq!(self.metric(GENERATION), generation);
        assert_eq!(self.metric("portcullis_config_last_reload_successful"), 0.0);
    }

    /// Tells it to read its configuration again.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection to the listener `http`.
    pub(crate) fn client(&self) -> RawClient {
        RawClient::connect(self.address_of("http"))
    }

    /// Asks for a path on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.get_with(path, &[])
    }

    /// Asks for a path with these header lines.
    pub(crate) fn get_with(&self, path: &str, lines: &[&str]) -> Response {
        self.client().get(path, lines)
    }

    /// Asks the probes for a path.
    pub(crate) fn probe(&self, path: &str) -> Response {
        RawClient::connect(self.address_of("probes")).get(path, &[])
    }

    /// Waits until the proxy says that it is ready.
    pub(crate) fn wait_ready(&self) -> &Self {
        eventually("ready", || {
            (self.probe("/readyz").status == 200).then_some(())
        });
        self
    }

    /// The sum of all series of a metric that have these labels, as in `name{agent="waf"}`.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let wanted: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
        let text = self.probe("/metrics").text();
        text.lines()
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (found, labels) = series.split_once('{').unwrap_or((series, ""));
                let all = wanted.iter().all(|label| labels.contains(label));
                (found == name && all).then(|| value.parse::<f64>().unwrap())
            })
            .sum()
    }

    /// Waits until a metric has this value. What a request adds to it may come after the answer.
    pub(crate) fn wait_metric(&self, series: &str, value: f64) {
        eventually(&format!("{series} = {value}"), || {
            (self.metric(series) == value).then_some(())
        });
    }

    /// Waits for a line of the access log.
    pub(crate) fn access_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("line of the access log", || {
            self.access_lines().into_iter().find(|line| wanted(line))
        })
    }

    /// Waits for the line about a path.
    pub(crate) fn access_line_of(&self, path: &str) -> Value {
        self.access_line(|line| line["path"] == path)
    }

    /// What is in the access log by now.
    pub(crate) fn access_lines(&self) -> Vec<Value> {
        let text = self.access_text();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        whole
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The access log as it is, whether it goes to its file or to the standard output.
    pub(crate) fn access_text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log"))
            .unwrap_or_else(|_| self.stdout.text())
    }

    /// What is in the process's own log by now.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        let lines = self.stderr.0.lock().unwrap();
        let parsed = lines.iter().map(|line| serde_json::from_str(line));
        parsed.filter_map(Result::ok).collect()
    }

    /// Waits for a line of the process's own log.
    pub(crate) fn log_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("line of the log", || {
            let lines = self.stderr.0.lock().unwrap();
            lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok())
                .find(|line| wanted(line))
        })
    }

    /// The process's own log as it is.
    pub(crate) fn log_text(&self) -> String {
        self.stderr.text()
    }

    /// How many descriptors the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).unwrap().count()
    }

    /// The processes that the proxy has started.
    pub(crate) fn children(&self) -> Vec<u32> {
        processes()
            .into_iter()
            .filter(|(_, parent)| *parent == self.child.id())
            .map(|(process, _)| process)
            .collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).unwrap();
    }

    /// Waits until the process has ended.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        eventually("end of the proxy", || self.child.try_wait().unwrap())
    }
}

impl Builder {
    /// What the listener `http` says beside its address.
    pub(crate) fn listener(mut self, kdl: &str) -> Self {
        self.listener = kdl.to_owned();
        self
    }

    /// Nothing is added to the configuration.
    pub(crate) fn verbatim(mut self) -> Self {
        self.verbatim = true;
        self
    }

    /// Adds the upstream `origin`.
    pub(crate) fn origin(self, origin: &Origin) -> Self {
        self.upstream("origin", &format!("target \"{}\"", origin.address()))
    }

    /// Adds an upstream.
    pub(crate) fn upstream(mut self, id: &str, kdl: &str) -> Self {
        let _ = writeln!(self.upstreams, "    upstream \"{id}\" {{ {kdl} }}");
        self
    }

    /// Adds an agent under its own name. Its timeout is long, so that nothing but an agent that hangs reaches it.
    pub(crate) fn agent(self, agent: &TestAgent) -> Self {
        self.agent_with(agent, "timeout \"10s\"")
    }

    /// Adds an agent with these settings.
    pub(crate) fn agent_with(self, agent: &TestAgent, kdl: &str) -> Self {
        let kdl = format!("{}; {kdl}", agent.way());
        self.agent_block(agent.name(), &kdl)
    }

    /// Adds an agent that is reached through a saboteur.
    pub(crate) fn agent_behind(self, saboteur: &Saboteur, id: &str, kdl: &str) -> Self {
        let socket = saboteur.socket();
        self.agent_block(id, &format!("unix-socket \"{}\"; {kdl}", socket.display()))
    }

    /// Adds an agent that is wholly described here.
    pub(crate) fn agent_block(mut self, id: &str, kdl: &str) -> Self {
        let _ = writeln!(self.agents, "    agent \"{id}\" {{ {kdl} }}");
        self
    }

    /// Adds a file beside the configuration.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// The listener `http` speaks TLS with this certificate.
    pub(crate) fn tls(self, certificate: &TestCertificate) -> Self {
        self.tls_with(certificate, "")
    }

    /// The same with these settings of `tls`.
    pub(crate) fn tls_with(self, certificate: &TestCertificate, kdl: &str) -> Self {
        self.certificate("server", certificate).listener(&format!(
            "tls {{ certificate \"server.pem\" key=\"server.key\"; {kdl} }}"
        ))
    }

    /// The same in place of HTTP/2 without it; what else the listener says is kept.
    pub(crate) fn tls_in_place_of_h2c(self, certificate: &TestCertificate) -> Self {
        let kept = self.listener.trim_start().strip_prefix("h2c");
        let kept = kept.expect("a listener that takes h2c").to_owned();
        let mut builder = self.tls(certificate);
        builder.listener.push_str(&kept);
        builder
    }

    /// Adds the files of a certificate, `NAME.pem` and `NAME.key`.
    pub(crate) fn certificate(self, name: &str, certificate: &TestCertificate) -> Self {
        self.file(&format!("{name}.pem"), &certificate.pem)
            .file(&format!("{name}.key"), &certificate.key)
    }

    /// The environment says what is logged.
    pub(crate) fn log(mut self, directives: &str) -> Self {
        self.environment
            .push(("PORTCULLIS_LOG", directives.to_owned()));
        self
    }

    /// The authorities of this file are those of the system.
    pub(crate) fn authorities(mut self, file: PathBuf) -> Self {
        let (file, folders) = (file.display().to_string(), String::new());
        self.environment = vec![("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folders)];
        self
    }

    /// Writes the files in place of those that a proxy was started with.
    pub(crate) fn rewrite(&self, proxy: &Proxy) {
        self.write(proxy.folder());
    }

    /// Starts the proxy and waits until it serves.
    pub(crate) fn start(self) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        let path = self.write(folder.path());
        let mut command = command("run", &path);
        command.envs(self.environment.iter().cloned());
        let mut child = command.spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        let mut proxy = Proxy {
            child,
            folder,
            stdout,
            stderr,
        };
        eventually("start of the proxy", || {
            let ended = proxy.child.try_wait().unwrap();
            assert_eq!(ended, None, "the proxy has ended");
            proxy.stderr.text().contains("ready to serve").then_some(())
        });
        proxy
    }

    /// Runs `portcullis check`; the exit code, and what it printed to standard output and standard error.
    pub(crate) fn check(self) -> (Option<i32>, String, String) {
        self.output_of("check")
    }

    /// Runs a proxy that cannot start; the same as of a check.
    pub(crate) fn run_to_end(self) -> (Option<i32>, String, String) {
        self.output_of("run")
    }

    fn output_of(self, name: &str) -> (Option<i32>, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = self.write(folder.path());
        let mut command = command(name, &path);
        let output = command.envs(self.environment).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn write(&self, folder: &Path) -> PathBuf {
        for (name, text) in &self.files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let path = folder.join("portcullis.kdl");
        std::fs::write(&path, self.text()).unwrap();
        path
    }

    fn text(&self) -> String {
        let mut text = self.kdl.clone();
        if self.verbatim {
            return text;
        }
        let mut add = |block: &str, addition: String| {
            if !self
                .kdl
                .lines()
                .any(|line| line.trim_start().starts_with(block))
            {
                text.push('\n');
                text.push_str(&addition);
            }
        };
        add("schema-version", "schema-version \"1\"".into());
        add("probes", "probes { address \"127.0.0.1:0\" }".into());
        add(
            "listeners",
            format!(
                "listeners {{ listener \"http\" {{ address \"127.0.0.1:0\"; {} }} }}",
                self.listener
            ),
        );
        add(
            "observability",
            "observability { access-log \"./access.log\"; log level=\"info\" format=\"json\" }"
                .into(),
        );
        if !self.upstreams.is_empty() {
            add("upstreams", format!("upstreams {{\n{}}}\n", self.upstreams));
        }
        if !self.agents.is_empty() {
            add("agents", format!("agents {{\n{}}}\n", self.agents));
        }
        text
    }
}

fn command(name: &str, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .arg(name)
        .arg("-c")
        .arg(config)
        .env_remove("PORTCULLIS_LOG")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("log of the proxy:\n{}", last_lines(&self.stderr.text()));
            eprintln!("access log:\n{}", last_lines(&self.access_text()));
        }
    }
}

/// More would hide what a test has to say.
fn last_lines(text: &str) -> String {
    const MOST: usize = 60;
    let lines: Vec<&str> = text.lines().collect();
    let left_out = lines.len().saturating_sub(MOST);
    format!(
        "({left_out} lines before)\n{}",
        lines[left_out..].join("\n")
    )
}

/// Every process of the machine with its parent. A process that has ended and was not waited for does not count.
pub(crate) fn processes() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| {
            let process: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            // The name, in parentheses, may hold anything.
            let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            (state != "Z").then_some((process, parent))
        })
        .collect()
}
