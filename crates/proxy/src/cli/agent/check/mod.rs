//! `portcullis agent check`: whether an agent keeps to the protocol, over real connections.

mod hostile;
mod line;
mod load;
mod questions;
mod raw;
mod report;

use super::{block_on, config_file, sample::SampleArgs, say, target::Target};
use clap::Args;
use futures::{FutureExt, future::LocalBoxFuture};
use line::{Checked, Done, Tester};
use portcullis_config::parse_duration;
use report::{Report, Row};
use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

/// A check takes no longer than so many answers may take, in any case.
const ANSWERS: u32 = 60;

/// Which agent, and how it is asked.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct CheckArgs {
    #[command(flatten)]
    target: Target,
    /// A JSON file with the agent's configuration; without it the agent is given none
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    sample: SampleArgs,
    /// Another path, which the agent judges otherwise than --path; may be given several times
    #[arg(long, value_name = "PATH")]
    also: Vec<String>,
    /// Make this check alone (and the handshake); may be given several times
    #[arg(long, value_name = "CHECK", value_parser = known)]
    only: Vec<&'static str>,
    /// For one answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
}

type Check = for<'a> fn(&'a Tester) -> LocalBoxFuture<'a, Checked>;

/// Every check, in the order in which they are made. The last ones look at what was noted in the others.
const CHECKS: [(&str, Check); 23] = [
    ("handshake", |it| questions::handshake(it).boxed_local()),
    ("handshake-legacy", |it| {
        questions::handshake_legacy(it).boxed_local()
    }),
    ("configuration", |it| {
        questions::configuration(it).boxed_local()
    }),
    ("request-headers", |it| {
        questions::request_headers(it).boxed_local()
    }),
    ("request-body", |it| {
        questions::request_body(it).boxed_local()
    }),
    ("request-body-pieces", |it| {
        questions::request_body_pieces(it).boxed_local()
    }),
    ("response-headers", |it| {
        questions::response_headers(it).boxed_local()
    }),
    ("response-body", |it| {
        questions::response_body(it).boxed_local()
    }),
    ("response-body-pieces", |it| {
        questions::response_body_pieces(it).boxed_local()
    }),
    ("websocket-frames", |it| {
        questions::websocket_frames(it).boxed_local()
    }),
    ("request-complete", |it| {
        questions::request_complete(it).boxed_local()
    }),
    ("ping", |it| questions::ping(it).boxed_local()),
    ("concurrency", |it| load::concurrency(it).boxed_local()),
    ("slow-reader", |it| load::slow_reader(it).boxed_local()),
    ("cancelled", |it| load::cancelled(it).boxed_local()),
    ("disconnected", |it| load::disconnected(it).boxed_local()),
    ("large-body", |it| load::large_body(it).boxed_local()),
    ("garbage-frame", |it| {
        hostile::garbage_frame(it).boxed_local()
    }),
    ("broken-json", |it| hostile::broken_json(it).boxed_local()),
    ("unknown-type", |it| hostile::unknown_type(it).boxed_local()),
    ("provisional", |it| questions::provisional(it).boxed_local()),
    ("header-rules", |it| {
        questions::header_rules(it).boxed_local()
    }),
    ("stray-answers", |it| {
        questions::stray_answers(it).boxed_local()
    }),
];

/// Checks that write and read the frames of version 2 by hand, so that they can misuse the connection.
const BY_HAND: [&str; 5] = [
    "slow-reader",
    "disconnected",
    "garbage-frame",
    "broken-json",
    "unknown-type",
];

/// Checks of what version 1 does not have, and what that is.
const NOT_IN_V1: [(&str, &str); 5] = [
    ("handshake-legacy", "version 1 has no handshake"),
    ("ping", "version 1 has no pings"),
    ("concurrency", "version 1 is asked one thing at a time"),
    ("cancelled", "in version 1 nothing can be taken back"),
    ("stray-answers", "answers of version 1 do not say to what"),
];

/// Why this check cannot be made with agents that are reached in this way.
fn left_out(target: &Target, name: &str) -> Option<&'static str> {
    if BY_HAND.contains(&name) && !target.is_socket() {
        return Some("it is for version 2 over a Unix socket");
    }
    if !target.is_v1() {
        return None;
    }
    let found = NOT_IN_V1.iter().find(|(of, _)| *of == name);
    found.map(|(_, why)| *why)
}

fn known(name: &str) -> Result<&'static str, String> {
    let names = CHECKS.map(|(name, _)| name);
    let found = names.into_iter().find(|known| *known == name);
    found.ok_or_else(|| format!("there is no such check; there are {}", names.join(", ")))
}

pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let mut tester = Tester::new(args.target.clone(), args.sample.clone(), args.timeout);
    tester.also.clone_from(&args.also);
    let config = args.config.as_deref().map(config_file).transpose();
    match args.target.valid().and(config) {
        Ok(config) => tester.config = config.map(Arc::new),
        Err(error) => {
            eprintln!("portcullis: {error}");
            return ExitCode::from(2);
        }
    }
    let report = match block_on(all(&tester, &args.only)) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("portcullis: not checked: {error}");
            return ExitCode::FAILURE;
        }
    };
    say(&match args.json {
        true => report.json(),
        false => report.text(),
    });
    match report.failed() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

async fn all(tester: &Tester, only: &[&str]) -> Report {
    let mut rows = Vec::new();
    for (name, check) in CHECKS {
        let is_wanted = only.is_empty() || only.contains(&name) || name == "handshake";
        if !is_wanted {
            continue;
        }
        let started = Instant::now();
        let checked = match tester.agent.get() {
            None if !rows.is_empty() => Ok(Done::Skipped("no handshake".to_owned())),
            _ => match left_out(&tester.target, name) {
                Some(why) => Ok(Done::Skipped(why.to_owned())),
                None => bounded(tester, check).await,
            },
        };
        rows.push(Row::new(name, checked, started.elapsed()));
    }
    Report {
        target: tester.target.to_string(),
        agent: tester.agent.get().cloned(),
        rows,
    }
}

async fn bounded(tester: &Tester, check: Check) -> Checked {
    let limit = tester.timeout.saturating_mul(ANSWERS);
    let checked = tokio::time::timeout(limit, check(tester)).await;
    checked.unwrap_or_else(|_| Err(format!("it was not over within {limit:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_a_check() {
        let of_v1 = NOT_IN_V1.map(|(name, _)| name);
        for name in BY_HAND.into_iter().chain(of_v1) {
            assert_eq!(known(name), Ok(name));
        }
    }
}
