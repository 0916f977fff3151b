//! `portcullis agent`: the agents of this binary, and the kit for authors of others.

mod bench;
mod check;
mod mock;
mod record;
mod replay;
mod sample;
mod table;
mod target;

use super::admin::printable;
use crate::agents::{self, Builtin};
use clap::Subcommand;
use portcullis_agent_protocol::EventKind;
use std::{path::Path, process::ExitCode};

/// What to do about agents.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum AgentCommand {
    #[command(flatten)]
    Builtin(Builtin),
    /// Run an agent that does what these flags say, for tests
    Mock(mock::MockArgs),
    /// Check whether an agent keeps to the protocol: 0 when it does, 1 when it does not
    Check(check::CheckArgs),
    /// Measure how fast an agent answers
    Bench(bench::BenchArgs),
    /// Record what a running proxy tells its agents and what they answer, without secrets
    Record(record::RecordArgs),
    /// Tell an agent what was recorded of another: 0 when its verdicts are the same, 1 when they are not
    Replay(replay::ReplayArgs),
}

pub(super) fn run(command: &AgentCommand) -> ExitCode {
    match command {
        AgentCommand::Builtin(builtin) => agents::run(builtin),
        AgentCommand::Mock(args) => mock::mock(args),
        AgentCommand::Check(args) => check::check(args),
        AgentCommand::Bench(args) => bench::bench(args),
        AgentCommand::Record(args) => record::record(args),
        AgentCommand::Replay(args) => replay::replay(args),
    }
}

/// The phases as they are written in configurations, and the events that are their questions.
const PHASES: [(&str, EventKind); 6] = [
    ("request-headers", EventKind::RequestHeaders),
    ("request-body", EventKind::RequestBodyChunk),
    ("response-headers", EventKind::ResponseHeaders),
    ("response-body", EventKind::ResponseBodyChunk),
    ("websocket-frames", EventKind::WebSocketFrame),
    ("request-complete", EventKind::RequestComplete),
];

/// A phase that is named on a command line.
fn phase(name: &str) -> Result<EventKind, String> {
    let found = PHASES.iter().find(|(known, _)| *known == name);
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        let names = PHASES.map(|(name, _)| name).join(", ");
        format!("there is no such phase; there are {names}")
    })
}

/// The name of the phase in which an agent is asked about events of this kind.
fn phase_of(kind: EventKind) -> &'static str {
    let found = PHASES.iter().find(|(_, known)| *known == kind);
    found.map_or(kind.name(), |(name, _)| name)
}

/// A header field that is written on a command line as `name: value`.
fn header(text: &str) -> Result<(http::HeaderName, http::HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("it is written as `name: value`")?;
    let name = name.trim().parse().map_err(|error| format!("{error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{error}"))?;
    Ok((name, value))
}

/// A configuration for an agent, from a file.
fn config_file(path: &Path) -> Result<serde_json::Value, String> {
    let said = |error: String| format!("{}: {error}", path.display());
    let text = std::fs::read(path).map_err(|error| said(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| said(format!("not JSON: {error}")))
}

/// The result of a command.
#[expect(clippy::print_stdout, reason = "the result of the command")]
fn say(text: &str) {
    println!("{}", text.trim_end());
}

/// Says why there is no result. Some of it may be an agent's words.
fn complain(reason: &impl std::fmt::Display) {
    eprintln!("{}", complaint(reason));
}

fn complaint(reason: &impl std::fmt::Display) -> String {
    format!("portcullis: {}", printable(&reason.to_string()))
}

/// Runs something on a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // A name that is still being resolved, or a file that is read, would hold up the end.
    runtime.shutdown_background();
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_have_the_names_of_the_configuration() {
        for (name, kind) in PHASES {
            assert_eq!(phase(name), Ok(kind));
            assert_eq!(phase_of(kind), name);
        }
        assert!(phase("request").unwrap_err().contains("request-body"));
    }

    #[test]
    fn what_an_agent_says_of_itself_cannot_act_on_the_terminal() {
        let reason = "\u{1b}]0;x\u{7}\u{1b}[31mno\nok".to_owned();
        let refused = portcullis_agent_protocol::ConnectError::Refused { reason };
        let said = complaint(&refused);
        assert!(
            said.starts_with("portcullis: ") && said.contains("no"),
            "{said}"
        );
        assert!(!said.chars().any(char::is_control), "{said:?}");
    }

    #[test]
    fn headers_are_written_as_they_are_sent() {
        let (name, value) = header("X-Key:  a:b ").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("x-key", &b"a:b"[..]));
        for wrong in ["x-key", "x key: 1", ": 1", "x: a\n1"] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }
}
