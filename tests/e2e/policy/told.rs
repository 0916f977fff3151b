//! What an agent is told: what it takes, and that once.

use super::{all_quiet, assert_outcomes, route, routes};
use crate::harness::{Origin, Sabotage, Saboteur, Tamper, TestAgent, agent::Dialect, eventually};
use portcullis_agent_protocol::Decision;
use serde_json::Value;

/// Which events an agent takes is what it says in the handshake.
#[test]
fn d02_an_agent_that_does_not_take_an_event_has_not_allowed_it() {
    for (dialect, all) in [
        (Dialect::Binary, r#""supported_events":[1,2,3,4,6,7,5]"#),
        (Dialect::Legacy, r#""supported_events":[1,2,3,4,5,6,7]"#),
    ] {
        let origin = Origin::start();
        let agent = TestAgent::named("deaf").speaking(dialect).start();
        let saboteur = Saboteur::before(&agent);
        saboteur.does(Sabotage::Handshake(Tamper::Text(
            all,
            r#""supported_events":[5]"#,
        )));
        let text = route("closed", r#"agent "deaf""#, "")
            + &route("open", r#"agent "deaf" failure-mode="open""#, "");
        let proxy = routes(&text, &origin)
            .agent_behind(&saboteur, "deaf", "timeout \"10s\"")
            .start();
        eventually("handshake", || (saboteur.spoilt() > 0).then_some(()));
        let response = proxy.get("/closed");
        assert_eq!(response.status, 503);
        assert_eq!(response.header("retry-after"), Some("1"));
        assert_outcomes(&proxy.access_line_of("/closed"), &[("deaf", "unavailable")]);
        assert_eq!(origin.connections(), 0);
        assert_eq!(proxy.get("/open").status, 200);
        assert_outcomes(&proxy.access_line_of("/open"), &[("deaf", "unavailable")]);
        assert_eq!(agent.requests(), Vec::<Value>::new());
        all_quiet(&proxy);
    }
}

/// In one frame, with everything in it once, however many agents there are.
#[test]
fn d15_each_agent_is_sent_an_event_once() {
    for dialect in [Dialect::NumberedJson, Dialect::Legacy] {
        let origin = Origin::start();
        let agents = ["first", "second", "third"].map(|name| {
            TestAgent::named(name)
                .speaking(dialect)
                .otherwise(Decision::allow())
                .start()
        });
        let saboteurs = agents.each_ref().map(Saboteur::before);
        let filters = r#"parallel { agent "first"; agent "second" }; agent "third""#;
        let mut builder = routes(&route("asked", filters, ""), &origin);
        for (agent, saboteur) in agents.iter().zip(&saboteurs) {
            builder = builder.agent_behind(saboteur, agent.name(), "timeout \"10s\"");
        }
        let proxy = builder.start();
        proxy.wait_ready();
        for number in 1..=20 {
            let response = proxy.get_with("/asked", &["x-mark: one", "x-mark: two"]);
            assert_eq!(response.status, 200);
            for (agent, saboteur) in agents.iter().zip(&saboteurs) {
                assert_eq!(saboteur.events(), number, "{dialect:?}: {}", agent.name());
            }
        }
        for agent in &agents {
            for event in agent.requests() {
                assert_eq!(
                    event["headers"]["x-mark"],
                    serde_json::json!(["one", "two"])
                );
            }
        }
        all_quiet(&proxy);
    }
}
