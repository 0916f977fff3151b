//! Containers by the command line of Docker, and a small client.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything that is waited for may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// The image that is tested.
pub fn image() -> String {
    std::env::var("IMAGE").expect("IMAGE: what is tested; see `make docker-test`")
}

/// Runs a command of Docker that has to work; its standard output.
pub fn docker(arguments: &[&str]) -> String {
    output(Command::new("docker").args(arguments))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Waits until `condition` yields something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A container, removed with its volumes when it is dropped.
pub struct Container {
    id: String,
}

impl Container {
    /// Starts the image with these options and this command.
    pub fn run(options: &[&str], command: &[&str]) -> Self {
        let image = image();
        let id = docker(&[&["run", "--detach"], options, &[&image], command].concat());
        Self { id }
    }

    /// What of the container's description this template names.
    pub fn inspect(&self, template: &str) -> String {
        docker(&["inspect", "--format", template, &self.id])
    }

    /// Where this machine reaches a port of the container.
    pub fn published(&self, port: u16) -> SocketAddr {
        let address = docker(&["port", &self.id, &port.to_string()]);
        address.lines().next().unwrap().parse().unwrap()
    }

    /// Waits until the health check says so.
    pub fn wait_health(&self, wanted: &str) {
        eventually(wanted, || {
            (self.inspect("{{.State.Health.Status}}") == wanted).then_some(())
        });
    }

    /// Runs a command of the binary beside the proxy; fails when that fails.
    pub fn exec(&self, command: &str) -> String {
        docker(&["exec", &self.id, "/usr/local/bin/portcullis", command])
    }

    pub fn is_running(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    pub fn exit_code(&self) -> String {
        self.inspect("{{.State.ExitCode}}")
    }

    pub fn signal(&self, name: &str) {
        docker(&["kill", "--signal", name, &self.id]);
    }

    /// Starts it again after a stop.
    pub fn start(&self) {
        docker(&["start", &self.id]);
    }

    /// As an operator does, who gives it time.
    pub fn stop(&self) {
        docker(&["stop", "--time", "40", &self.id]);
    }

    /// What it has written to both outputs.
    pub fn logs(&self) -> String {
        let output = Command::new("docker")
            .args(["logs", &self.id])
            .output()
            .unwrap();
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = self.logs();
            let lines: Vec<&str> = logs.lines().filter(|line| !line.starts_with('{')).collect();
            eprintln!("log of {}:\n{}", self.id, lines.join("\n"));
        }
        // A second panic would hide the first.
        let removed = Command::new("docker")
            .args(["rm", "--force", "--volumes", &self.id])
            .output();
        report(&removed.unwrap());
    }
}

/// The containers of a compose file, removed with their volumes and networks when it is dropped.
pub struct Compose {
    file: &'static str,
    project: String,
    publish: String,
}

impl Compose {
    pub fn up(file: &'static str, publish: &str) -> Self {
        let project = format!("portcullis-test-{}", std::process::id());
        let compose = Self {
            file,
            project,
            publish: publish.to_owned(),
        };
        compose.run(&["up", "--detach"]);
        compose
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        output(self.command().args(arguments))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker-compose");
        command
            .args(["--file", self.file, "--project-name", &self.project])
            .env("PORTCULLIS_IMAGE", image())
            .env("PORTCULLIS_PUBLISH", &self.publish);
        command
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = self.command().args(["logs", "--no-color"]).output();
            eprintln!("{}", String::from_utf8_lossy(&logs.unwrap().stdout));
        }
        let removed = self
            .command()
            .args(["down", "--volumes", "--timeout", "5"])
            .output();
        report(&removed.unwrap());
    }
}

fn report(removed: &Output) {
    if !removed.status.success() {
        eprintln!("not removed: {}", String::from_utf8_lossy(&removed.stderr));
    }
}

/// A folder that every user can read.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.set_mode(0o755);
        folder
    }

    pub fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    /// Makes a file, or changes it in place.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    /// Lets every user write.
    pub fn open(&self) {
        self.set_mode(0o777);
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(self.0.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// A port of the loopback that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An answer that came whole.
pub struct Response {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

/// Asks on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut bytes = Vec::new();
    let read = stream.take(1 << 20).read_to_end(&mut bytes);
    if bytes.is_empty() {
        // The connection was not taken, or closed before the request had arrived.
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    read.map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let head = head.to_ascii_lowercase();
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    // The body of the echo is as long as its head says, or has a last chunk.
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let whole = match length {
        Some(length) => length.parse() == Ok(body.len()),
        None => body.ends_with("0\r\n\r\n"),
    };
    if !whole {
        return Err(cut());
    }
    Ok(Response {
        status: status.ok_or_else(cut)?,
        head,
        body: body.to_owned(),
    })
}
