//! Verdicts that are used again: for whom, for how long, and who waits for whom.

mod bounds;
mod ends;
mod flights;
mod keys;

use crate::harness::{Origin, Proxy, Response, TestAgent, proxy::Builder};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use std::time::Duration;

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(600);

/// What an agent's block says beside its socket. More can be written behind it.
const KEPT: &str = "timeout \"10s\"; verdict-cache max-ttl=\"1h\"";

/// An allow that may be kept.
fn held() -> Decision {
    Decision::allow().hold_for(LONG)
}

/// A proxy with two workers that asks this agent about everything. Not started yet.
fn asking(agent: &TestAgent, origin: &Origin) -> Builder {
    let name = agent.name();
    Proxy::builder(format!(
        "system {{ worker-threads 2 }}\nroutes {{ route \"all\" {{ filters {{ agent \"{name}\" }}; upstream \"origin\" }} }}"
    ))
    .origin(origin)
}

/// The same, started, with verdicts that are kept as this says.
fn kept(agent: &TestAgent, origin: &Origin, settings: &str) -> Proxy {
    let proxy = asking(agent, origin).agent_with(agent, settings).start();
    proxy.wait_ready();
    proxy
}

/// What the log says of the only agent of the request that this is the answer to.
fn record(proxy: &Proxy, response: &Response) -> Value {
    let id = response.header("x-request-id").unwrap().to_owned();
    let line = proxy.access_line(|line| line["request_id"] == id.as_str());
    line["agents"][0].clone()
}

/// Whether the verdict of this answer was known.
fn was_known(proxy: &Proxy, response: &Response) -> bool {
    record(proxy, response)["cached"] == true
}

fn cache_metric(proxy: &Proxy, name: &str) -> f64 {
    proxy.metric(&format!("portcullis_verdict_cache_{name}"))
}
