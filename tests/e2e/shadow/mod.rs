//! Agents in the shadow of requests: asked, counted, and never obeyed.

mod neutral;
mod pressure;
mod ramp;
mod report;
mod view;

use crate::harness::{Origin, Proxy, TestAgent, proxy::Builder};
use serde_json::Value;
use std::process::Command;

/// What makes an agent inspect everything, bodies in this mode.
fn everything(mode: &str) -> String {
    format!(
        "inspect {{ request-headers; request-body \"{mode}\"; response-headers; response-body \"{mode}\"; request-complete }}"
    )
}

/// A proxy with an admin listener that sends everything past these filters to the origin. Agents are to be added.
fn past(filters: &str, origin: &Origin) -> Builder {
    past_with(filters, "worker-threads 2", origin)
}

/// The same with this in its block `system`.
fn past_with(filters: &str, system: &str, origin: &Origin) -> Builder {
    Proxy::builder(format!(
        "admin {{ address \"127.0.0.1:0\" }}\nsystem {{ {system} }}\nroutes {{ route \"all\" {{ filters {{ {filters} }}; upstream \"origin\" }} }}"
    ))
    .origin(origin)
}

/// Waits until the agent is connected, without which a shadow agent would be counted as unreachable.
fn wait_up(proxy: &Proxy, agent: &TestAgent) {
    let series = format!("portcullis_agent_up{{agent=\"{}\"}}", agent.name());
    proxy.wait_metric(&series, 1.0);
}

/// Runs `portcullis shadow report` with these arguments; what it prints, and whether it is well with it.
fn report_with(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["shadow", "report"])
        .args(arguments)
        .env_remove("PORTCULLIS_CONFIG")
        .output()
        .unwrap();
    let text = match output.status.success() {
        true => output.stdout,
        false => output.stderr,
    };
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// What the report says of the only shadow agent.
pub(crate) fn entry(proxy: &Proxy) -> Value {
    let admin = proxy.address_of("admin").to_string();
    let (well, text) = report_with(&["--admin", &admin, "--json"]);
    assert!(well, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let shadows = report["shadows"].as_array().unwrap();
    assert_eq!(shadows.len(), 1, "{report}");
    shadows[0].clone()
}

/// The verdicts that met, with their counts.
fn pairs(entry: &Value) -> Vec<(String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let verdicts = entry["verdicts"].as_array().unwrap().iter();
    verdicts
        .map(|pair| {
            let count = pair["count"].as_u64().unwrap();
            (text(&pair["shadow"]), text(&pair["enforced"]), count)
        })
        .collect()
}

/// The series of a meeting of verdicts.
fn series(shadow: &str, enforced: &str) -> String {
    format!("portcullis_shadow_verdicts_total{{shadow=\"{shadow}\",enforced=\"{enforced}\"}}")
}
