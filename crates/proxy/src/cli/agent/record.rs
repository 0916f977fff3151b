//! `portcullis agent record`: asks a running proxy to write down what its agents are told and what they answer.

use super::super::admin::{AdminArgs, NoAnswer, Question, Target, first_line};
use crate::recording::{Settings, Status};
use clap::Args;
use http::{Method, StatusCode};
use portcullis_config::parse_duration;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How much of an answer is read: what is taken at once, and an entry of any size.
const LONGEST_ANSWER: usize = 64 << 20;

/// What is recorded, and where it goes.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RecordArgs {
    /// Record this agent alone
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Record this share of requests, as in 1%
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = share)]
    sample: f64,
    /// Record no more requests than these; at most 100000
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// Record no longer than this; at most 10m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Replace the values of headers and parameters of this name, beside authorization, proxy-authorization, cookie and
    /// set-cookie; may be given several times
    #[arg(long, value_name = "NAME")]
    redact: Vec<String>,
    /// Record pieces of bodies and frames up to this size too; at most 1048576. They are not searched for secrets
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    bodies: Option<u32>,
    /// Write to this new file, which only you can read; without it to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Why there is no recording, or not all of it.
#[derive(Debug, thiserror::Error)]
enum NotRecorded {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("{0}: {1} {2}")]
    Refused(Target, StatusCode, String),
    #[error("{0}: the answer is not understood; is it the address of admin, of this version?")]
    Garbled(Target),
    #[error("{0}: {1}")]
    Write(String, io::Error),
}

pub(super) fn record(args: &RecordArgs) -> ExitCode {
    match recorded(args) {
        Ok(status) => {
            eprintln!(
                "portcullis: {} answers of {} requests recorded, {} dropped",
                status.recorded.saturating_sub(status.dropped),
                status.requests,
                status.dropped
            );
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("portcullis: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn recorded(args: &RecordArgs) -> Result<Status, NotRecorded> {
    let target = args.admin.target()?;
    let settings = Settings {
        agent: args.agent.clone(),
        sample: args.sample,
        requests: args.requests,
        duration_ms: u64::try_from(args.duration.as_millis()).unwrap_or(u64::MAX),
        redact: args.redact.clone(),
        body_bytes: args.bodies.unwrap_or_default(),
    };
    let settings = serde_json::to_vec(&settings).unwrap_or_default();
    let (begun, _) = ask(args, &target, Method::POST, "/recordings", &settings)?;
    eprintln!("portcullis: recording agents of {target}");
    let path = format!("/recordings/{}", begun.id);
    let taken = match output(args) {
        Ok(mut output) => take_all(args, &target, &path, &mut *output)?,
        Err(error) => Err(error),
    };
    let end = Question {
        method: Method::DELETE,
        ..Question::get(&path, LONGEST_ANSWER)
    };
    // It would be thrown away a little later.
    let _ = target.answer(&end, args.admin.timeout);
    taken.map_err(|error| {
        let path = args.output.as_ref().map(|path| path.display().to_string());
        NotRecorded::Write(path.unwrap_or_else(|| "standard output".to_owned()), error)
    })
}

/// A file that is there already may be open to others, and is somebody's.
fn output(args: &RecordArgs) -> io::Result<Box<dyn Write>> {
    Ok(match &args.output {
        None => Box::new(io::stdout()),
        Some(path) => {
            let mut options = OpenOptions::new();
            Box::new(
                options
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)?,
            )
        }
    })
}

/// Writes down everything until the recording is over. The inner error is that of writing.
fn take_all(
    args: &RecordArgs,
    target: &Target,
    path: &str,
    output: &mut dyn Write,
) -> Result<io::Result<Status>, NotRecorded> {
    let take = format!("{path}/take");
    loop {
        std::thread::sleep(PAUSE);
        let (status, lines) = ask(args, target, Method::POST, &take, &[])?;
        let written = output.write_all(&lines).and_then(|()| output.flush());
        if let Err(error) = written {
            return Ok(Err(error));
        }
        if status.over && status.waiting == 0 {
            return Ok(Ok(status));
        }
    }
}

/// Asks something whose answer begins with how the recording stands.
fn ask(
    args: &RecordArgs,
    target: &Target,
    method: Method,
    path: &str,
    body: &[u8],
) -> Result<(Status, Vec<u8>), NotRecorded> {
    let question = Question {
        method,
        body,
        ..Question::get(path, LONGEST_ANSWER)
    };
    let (status, body) = target.answer(&question, args.admin.timeout)?;
    if !status.is_success() {
        let line = first_line(&body);
        return Err(NotRecorded::Refused(target.clone(), status, line));
    }
    let garbled = || NotRecorded::Garbled(target.clone());
    let end = body.iter().position(|byte| *byte == b'\n');
    let (standing, lines) = body.split_at(end.ok_or_else(garbled)?);
    let standing = serde_json::from_slice(standing).map_err(|_| garbled())?;
    Ok((standing, lines[1..].to_vec()))
}

fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().map(|number| number / whole);
    let share = share.ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "it is more than 0 and at most 100%, as in 1% or 0.01".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    match duration <= Settings::MOST_DURATION {
        true => Ok(duration),
        false => Err("it is at most 10m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_in_two_ways() {
        for (text, expected) in [("100%", 1.0), ("1%", 0.01), ("0.5", 0.5), ("0.1%", 0.001)] {
            assert_eq!(share(text), Ok(expected), "{text}");
        }
        for wrong in ["", "0", "0%", "101%", "2", "-1%", "NaN", "some"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        assert!(duration("10m").is_ok() && duration("11m").is_err());
    }
}
