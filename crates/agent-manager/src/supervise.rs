//! Agents that the proxy starts itself: started, restarted with a growing pause, heard, and stopped with the proxy.
//!
//! An agent is not executed directly. The proxy starts its own executable with the hidden command `spawn-agent`, which asks
//! the kernel to be killed when the proxy dies, makes sure that this has not happened already, and only then becomes the
//! agent ([`become_agent`]). So a proxy that is killed leaves no agent behind.

mod orphans;
mod output;

use portcullis_config::AgentId;
use rustix::process::{Pid, Signal};
use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The variable that tells an agent on which socket to listen.
pub const SOCKET_VARIABLE: &str = "PORTCULLIS_AGENT_SOCKET";

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An agent that ran this long did not fail at its start: its next pause is the first one again.
const STEADY_AFTER: Duration = Duration::from_secs(2);
/// How long an agent may take to end when it is asked to, before it is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(3);

/// A way to start an agent.
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
}

/// How a supervised agent is doing, for the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// The agent's name.
    pub id: AgentId,
    /// Its process; `None` while there is none.
    pub pid: Option<u32>,
    /// How often it was started.
    pub starts: u64,
    /// How the last process ended, or why it could not be started; `None` as long as the first one runs.
    pub last_end: Option<String>,
}

/// Keeps agents running until it is stopped, or until they are no longer wanted.
///
/// Everything in here has to be called on a thread that lives as long as the process, because the kernel ties the life of
/// an agent to the thread that started it.
pub struct Supervisor {
    /// The proxy's own, which becomes the agent.
    executable: PathBuf,
    /// Private to the process; the agents' sockets are in it.
    folder: PathBuf,
    sockets_made: usize,
    running: Vec<Running>,
    /// Agents that are no longer wanted and have not ended yet.
    leaving: JoinSet<()>,
    /// Tells those that leave not to wait any longer.
    hurry: watch::Sender<bool>,
    board: Board,
}

/// Where supervised agents say how they are doing. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Vec<Arc<Entry>>>>);

#[derive(Debug)]
struct Entry(Mutex<ProcessStatus>);

/// An agent that is kept running.
struct Running {
    launch: Launch,
    socket: PathBuf,
    /// How long the agent may take to end, once it shall.
    stop: watch::Sender<Option<Duration>>,
    task: JoinHandle<()>,
    entry: Arc<Entry>,
}

impl Supervisor {
    /// A supervisor of nobody, on the current runtime. `executable` is the proxy's own; sockets are made in `folder`. As
    /// process 1 it waits for orphans as well.
    pub fn new(executable: PathBuf, folder: PathBuf) -> Self {
        let board = Board::default();
        tokio::spawn(orphans::reap(board.clone()));
        Self {
            executable,
            folder,
            sockets_made: 0,
            running: Vec::new(),
            leaving: JoinSet::new(),
            hurry: watch::Sender::new(false),
            board,
        }
    }

    /// Where the agents say how they are doing.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Starts an agent, unless one that is started in the same way is running, and says on which socket it listens.
    pub fn run(&mut self, launch: &Launch) -> PathBuf {
        if let Some(running) = self.running.iter().find(|other| other.launch == *launch) {
            return running.socket.clone();
        }
        // Numbers, because the path of a socket may have only about a hundred bytes.
        let name = format!("agent-{}.sock", self.sockets_made);
        self.sockets_made += 1;
        let socket = self.folder.join(name);
        let (stop, stopping) = watch::channel(None);
        let entry = self.board.add(&launch.id);
        let supervised = Supervised {
            launch: launch.clone(),
            socket: socket.clone(),
            executable: self.executable.clone(),
            entry: entry.clone(),
        };
        self.running.push(Running {
            launch: launch.clone(),
            socket: socket.clone(),
            stop,
            task: tokio::spawn(supervised.keep_running(stopping)),
            entry,
        });
        socket
    }

    /// Ends every agent that is not started in one of these ways, each when `free` of its name resolves or `limit` is over:
    /// asked first, killed when it does not listen. Returns at once.
    pub fn retain<F>(&mut self, launches: &[Launch], limit: Duration, free: impl Fn(&AgentId) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (kept, leaving): (Vec<_>, Vec<_>) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|running| launches.contains(&running.launch));
        self.running = kept;
        for running in leaving {
            let free = free(&running.launch.id);
            let board = self.board.clone();
            let mut hurry = self.hurry.subscribe();
            self.leaving.spawn(async move {
                let id = &running.launch.id;
                tokio::select! {
                    () = free => {}
                    _ = hurry.changed() => {}
                    () = tokio::time::sleep(limit) => {
                        tracing::warn!(agent = %id, "requests of an old configuration still use the agent, it is ended all the same");
                    }
                }
                running.end(&board, STOP_GRACE).await;
            });
        }
        // Those that have left are not remembered.
        while self.leaving.try_join_next().is_some() {}
    }

    /// Asks all agents to end, kills those that have not ended after `grace`, and returns when none is left.
    pub async fn stop(mut self, grace: Duration) {
        self.hurry.send_replace(true);
        let board = self.board.clone();
        let ends = self
            .running
            .drain(..)
            .map(|running| running.end(&board, grace));
        futures::future::join_all(ends).await;
        while self.leaving.join_next().await.is_some() {}
    }
}

impl Running {
    async fn end(mut self, board: &Board, grace: Duration) {
        self.stop.send_replace(Some(grace));
        // An error means that the task has panicked; its child is killed with it.
        let _ = (&mut self.task).await;
        // The agent may have removed it itself.
        let _ = std::fs::remove_file(&self.socket);
        board.remove(&self.entry);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child is killed with its task.
        self.task.abort();
    }
}

impl Board {
    /// How the agents are doing that were started and have not ended for good.
    pub fn status(&self) -> Vec<ProcessStatus> {
        self.lock()
            .iter()
            .map(|entry| entry.lock().clone())
            .collect()
    }

    fn add(&self, id: &AgentId) -> Arc<Entry> {
        let entry = Arc::new(Entry(Mutex::new(ProcessStatus {
            id: id.clone(),
            pid: None,
            starts: 0,
            last_end: None,
        })));
        self.lock().push(entry.clone());
        entry
    }

    fn remove(&self, entry: &Arc<Entry>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, entry));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        // Entries are added and removed whole, so a poisoned lock loses nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, ProcessStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, pid: Option<u32>) {
        let mut status = self.lock();
        status.pid = pid;
        status.starts += 1;
    }

    fn ended(&self, how: String) {
        let mut status = self.lock();
        status.pid = None;
        status.last_end = Some(how);
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

/// What the task of an agent has.
struct Supervised {
    launch: Launch,
    socket: PathBuf,
    executable: PathBuf,
    entry: Arc<Entry>,
}

impl Supervised {
    async fn keep_running(self, mut stop: watch::Receiver<Option<Duration>>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let Some(ended) = self.run(&mut stop).await else {
                return;
            };
            tracing::warn!(agent = %self.launch.id, program = %self.launch.program.display(), ended, "agent ended by itself");
            self.entry.ended(ended);
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

    /// Runs the agent once. How it ended by itself; `None` when it was stopped.
    async fn run(&self, stop: &mut watch::Receiver<Option<Duration>>) -> Option<String> {
        let id = &self.launch.id;
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return Some(format!("cannot be started: {error}")),
        };
        let pid = child.id();
        self.entry.started(pid);
        tracing::info!(agent = %id, pid, "agent started");
        let output = output::hear(id, &mut child);
        let status = tokio::select! {
            status = child.wait() => status,
            // An error means that the supervisor is gone, which is an end as well.
            _ = stop.changed() => {
                let grace = stop.borrow().unwrap_or(STOP_GRACE);
                end(id, &mut child, grace).await;
                return None;
            }
        };
        // What it started itself does not outlive it.
        kill_group(pid);
        drop(output);
        Some(match status {
            Ok(status) => status.to_string(),
            Err(error) => format!("cannot be waited for: {error}"),
        })
    }

    fn spawn(&self) -> io::Result<Child> {
        Command::new(&self.executable)
            .arg("spawn-agent")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--")
            .arg(&self.launch.program)
            .args(&self.launch.arguments)
            .env_clear()
            .envs(self.launch.env.iter().map(|(name, value)| (name, value)))
            .env(SOCKET_VARIABLE, &self.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: a Ctrl-C at the terminal stops the proxy, and the proxy stops its agents.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// Ends an agent and everything it started: asked first, killed when it does not listen.
async fn end(id: &AgentId, child: &mut Child, grace: Duration) {
    let pid = child.id();
    let Some(group) = group(pid) else {
        return; // It has ended already.
    };
    // An error means that the group is gone, which is what is wanted.
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        tracing::warn!(agent = %id, "agent does not end when asked, killing it");
    }
    kill_group(pid);
    let _ = child.wait().await;
}

/// Ends what is left of an agent's process group.
fn kill_group(leader: Option<u32>) {
    if let Some(group) = group(leader) {
        // An error means that nothing is left.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

fn group(leader: Option<u32>) -> Option<Pid> {
    leader
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw)
}
