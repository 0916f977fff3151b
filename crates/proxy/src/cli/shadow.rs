//! `portcullis shadow report`: asks a running proxy what its shadow agents would have done.

use super::admin::{AdminArgs, NoAnswer, Question, Target, first_line, printable};
use crate::filter::shadow::report::{Entry, Report};
use clap::{Args, Subcommand};
use http::StatusCode;
use std::{fmt::Write, process::ExitCode};

/// What is asked for.
const PATH: &str = "/shadow";
/// How much of an answer is read: thousands of agents with all their disagreements.
const LONGEST_ANSWER: usize = 64 << 20;

/// What to do about shadow agents.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum ShadowCommand {
    /// Say where shadow agents agree and disagree with those that are enforced
    Report(ReportArgs),
}

/// Whom to ask, and how to say it.
#[derive(Debug, Clone, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// As JSON, as the proxy says it
    #[arg(long)]
    json: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum NoReport {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("{0}: {1} {2}")]
    Refused(Target, StatusCode, String),
    #[error("{0}: not a report: {1}")]
    Unreadable(Target, serde_json::Error),
}

pub(super) fn run(command: &ShadowCommand) -> ExitCode {
    let ShadowCommand::Report(args) = command;
    match report(args) {
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

fn report(args: &ReportArgs) -> Result<String, NoReport> {
    let target = args.admin.target()?;
    let question = Question::get(PATH, LONGEST_ANSWER);
    let (status, body) = target.answer(&question, args.admin.timeout)?;
    if status != StatusCode::OK {
        return Err(NoReport::Refused(target, status, first_line(&body)));
    }
    let report: Report = serde_json::from_slice(&body)
        .map_err(|error| NoReport::Unreadable(target.clone(), error))?;
    if args.json {
        return serde_json::to_string_pretty(&report)
            .map_err(|error| NoReport::Unreadable(target, error));
    }
    Ok(described(&report))
}

/// The report for people. Writing into a `String` cannot fail, so the results of `write!` are dropped.
fn described(report: &Report) -> String {
    if report.shadows.is_empty() {
        return "no shadow agents are configured".to_owned();
    }
    let mut text = String::new();
    for entry in &report.shadows {
        describe(&mut text, entry);
        text.push('\n');
    }
    text
}

fn describe(text: &mut String, entry: &Entry) {
    let compared_with = match &entry.compare_with {
        Some(agent) => format!("agent \"{agent}\""),
        None => "what was enforced".to_owned(),
    };
    let _ = writeln!(
        text,
        "route \"{}\", agent \"{}\", compared with {compared_with}",
        entry.route, entry.agent
    );
    if let Some(share) = &entry.enforce {
        let fallen = match entry.fallen_back {
            true => ", at present for nobody: it failed too often",
            false => "",
        };
        let _ = writeln!(text, "  enforced for {share} of clients{fallen}");
    }
    let _ = writeln!(
        text,
        "  agreement {}: {} of {} compared, {} disagreed; {} failed, {} not compared, {} dropped",
        percent(entry.agreed, entry.compared),
        entry.agreed,
        entry.compared,
        entry.disagreed,
        entry.failed,
        entry.not_compared,
        entry.dropped
    );
    for pair in &entry.verdicts {
        let _ = writeln!(
            text,
            "  {:>12} x shadow {}, enforced {}",
            pair.count, pair.shadow, pair.enforced
        );
    }
    if !entry.disagreements.is_empty() {
        let _ = writeln!(text, "  last disagreements:");
    }
    for sample in &entry.disagreements {
        let reason = sample.reason.as_deref().map(printable);
        let _ = writeln!(
            text,
            "    {}  {}  {}  shadow {}, enforced {}{}",
            sample.ts,
            printable(&sample.request_id),
            sample.phase,
            sample.shadow,
            sample.enforced,
            reason.map_or_else(String::new, |reason| format!("  ({reason})"))
        );
    }
}

/// With two digits behind the point, and rounded down, so that all is really all.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "unknown".to_owned();
    }
    let hundredths = u128::from(part) * 10_000 / u128::from(whole);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::shadow::report::{Pair, Sample};

    #[test]
    fn agreement_is_rounded_down() {
        for (part, whole, text) in [
            (0, 0, "unknown"),
            (0, 7, "0.00 %"),
            (2, 3, "66.66 %"),
            (999_999, 1_000_000, "99.99 %"),
            (u64::MAX, u64::MAX, "100.00 %"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
    }

    #[test]
    fn a_report_names_what_matters_and_obeys_nobody() {
        let entry = Entry {
            route: "shop".into(),
            agent: "waf-next".into(),
            compare_with: Some("waf".into()),
            enforce: Some("5%".into()),
            fallen_back: true,
            compared: 3,
            agreed: 2,
            disagreed: 1,
            failed: 4,
            not_compared: 5,
            dropped: 6,
            verdicts: vec![Pair {
                shadow: "block".into(),
                enforced: "allow".into(),
                count: 1,
            }],
            disagreements: vec![Sample {
                request_id: "0193-id".into(),
                ts: "2025-01-01T00:00:00.000Z".into(),
                phase: "request_headers".into(),
                shadow: "block".into(),
                enforced: "allow".into(),
                reason: Some("rule\u{1b}[2J".into()),
            }],
        };
        let text = described(&Report {
            shadows: vec![entry],
        });
        for part in [
            "route \"shop\", agent \"waf-next\", compared with agent \"waf\"",
            "enforced for 5% of clients, at present for nobody",
            "agreement 66.66 %: 2 of 3 compared, 1 disagreed; 4 failed, 5 not compared, 6 dropped",
            "1 x shadow block, enforced allow",
            "0193-id",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains('\u{1b}'));
        let nothing = Report {
            shadows: Vec::new(),
        };
        assert!(described(&nothing).contains("no shadow agents"));
    }
}
