//! The failure mode: one meaning, wherever it is written and whatever the failure says about itself.

use super::{assert_outcomes, route, routes};
use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::{Dialect, Reaction},
};

/// On the agent, on the route, and for all agents; a route has the last word.
#[test]
fn d04_a_mode_means_the_same_wherever_it_is_written() {
    let absent = TestAgent::named("absent");
    for (mode, status) in [("closed", 503), ("open", 200)] {
        let written = format!("failure-mode \"{mode}\"");
        let other = match mode {
            "open" => "failure-mode \"closed\"",
            _ => "failure-mode \"open\"",
        };
        let on_route = format!(r#"agent "absent" failure-mode="{mode}""#);
        let plain = r#"agent "absent""#;
        let defaults = format!("defaults {{ agent {{ {written} }} }}\n");
        for (before, filter, agent) in [
            ("", plain, written.as_str()),
            ("", on_route.as_str(), other),
            (defaults.as_str(), plain, ""),
        ] {
            let origin = Origin::start();
            let text = route("asked", filter, "");
            let proxy = Proxy::builder(format!("{before}routes {{\n{text}\n}}"))
                .origin(&origin)
                .agent_with(&absent, agent)
                .start();
            assert_eq!(
                proxy.get("/asked").status,
                status,
                "{before}{filter}{agent}"
            );
            let line = proxy.access_line_of("/asked");
            assert_outcomes(&line, &[("absent", "unreachable")]);
            assert_eq!(line["agents"][0]["failure_mode"], mode);
            assert_eq!(origin.requests().len(), usize::from(mode == "open"));
        }
    }
}

#[test]
fn d04_what_a_failure_says_does_not_choose_its_status() {
    let origin = Origin::start();
    let answer = |decision: &str| {
        Reaction::Text(format!(
            r#"{{"version":2,"decision":{decision},"audit":{{"custom":{{"correlation_id":"$ID"}}}}}}"#
        ))
    };
    let agent = TestAgent::named("waf")
        .speaking(Dialect::Legacy)
        .on("/asked/a", answer(r#""Timeout""#))
        .on("/asked/b", answer(r#"{"Timeout: 504 Gateway Timeout":{}}"#))
        .start();
    let proxy = routes(&route("asked", r#"agent "waf""#, ""), &origin)
        .agent(&agent)
        .start();
    proxy.wait_ready();
    for path in ["/asked/a", "/asked/b"] {
        assert_eq!(proxy.get(path).status, 502, "{path}");
        assert_outcomes(&proxy.access_line_of(path), &[("waf", "protocol_error")]);
    }
}
