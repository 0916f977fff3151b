//! The hidden step between the proxy and an agent that it starts, see [`portcullis_agent_manager::supervise`].

use portcullis_agent_manager::supervise::become_agent;
use std::{ffi::OsString, path::Path, process::ExitCode};

pub(super) fn run(parent: u32, command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(2);
    };
    let error = become_agent(parent, Path::new(program), arguments);
    eprintln!("cannot become {}: {error}", Path::new(program).display());
    ExitCode::FAILURE
}
