//! The policy of calling: budgets, breakers, permits, lost and hung agents, clients that go away, and what agents may say and
//! hear of headers.

mod breaker;
mod crowd;
mod given_up;
mod grpc;
mod headers;
mod late;
mod load;
mod modes;
mod pool;
mod restarted;
mod restarts;
mod told;

use crate::harness::{Origin, Proxy, TestAgent, eventually, proxy::Builder};
use serde_json::Value;

/// A proxy with one worker and these routes before the origin. Agents are to be added.
fn routes(routes: &str, origin: &Origin) -> Builder {
    Proxy::builder(format!(
        "system {{ worker-threads 1 }}\nroutes {{\n{routes}\n}}"
    ))
    .origin(origin)
}

/// A route for the paths below its name. `filters` asks the agents, `more` is what else the route says.
fn route(name: &str, filters: &str, more: &str) -> String {
    format!(
        "route \"{name}\" {{ match {{ path-prefix \"/{name}\" }}; filters {{ {filters} }}\n{more}\nupstream \"origin\" }}\n"
    )
}

/// A route that asks nobody.
const FREE: &str = r#"route "free" { match { path-prefix "/free" }; upstream "origin" }
"#;

/// Waits until every agent is connected, also those that readiness does not wait for.
fn all_up(proxy: &Proxy, agents: &[&TestAgent]) {
    for agent in agents {
        let up = format!(r#"portcullis_agent_up{{agent="{}"}}"#, agent.name());
        proxy.wait_metric(&up, 1.0);
    }
}

/// Agents with what became of asking them: the verdict, or the name of the failure.
fn outcomes(line: &Value) -> Vec<(String, String)> {
    let records = line["agents"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    records
        .iter()
        .map(|record| {
            let outcome = record.get("failure").unwrap_or(&record["verdict"]);
            (text(&record["name"]), text(outcome))
        })
        .collect()
}

fn assert_outcomes(line: &Value, expected: &[(&str, &str)]) {
    let found = outcomes(line);
    let found: Vec<_> = found
        .iter()
        .map(|(agent, outcome)| (agent.as_str(), outcome.as_str()))
        .collect();
    assert_eq!(found, expected, "{line}");
}

/// Nobody is asked, nobody waits, nothing is served.
fn all_quiet(proxy: &Proxy) {
    for gauge in [
        "portcullis_agent_in_flight",
        "portcullis_agent_waiting",
        "portcullis_http_requests_in_flight",
    ] {
        proxy.wait_metric(gauge, 0.0);
    }
}

fn circuit(proxy: &Proxy, agent: &str, state: &str) {
    let series = format!(r#"portcullis_agent_circuit_state{{agent="{agent}",state="{state}"}}"#);
    eventually(&series, || (proxy.metric(&series) == 1.0).then_some(()));
}
