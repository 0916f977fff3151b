//! `portcullis agent bench`: every phase is measured, and failures are counted.

use super::{Running, kit, kit_json};

#[test]
fn every_phase_is_measured() {
    let agent = Running::start(&["echo"]);
    let target = agent.target();
    let arguments = [
        "bench",
        &target,
        "--duration",
        "200ms",
        "--concurrency",
        "4",
    ];
    let (code, report) = kit_json(&[&arguments[..], &["--connections", "2"]].concat());
    assert_eq!(code, Some(0), "{report:#}");
    let phases = report["phases"].as_array().unwrap();
    let names: Vec<&str> = phases
        .iter()
        .map(|phase| phase["phase"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "request-headers",
            "request-body",
            "response-headers",
            "response-body",
            "request-complete"
        ]
    );
    for phase in phases {
        let number = |name: &str| phase[name].as_f64().unwrap();
        assert!(number("calls") > 0.0, "{phase}");
        assert!(number("calls_per_second") > 0.0, "{phase}");
        assert!(
            0.0 < number("p50_us") && number("p50_us") <= number("p99_us"),
            "{phase}"
        );
        assert!(number("p99_us") <= number("max_us"), "{phase}");
        assert_eq!(phase["failed"], 0);
    }
    let only = ["--phase", "response-headers", "--legacy"];
    let (code, text, _) = kit(&[&arguments[..], &only].concat());
    assert_eq!(code, Some(0));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("p99"), "{text}");
}

#[test]
fn agents_over_grpc_are_measured() {
    let agent = Running::over_grpc(&["echo"]);
    let only = ["--phase", "request-headers", "--duration", "100ms"];
    let (code, report) = kit_json(&[&["bench", &agent.target()], &only[..]].concat());
    assert_eq!(code, Some(0), "{report:#}");
    assert!(report["phases"][0]["calls"].as_u64().unwrap() > 0);
    assert!(report["target"].as_str().unwrap().starts_with("http://"));
}

#[test]
fn failures_are_counted_and_not_measured() {
    let agent = Running::start(&["mock", "--fail", "error", "--phase", "request-headers"]);
    let target = agent.target();
    let arguments = ["bench", &target, "--duration", "100ms"];
    let phases = ["--phase", "request-headers", "--phase", "websocket-frames"];
    let (code, report) = kit_json(&[&arguments[..], &phases].concat());
    assert_eq!(code, Some(1), "{report:#}");
    let [heads, frames] = [&report["phases"][0], &report["phases"][1]];
    assert_eq!(heads["calls"], 0);
    assert!(heads["failed"].as_u64().unwrap() > 0, "{heads}");
    assert!(frames["calls"].as_u64().unwrap() > 0, "{frames}");
    let (code, _, errors) = kit(&["bench", "/nowhere/agent.sock"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("unreachable"), "{errors}");
}
