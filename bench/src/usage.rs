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

/// The resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident_bytes: u64,
    /// The most that it ever was.
    pub(crate) peak_bytes: u64,
}

impl Memory {
    /// That of process `pid`.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn of(pid: u32) -> Result<Self, BenchError> {
        let path = Path::new("/proc").join(pid.to_string()).join("status");
        let status = fs::read_to_string(&path).map_err(BenchError::file("read", &path))?;
        let field = |name| status_field(&status, name).unwrap_or(0) * 1024;
        Ok(Self {
            resident_bytes: field("VmRSS"),
            peak_bytes: field("VmHWM"),
        })
    }
}

/// What all processors of the machine have done since it started, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineTicks {
    busy: u64,
    all: u64,
}

impl MachineTicks {
    /// Up to now. Nothing where the system does not tell.
    pub(crate) fn take() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(text.lines().next().unwrap_or_default())
    }

    /// The line of all processors: user, nice, system, idle, iowait, irq, softirq, steal; the guests' are in the user's.
    fn parse(line: &str) -> Self {
        let fields = line.split_ascii_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
        let all = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self {
            busy: all - idle,
            all,
        }
    }

    /// The share of its processors that the machine has used since `earlier`, 0 to 1.
    pub(crate) fn busy_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.busy.saturating_sub(earlier.busy) as f64 / all as f64
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
    fn ticks_of_the_machine() {
        let before = MachineTicks::parse("cpu  10 0 10 70 10 0 0 0 0 0");
        let after = MachineTicks::parse("cpu  30 0 20 130 20 0 0 0 5 0");
        assert_eq!(after.busy_since(before), 0.3);
        assert_eq!(before.busy_since(before), 0.0);
        assert_eq!(MachineTicks::parse("").busy_since(before), 0.0);
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
