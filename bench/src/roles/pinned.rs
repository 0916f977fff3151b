//! Becomes another program, bound to one processor and to the life of the driver.

use crate::error::BenchError;
use rustix::{
    process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};
use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

/// What to become.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The processor to run on; without it, wherever the system likes.
    #[arg(long)]
    cpu: Option<usize>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Binds this process, lets it have as many descriptors as it may, and replaces it by the program. All of this survives the
/// exec, as the death signal does, so that no program needs to know of it and none outlives a driver that was killed.
///
/// # Errors
/// Always an error, if it returns: the processor does not exist, or the program cannot be executed.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| BenchError::io("ask for the death signal")(error.into()))?;
    if let Some(cpu) = options.cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)
            .map_err(|error| BenchError::io(format!("pin to processor {cpu}"))(error.into()))?;
    }
    let descriptors = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: descriptors.maximum,
        ..descriptors
    };
    setrlimit(Resource::Nofile, all)
        .map_err(|error| BenchError::io("raise the number of descriptors")(error.into()))?;
    let Some((program, arguments)) = options.command.split_first() else {
        return Err(BenchError::Usage("pinned: no program".to_owned()));
    };
    let error = Command::new(program).args(arguments).exec();
    Err(BenchError::io(format!(
        "execute {}",
        program.to_string_lossy()
    ))(error))
}
