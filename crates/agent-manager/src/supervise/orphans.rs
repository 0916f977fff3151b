//! In a container the proxy is often process 1, and then every process whose parent has ended becomes its child. One that
//! nobody waits for stays in the table of processes for ever.

use super::Board;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::{fs, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Agents of our own are waited for by those who started them, who are given this long to do so.
const OWN_FIRST: Duration = Duration::from_millis(100);

/// Waits for orphans as long as the process lives, if it is process 1; returns at once otherwise.
pub(super) async fn reap(board: Board) {
    if std::process::id() != 1 {
        return;
    }
    let mut children = match signal(SignalKind::child()) {
        Ok(children) => children,
        Err(error) => {
            tracing::error!(%error, "orphans are not waited for");
            return;
        }
    };
    while children.recv().await.is_some() {
        tokio::time::sleep(OWN_FIRST).await;
        let own: Vec<u32> = board
            .status()
            .iter()
            .filter_map(|status| status.pid)
            .collect();
        for orphan in ended_children().filter(|child| !own.contains(child)) {
            let Some(pid) = i32::try_from(orphan).ok().and_then(Pid::from_raw) else {
                continue;
            };
            // An error means that somebody else has waited for it.
            let waited = waitpid(Some(pid), WaitOptions::NOHANG);
            tracing::debug!(orphan, ?waited, "an orphan has ended");
        }
    }
}

/// Children of process 1 that have ended and were not waited for.
fn ended_children() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        is_ended_child(&stat).then_some(process)
    })
}

/// Reads a line of `/proc/PID/stat`. The name, in parentheses, may hold anything.
fn is_ended_child(stat: &str) -> bool {
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let mut fields = fields.unwrap_or_default().split_whitespace();
    fields.next() == Some("Z") && fields.next() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_children_of_process_1_that_have_ended_count() {
        for (stat, ended) in [
            ("7 (sleep) Z 1 7 7 0 -1", true),
            ("7 (a) Z 1 b) Z 1 7 7 0 -1", true),
            ("7 (sleep) S 1 7 7 0 -1", false),
            ("7 (sleep) Z 12 7 7 0 -1", false),
            ("7 (Z 1) S 2 7 7 0 -1", false),
            ("", false),
        ] {
            assert_eq!(is_ended_child(stat), ended, "{stat}");
        }
    }
}
