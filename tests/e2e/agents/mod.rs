//! Agents decide: their verdicts, their order, their failures and their lives.

mod body_guard;
mod chains;
mod conditions;
mod failures;
mod lives;
mod supervised;
mod verdicts;

use crate::harness::{Origin, Proxy, TestAgent, proxy::Builder};

/// A proxy that asks this agent about everything before it goes to the origin. Not started yet.
fn asking(agent: &TestAgent, origin: &Origin) -> Builder {
    let name = agent.name();
    Proxy::builder(format!(
        r#"routes {{ route "all" {{ filters {{ agent "{name}" }}; upstream "origin" }} }}"#
    ))
    .origin(origin)
}

/// The same, started, with the agent connected.
fn asked(agent: &TestAgent, origin: &Origin) -> Proxy {
    let proxy = asking(agent, origin).agent(agent).start();
    proxy.wait_ready();
    proxy
}
