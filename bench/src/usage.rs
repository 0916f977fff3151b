//! What a process has used, read from /proc.
//!
//! The scheduler's own account (`schedstat`, nanoseconds on a processor) is taken per thread and summed: the ticks of
//! `stat` are a thousand times coarser.

use crate::error::BenchError;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// The account of one thread since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ThreadUsage {
    cpu_ns: u64,
    context_switches: u64,
}

/// The account of a process at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    threads: BTreeMap<u32, ThreadUsage>,
    rss_bytes: u64,
}

/// What a process used between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// The process.
    pub(crate) pid: u32,
    /// Time on a processor, of all threads.
    pub(crate) cpu_ns: u64,
    /// Context switches, voluntary or not, of all threads.
    pub(crate) context_switches: u64,
    /// Resident memory at the second moment.
    pub(crate) rss_bytes: u64,
}

impl Sample {
    /// The account of process `pid` now.
    ///
    /// # Errors
    /// The process has ended, or /proc is not what is expected.
    pub(crate) fn take(pid: u32) -> Result<Self, BenchError> {
        let base = Path::new("/proc").join(pid.to_string());
        let mut threads = BTreeMap::new();
        let tasks = base.join("task");
        let entries = fs::read_dir(&tasks).map_err(BenchError::file("list", &tasks))?;
        for entry in entries {
            let entry = entry.map_err(BenchError::file("list", &tasks))?;
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A thread may end between the listing and the reading.
            if let Ok(usage) = thread_usage(&entry.path()) {
                threads.insert(id, usage);
            }
        }
        let status_path = base.join("status");
        let status =
            fs::read_to_string(&status_path).map_err(BenchError::file("read", &status_path))?;
        let rss_bytes = status_field(&status, "VmRSS").unwrap_or(0) * 1024;
        Ok(Self { threads, rss_bytes })
    }

    /// What was used since `earlier`. A thread that has ended meanwhile counts nothing: its account is gone.
    pub(crate) fn since(&self, earlier: &Self, pid: u32) -> Usage {
        let mut usage = Usage {
            pid,
            cpu_ns: 0,
            context_switches: 0,
            rss_bytes: self.rss_bytes,
        };
        for (id, now) in &self.threads {
            let before = earlier.threads.get(id).copied().unwrap_or(ThreadUsage {
                cpu_ns: 0,
                context_switches: 0,
            });
            usage.cpu_ns += now.cpu_ns.saturating_sub(before.cpu_ns);
            usage.context_switches += now.context_switches.saturating_sub(before.context_switches);
        }
        usage
    }
}

fn thread_usage(task: &Path) -> io::Result<ThreadUsage> {
    let schedstat = fs::read_to_string(task.join("schedstat"))?;
    let status = fs::read_to_string(task.join("status"))?;
    let cpu_ns = schedstat
        .split_ascii_whitespace()
        .next()
        .and_then(|field| field.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let switches = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
    Ok(ThreadUsage {
        cpu_ns,
        context_switches: switches
            .iter()
            .filter_map(|name| status_field(&status, name))
            .sum(),
    })
}

/// The number of a line `name:  123 kB` of a status file.
fn status_field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.split_ascii_whitespace().next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let status = "Name:\tx\nVmRSS:\t    1234 kB\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        for (name, expected) in [
            ("VmRSS", Some(1234)),
            ("voluntary_ctxt_switches", Some(7)),
            ("nonvoluntary_ctxt_switches", Some(9)),
            ("Name", None),
            ("Vm", None),
        ] {
            assert_eq!(status_field(status, name), expected, "{name}");
        }
    }

    #[test]
    fn a_busy_thread_shows_in_the_account() {
        let pid = std::process::id();
        let before = Sample::take(pid).unwrap();
        let mut sum = 0_u64;
        let mut after = before.clone();
        // The kernel brings the account up to date at its next tick: work until it has.
        while after.since(&before, pid).cpu_ns == 0 {
            sum = (0..100_000_u64).fold(sum, |sum, value| sum ^ value.wrapping_mul(sum | 1));
            after = Sample::take(pid).unwrap();
        }
        assert!(std::hint::black_box(sum) < u64::MAX);
        assert!(after.rss_bytes > 0);
    }

    #[test]
    fn ended_and_new_threads() {
        let sample = |threads: &[(u32, u64)]| Sample {
            threads: threads
                .iter()
                .map(|&(id, cpu_ns)| {
                    (
                        id,
                        ThreadUsage {
                            cpu_ns,
                            context_switches: 1,
                        },
                    )
                })
                .collect(),
            rss_bytes: 0,
        };
        let usage = sample(&[(1, 50), (3, 7)]).since(&sample(&[(1, 20), (2, 900)]), 1);
        assert_eq!((usage.cpu_ns, usage.context_switches), (37, 1));
    }
}
