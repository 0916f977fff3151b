//! `portcullis why`: asks a running proxy what became of a request and why.

mod text;

use super::admin::{AdminArgs, NoAnswer, Question, Target};
use clap::Args;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::process::ExitCode;

/// How much of an answer is read; more than sixteen requests with all that can be said of them.
const LONGEST_ANSWER: usize = 8 << 20;

/// Which request, and whom to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct WhyArgs {
    /// The id on the error page, in `x-request-id` and in the access log
    #[arg(value_name = "REQUEST_ID")]
    request_id: String,
    /// Print what the proxy says as it is, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
enum Unexplained {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error(
        "{0}: no such request; kept are requests that were refused or failed, or brought the trace token, and of these the last ones"
    )]
    NotFound(Target),
    #[error("{0}: {1}; is it the address of admin, of this version?")]
    Refused(Target, StatusCode),
    #[error("{0}: the answer is not understood")]
    Garbled(Target),
}

pub(super) fn why(args: &WhyArgs) -> ExitCode {
    let explained = args.admin.target().map_err(Unexplained::from);
    let explained = explained.and_then(|target| {
        let body = ask(&target, args)?;
        if args.json {
            return Ok(text::printable(&String::from_utf8_lossy(&body)));
        }
        text::explain(&body).ok_or(Unexplained::Garbled(target))
    });
    match explained {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("portcullis: {reason}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn say(text: &str) {
    println!("{}", text.trim_end());
}

fn ask(target: &Target, args: &WhyArgs) -> Result<Vec<u8>, Unexplained> {
    let id = utf8_percent_encode(&args.request_id, NON_ALPHANUMERIC);
    let path = format!("/requests/{id}");
    let question = Question::get(&path, LONGEST_ANSWER);
    let (status, body) = target.answer(&question, args.admin.timeout)?;
    match status {
        StatusCode::OK => Ok(body),
        // Somebody else has no such path, and does not say so in JSON.
        StatusCode::NOT_FOUND if body.starts_with(b"{") => {
            Err(Unexplained::NotFound(target.clone()))
        }
        _ => Err(Unexplained::Refused(target.clone(), status)),
    }
}
