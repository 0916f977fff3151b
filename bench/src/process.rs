//! Processes that end when their owner does.

use crate::error::BenchError;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long a process may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at a process.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How much of a failed process's output is shown.
const TAIL_BYTES: usize = 4 * 1024;

/// Starts processes and keeps their output.
pub(crate) struct Launcher {
    executable: PathBuf,
    directory: PathBuf,
}

impl Launcher {
    /// `executable` is this program, which has the role that pins; outputs go to files in `directory`.
    pub(crate) fn new(executable: PathBuf, directory: PathBuf) -> Self {
        Self {
            executable,
            directory,
        }
    }

    /// Starts a role of this program on a processor.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start_role<A: AsRef<OsStr>>(
        &self,
        name: &str,
        cpu: Option<usize>,
        arguments: &[A],
    ) -> Result<Process, BenchError> {
        self.start(name, cpu, &self.executable, arguments)
    }

    /// Starts a program on a processor. It does not outlive the calling thread.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start<A: AsRef<OsStr>>(
        &self,
        name: &str,
        cpu: Option<usize>,
        program: &Path,
        arguments: &[A],
    ) -> Result<Process, BenchError> {
        let mut command = Command::new(&self.executable);
        command.arg("pinned");
        if let Some(cpu) = cpu {
            command.arg("--cpu").arg(cpu.to_string());
        }
        command.arg("--").arg(program).args(arguments);
        let output = self.directory.join(format!("{name}.out"));
        let log = self.directory.join(format!("{name}.log"));
        let create = |path: &Path| File::create(path).map_err(BenchError::file("create", path));
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&output)?)
            .stderr(create(&log)?)
            // What the caller's shell wants to see must not change what is measured.
            .env_remove("RUST_LOG")
            .env_remove("PORTCULLIS_LOG")
            .spawn()
            .map_err(BenchError::io(format!("start {name}")))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            output,
            log,
        })
    }
}

/// A running process; killed and reaped when it is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), BenchError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| BenchError::io(format!("signal {}", self.name))(error.into()))
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// The process ends, or is not ready in time.
    pub(crate) fn wait_ready(&mut self, ready: impl Fn() -> bool) -> Result<(), BenchError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.ended()? {
                return Err(self.ended_early(status));
            }
            if ready() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(BenchError::NotReady {
                    name: self.name.clone(),
                    seconds: READY_WITHIN.as_secs(),
                    output: self.tail(),
                });
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits for the end of a process that ends by itself, and gives what it wrote to stdout.
    ///
    /// # Errors
    /// It fails, or `interrupted` becomes true.
    pub(crate) fn finish(mut self, interrupted: &AtomicBool) -> Result<String, BenchError> {
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(BenchError::Usage("interrupted".to_owned()));
            }
            thread::sleep(LOOK_EVERY);
        };
        if !status.success() {
            return Err(self.ended_early(status));
        }
        fs::read_to_string(&self.output).map_err(BenchError::file("read", &self.output))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, BenchError> {
        self.child
            .try_wait()
            .map_err(BenchError::io(format!("wait for {}", self.name)))
    }

    fn ended_early(&self, status: ExitStatus) -> BenchError {
        BenchError::ProcessEnded {
            name: self.name.clone(),
            status: status.to_string(),
            output: self.tail(),
        }
    }

    fn tail(&self) -> String {
        let text = [&self.output, &self.log]
            .iter()
            .filter_map(|path| fs::read(path).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect::<String>();
        let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES));
        text[start..].trim_end().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that nobody listens on now.
///
/// # Errors
/// There is none left.
pub(crate) fn free_address() -> Result<SocketAddr, BenchError> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(BenchError::io("find a free port"))
}

/// Whether somebody accepts connections at the address.
pub(crate) fn accepts_tcp(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Whether somebody accepts connections at the socket.
pub(crate) fn accepts_unix(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Whether a GET of `path` is answered with 200.
pub(crate) fn answers_ok(address: SocketAddr, path: &str) -> bool {
    let ask = || {
        let second = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&address, second)?;
        stream.set_read_timeout(Some(second))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        std::io::Result::Ok(answer.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_can_be_bound() {
        let listener = TcpListener::bind(free_address().unwrap()).unwrap();
        assert!(accepts_tcp(listener.local_addr().unwrap()));
    }
}
