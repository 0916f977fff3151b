//! Agents that speak Envoy's external processing. What Envoy does in a situation, and where we do something else, is in
//! docs/agents.md.

mod bodies;
mod checks;
mod failures;
mod headers;
mod late;
mod lives;
mod modes;
mod time;

use crate::harness::{Origin, Proxy, ext_proc::ExtProcAgent, proxy::Builder};

const STREAMS: &str = r#"portcullis_agent_streams{agent="p"}"#;
const REJECTED: &str = r#"portcullis_agent_rejected_mutations_total{agent="p"}"#;

/// A proxy with one worker before the origin and this agent, which is called `p` and has these settings. What is below
/// `/open` goes on when the agent fails.
fn routes(agent: &ExtProcAgent, settings: &str, origin: &Origin) -> Builder {
    Proxy::builder(
        r#"
        system { worker-threads 1 }
        routes {
            route "open" { match { path-prefix "/open" }; filters { agent "p" failure-mode="open" }; upstream "origin" }
            route "closed" { filters { agent "p" }; upstream "origin" }
        }"#,
    )
    .origin(origin)
    .agent_block("p", &agent.block(settings))
}

/// The same with a timeout that nothing but an agent that hangs reaches, started.
fn through(agent: &ExtProcAgent, settings: &str, origin: &Origin) -> Proxy {
    let proxy = routes(agent, &format!("timeout \"5s\"; {settings}"), origin).start();
    proxy.wait_ready();
    proxy
}

/// Nothing is left of the requests, on either side.
fn all_gone(proxy: &Proxy, agent: &ExtProcAgent) {
    proxy.wait_metric(STREAMS, 0.0);
    proxy.wait_metric("portcullis_agent_in_flight", 0.0);
    agent.wait_quiet();
}
