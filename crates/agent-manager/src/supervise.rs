//! Agents that the proxy starts itself: started, restarted with a growing pause, heard, and stopped with the proxy.
//!
//! An agent is not executed directly. The proxy starts its own executable with the hidden command `spawn-agent`, which asks
//! the kernel to be killed when the proxy dies, makes sure that this has not happened already, and only then becomes the
//! agent ([`become_agent`]). So a proxy that is killed leaves no agent behind.

use portcullis_config::AgentId;
use rustix::process::{Pid, Signal};
use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
};

/// The variable that tells an agent on which socket to listen.
pub const SOCKET_VARIABLE: &str = "PORTCULLIS_AGENT_SOCKET";

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An agent that ran this long is restarted at once when it ends.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// How long an agent may take to end when it is asked to, before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Longer lines of an agent's output are cut into pieces of this many bytes.
const LONGEST_LINE_BYTES: usize = 4096;
/// More lines than this in one second are counted and not logged.
const LINES_PER_SECOND: u32 = 200;

/// An agent to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The name in the configuration; its output is logged under it.
    pub id: AgentId,
    /// Path of the executable; never looked up anywhere.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment, beside [`SOCKET_VARIABLE`].
    pub env: Vec<(String, String)>,
    /// Where it shall listen.
    pub socket: PathBuf,
}

/// Keeps agents running until it is stopped.
pub struct Supervisor {
    stop: watch::Sender<bool>,
    agents: JoinSet<()>,
}

impl Supervisor {
    /// Starts the agents on the current runtime. The thread must live as long as the process, because the kernel ties the
    /// life of an agent to the thread that started it. `executable` is the proxy's own.
    pub fn start(launches: Vec<Launch>, executable: &Path) -> Self {
        let stop = watch::Sender::new(false);
        let mut agents = JoinSet::new();
        for launch in launches {
            agents.spawn(keep_running(
                launch,
                executable.to_owned(),
                stop.subscribe(),
            ));
        }
        Self { stop, agents }
    }

    /// Asks all agents to end, kills those that do not, and returns when none is left.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.agents.join_next().await.is_some() {}
    }
}

/// The body of the hidden command `spawn-agent`: ties the life of this process to its parent's and becomes the agent.
/// Returns only on failure.
///
/// # Errors
/// The parent is gone, or the program cannot be executed.
pub fn become_agent(parent: u32, program: &Path, arguments: &[OsString]) -> io::Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before the signal was set; then this process has another parent by now.
    let actual = rustix::process::getppid().map(Pid::as_raw_nonzero);
    if actual.map(|pid| pid.get().unsigned_abs()) != Some(parent) {
        return io::Error::other("the proxy that wanted this agent is gone");
    }
    std::process::Command::new(program).args(arguments).exec()
}

async fn keep_running(launch: Launch, executable: PathBuf, mut stop: watch::Receiver<bool>) {
    let mut pause = FIRST_PAUSE;
    while !*stop.borrow() {
        let started = Instant::now();
        match spawn(&launch, &executable) {
            Ok(mut child) => {
                tracing::info!(agent = %launch.id, pid = child.id(), "agent started");
                let output = hear(&launch.id, &mut child);
                let ended = tokio::select! {
                    status = child.wait() => status,
                    _ = stop.changed() => {
                        end(&launch.id, &mut child).await;
                        return;
                    }
                };
                drop(output);
                match ended {
                    Ok(status) => {
                        tracing::warn!(agent = %launch.id, %status, "agent ended by itself")
                    }
                    Err(error) => {
                        tracing::warn!(agent = %launch.id, %error, "agent cannot be waited for")
                    }
                }
            }
            Err(error) => {
                tracing::error!(agent = %launch.id, program = %launch.program.display(), %error, "agent cannot be started");
            }
        }
        if started.elapsed() >= STEADY_AFTER {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn spawn(launch: &Launch, executable: &Path) -> io::Result<Child> {
    Command::new(executable)
        .arg("spawn-agent")
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(&launch.program)
        .args(&launch.arguments)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .env(SOCKET_VARIABLE, &launch.socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: a Ctrl-C at the terminal stops the proxy, and the proxy stops its agents.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Ends an agent and everything it started: asked first, killed when it does not listen.
async fn end(id: &AgentId, child: &mut Child) {
    let Some(group) = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw)
    else {
        return; // It has ended already.
    };
    // An error means that the group is gone, which is what is wanted.
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    if tokio::time::timeout(STOP_GRACE, child.wait())
        .await
        .is_err()
    {
        tracing::warn!(agent = %id, "agent does not end when asked, killing it");
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let _ = child.wait().await;
}

/// Logs what the agent prints. The tasks end with the pipes, or when the returned set is dropped.
fn hear(id: &AgentId, child: &mut Child) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(pipe) = child.stdout.take() {
        tasks.spawn(log_lines(id.clone(), pipe));
    }
    if let Some(pipe) = child.stderr.take() {
        tasks.spawn(log_lines(id.clone(), pipe));
    }
    tasks
}

async fn log_lines(id: AgentId, mut pipe: impl AsyncRead + Unpin) {
    let mut buffer = Vec::with_capacity(LONGEST_LINE_BYTES);
    let mut allowance = Allowance::new(Instant::now());
    while let Ok(count) = pipe.read_buf(&mut buffer).await {
        let ended = count == 0;
        while let Some(line) = take_line(&mut buffer, ended) {
            if let Some(dropped) = allowance.take(Instant::now()) {
                if dropped > 0 {
                    tracing::warn!(agent = %id, dropped, "the agent prints too much, lines were dropped");
                }
                let line = String::from_utf8_lossy(&line);
                tracing::info!(target: "portcullis::agent_output", agent = %id, "{}", line.trim_end());
            }
        }
        if ended {
            return;
        }
    }
}

/// Takes the first line off `buffer`, or a piece of it when it is too long; at the end of the output what is left.
fn take_line(buffer: &mut Vec<u8>, ended: bool) -> Option<Vec<u8>> {
    let end = match buffer.iter().position(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        None if buffer.len() >= LONGEST_LINE_BYTES => LONGEST_LINE_BYTES,
        None if ended && !buffer.is_empty() => buffer.len(),
        None => return None,
    };
    let rest = buffer.split_off(end.min(buffer.len()));
    Some(std::mem::replace(buffer, rest))
}

/// Lets a number of lines through in each second.
struct Allowance {
    second: Instant,
    used: u32,
    dropped: u64,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self {
            second: now,
            used: 0,
            dropped: 0,
        }
    }

    /// Whether a line may pass; if so, how many were dropped before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.used = 0;
        }
        if self.used >= LINES_PER_SECOND {
            self.dropped += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_whole_or_in_pieces() {
        let mut buffer = b"one\ntwo".to_vec();
        assert_eq!(take_line(&mut buffer, false), Some(b"one\n".to_vec()));
        assert_eq!(take_line(&mut buffer, false), None);
        assert_eq!(take_line(&mut buffer, true), Some(b"two".to_vec()));
        let mut long = vec![b'x'; LONGEST_LINE_BYTES + 5];
        assert_eq!(
            take_line(&mut long, false).map(|line| line.len()),
            Some(LONGEST_LINE_BYTES)
        );
        assert_eq!(long.len(), 5);
    }

    #[test]
    fn too_many_lines_in_a_second_are_counted_instead() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(allowance.take(start), Some(0));
        }
        assert_eq!(allowance.take(start), None);
        assert_eq!(allowance.take(start), None);
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(2));
    }
}
