//! What a check has found, for people and for machines.

use super::{
    super::{phase_of, table::table},
    line::{Checked, Done},
};
use crate::cli::admin::printable;
use portcullis_agent_protocol::{Capabilities, Extensions};
use serde_json::{Value, json};
use std::time::Duration;

/// All of it.
pub(super) struct Report {
    pub(super) target: String,
    pub(super) agent: Option<(Capabilities, Extensions)>,
    pub(super) rows: Vec<Row>,
}

/// One check.
pub(super) struct Row {
    name: &'static str,
    result: &'static str,
    /// Why, or a remark; may be empty.
    said: String,
    took: Duration,
}

impl Row {
    pub(super) fn new(name: &'static str, checked: Checked, took: Duration) -> Self {
        let (result, said) = match checked {
            Ok(Done::Passed(remark)) => ("ok", remark),
            Ok(Done::Skipped(why)) => ("skipped", why),
            Err(why) => ("failed", why),
        };
        Self {
            name,
            result,
            said,
            took,
        }
    }
}

impl Report {
    fn count(&self, result: &str) -> usize {
        self.rows.iter().filter(|row| row.result == result).count()
    }

    pub(super) fn failed(&self) -> usize {
        self.count("failed")
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.target, self.who());
        let rows: Vec<[String; 4]> = self
            .rows
            .iter()
            .map(|row| {
                [
                    row.name.to_owned(),
                    row.result.to_owned(),
                    format!("{:.1} ms", row.took.as_secs_f64() * 1e3),
                    row.said.clone(),
                ]
            })
            .collect();
        text.push_str(&table(&rows, &[2]));
        let [ok, failed, skipped] = ["ok", "failed", "skipped"].map(|result| self.count(result));
        text.push_str(&format!("{ok} ok, {failed} failed, {skipped} skipped"));
        text
    }

    fn who(&self) -> String {
        let Some((capabilities, _)) = &self.agent else {
            return "no agent".to_owned();
        };
        let who = match (&*capabilities.name, &*capabilities.version) {
            ("", _) => "an agent without a name".to_owned(),
            (name, version) => format!("{name} {version}"),
        };
        printable(&format!("{who}, wants {}", phases(capabilities).join(", ")))
    }

    pub(super) fn json(&self) -> String {
        let agent = self.agent.as_ref().map(|(capabilities, extensions)| {
            json!({
                "id": capabilities.agent_id,
                "name": capabilities.name,
                "version": capabilities.version,
                "phases": phases(capabilities),
                "extensions": extensions.names(),
            })
        });
        let checks: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "result": row.result,
                    "reason": row.said,
                    "duration_ms": row.took.as_secs_f64() * 1e3,
                })
            })
            .collect();
        let report = json!({
            "target": self.target,
            "agent": agent,
            "checks": checks,
            "ok": self.count("ok"),
            "failed": self.failed(),
            "skipped": self.count("skipped"),
        });
        format!("{report:#}")
    }
}

fn phases(capabilities: &Capabilities) -> Vec<&'static str> {
    let known = super::super::PHASES.iter().map(|(_, kind)| *kind);
    known
        .filter(|kind| capabilities.supports(*kind))
        .map(phase_of)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_wrong_and_obeys_nobody() {
        let row = |name, checked| Row::new(name, checked, Duration::from_micros(1500));
        let mut capabilities = Capabilities::new("evil\u{1b}[2J", "1");
        capabilities.supported_events = vec![1, 5, 99];
        let report = Report {
            target: "unix:/a.sock".to_owned(),
            agent: Some((capabilities, Extensions::NONE)),
            rows: vec![
                row("handshake", Ok(Done::passed())),
                row("ping", Err("no pong\u{1b}".to_owned())),
                row("large-body", Ok(Done::Skipped("why".to_owned()))),
            ],
        };
        let text = report.text();
        assert!(!text.contains('\u{1b}'));
        for part in [
            "unix:/a.sock: evil\u{fffd}[2J 1, wants request-headers, request-complete\n",
            "ping        failed   1.5 ms  no pong\u{fffd}\n",
            "1 ok, 1 failed, 1 skipped",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["failed"], 1);
        assert_eq!(json["checks"][1]["reason"], "no pong\u{1b}");
        assert_eq!(json["agent"]["phases"][1], "request-complete");
    }
}
