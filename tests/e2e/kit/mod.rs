//! The kit for authors of agents: `portcullis agent check`, `bench`, `mock`, `record` and `replay`.

mod bench;
mod broken;
mod check;
mod examples;
mod mock;
mod record;

use crate::harness::eventually;
use serde_json::Value;
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// `portcullis agent` with these arguments.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .arg("agent")
        .args(arguments)
        .env_remove("PORTCULLIS_CONFIG")
        .env_remove("PORTCULLIS_AGENT_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Runs it; the exit code, standard output and standard error.
fn kit(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Runs it with `--json`; the exit code and what it says.
fn kit_json(arguments: &[&str]) -> (Option<i32>, Value) {
    let (code, output, errors) = kit(&[arguments, &["--json"]].concat());
    let report = serde_json::from_str(&output);
    (
        code,
        report.unwrap_or_else(|_| panic!("{output}\n{errors}")),
    )
}

/// An agent in a process of its own. It is killed when it is dropped.
struct Running {
    child: Child,
    folder: TempDir,
    /// Where it speaks gRPC, if it does.
    address: Option<SocketAddr>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        command.arg("--socket");
        Self::program(command)
    }

    /// Any program that takes its socket as its last argument.
    fn program(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        command.arg(&socket).stderr(Stdio::null());
        let running = Self {
            child: command.spawn().unwrap(),
            folder,
            address: None,
        };
        eventually("socket of the agent", || UnixStream::connect(&socket).ok());
        running
    }

    /// An agent of the binary that speaks gRPC.
    fn over_grpc(arguments: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = command(arguments);
        command.arg("--grpc").arg(address.to_string());
        let running = Self {
            child: command.stderr(Stdio::null()).spawn().unwrap(),
            folder: tempfile::tempdir().unwrap(),
            address: Some(address),
        };
        eventually("the agent", || TcpStream::connect(address).ok());
        running
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// As a target on the command line.
    fn target(&self) -> String {
        match self.address {
            Some(address) => format!("grpc:{address}"),
            None => format!("unix:{}", self.socket().display()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration for an agent.
fn config(folder: &Path, text: &str) -> String {
    let path = folder.join("config.json");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
