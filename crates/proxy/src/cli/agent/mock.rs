//! `portcullis agent mock`: an agent that does what its flags say.

use super::{header, phase};
use crate::agents::{
    self, Place,
    mock::{Failure, Mock, PHASES},
};
use clap::{Args, ValueEnum};
use http::{HeaderName, HeaderValue};
use portcullis_agent_protocol::{Decision, EventKind, HeaderOp, Verdict};
use portcullis_config::parse_duration;
use std::{process::ExitCode, time::Duration};

/// What the agent does, and where it listens.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct MockArgs {
    #[command(flatten)]
    place: Place,
    /// What it calls itself
    #[arg(long, default_value = "mock")]
    name: String,
    /// Do it in this phase alone, and allow in others; may be given several times
    #[arg(long = "phase", value_name = "PHASE", value_parser = phase)]
    phases: Vec<EventKind>,
    /// allow, block, block=STATUS, redirect=URL or challenge=KIND
    #[arg(long, default_value = "allow", value_parser = verdict)]
    verdict: Verdict,
    /// Set a header of the request; may be given several times
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    set_request_header: Vec<(HeaderName, HeaderValue)>,
    /// Remove a header from the request; may be given several times
    #[arg(long, value_name = "NAME")]
    remove_request_header: Vec<HeaderName>,
    /// Set a header of the response; may be given several times
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    set_response_header: Vec<(HeaderName, HeaderValue)>,
    /// Remove a header from the response; may be given several times
    #[arg(long, value_name = "NAME")]
    remove_response_header: Vec<HeaderName>,
    /// Call every verdict provisional, also that on the last piece of a body
    #[arg(long)]
    needs_more: bool,
    /// Answer after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    delay: Option<Duration>,
    /// Do this instead of answering
    #[arg(long, value_enum)]
    fail: Option<Fail>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fail {
    /// Close the connection
    Close,
    /// Never answer
    Hang,
    /// Send what is no message
    Garbage,
    /// Say that it failed
    Error,
    /// Say that it has too much to do
    Overloaded,
}

impl From<Fail> for Failure {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::Close => Self::Close,
            Fail::Hang => Self::Hang,
            Fail::Garbage => Self::Garbage,
            Fail::Error => Self::Error,
            Fail::Overloaded => Self::Overloaded,
        }
    }
}

pub(super) fn mock(args: &MockArgs) -> ExitCode {
    let phases = match args.phases.as_slice() {
        [] => PHASES.to_vec(),
        phases => phases.to_vec(),
    };
    let mock = Mock {
        name: args.name.clone(),
        phases,
        verdict: args.verdict.clone(),
        request_headers: operations(&args.set_request_header, &args.remove_request_header),
        response_headers: operations(&args.set_response_header, &args.remove_response_header),
        needs_more: args.needs_more,
        delay: args.delay.unwrap_or_default(),
        failure: args.fail.map(Failure::from),
    };
    agents::run_mock(mock, &args.place)
}

fn operations(set: &[(HeaderName, HeaderValue)], remove: &[HeaderName]) -> Vec<HeaderOp> {
    let set = set.iter().map(|(name, value)| HeaderOp::Set {
        name: name.to_string(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    });
    let remove = remove.iter().map(|name| HeaderOp::Remove {
        name: name.to_string(),
    });
    set.chain(remove).collect()
}

fn verdict(text: &str) -> Result<Verdict, String> {
    let (kind, rest) = match text.split_once('=') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (text, None),
    };
    let decision = match (kind, rest) {
        ("allow", None) => Decision::allow(),
        ("block", None) => Decision::block(403),
        ("block", Some(status)) => {
            let status = status.parse().ok().filter(|it| (200..600).contains(it));
            Decision::block(status.ok_or("a status is from 200 to 599")?)
        }
        ("redirect", Some(url)) => Decision::redirect(url),
        ("challenge", Some(kind)) => Decision::challenge(kind),
        _ => {
            let known = "allow, block, block=STATUS, redirect=URL and challenge=KIND";
            return Err(format!("there are {known}"));
        }
    };
    Ok(decision.verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_written_short() {
        for (text, expected) in [
            ("allow", Decision::allow()),
            ("block", Decision::block(403)),
            ("block=451", Decision::block(451)),
            ("redirect=/a?b=c", Decision::redirect("/a?b=c")),
            ("challenge=captcha", Decision::challenge("captcha")),
        ] {
            assert_eq!(verdict(text), Ok(expected.verdict), "{text}");
        }
        for wrong in ["", "deny", "allow=1", "block=", "block=99", "redirect"] {
            assert!(verdict(wrong).is_err(), "{wrong}");
        }
    }
}
