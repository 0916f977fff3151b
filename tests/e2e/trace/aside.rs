//! Verdicts for which nobody was asked or that nobody obeyed: known ones and those of shadow agents, with the response and
//! afterwards.

use super::{
    TOKEN, line, told,
    why::{ADMIN, explained, id_of, why},
};
use crate::harness::{
    Origin, Proxy, RawClient, Response, TestAgent, agent::Reaction, eventually, proxy::Builder,
};
use portcullis_agent_protocol::Decision;
use serde_json::json;
use std::time::Duration;

/// A proxy with these filters that tells who has the token.
fn past(filters: &str, origin: &Origin) -> Builder {
    Proxy::builder(format!(
        r#"
        observability {{ access-log "./access.log"; log format="json"; verdict-trace token="{TOKEN}" }}
        {ADMIN}
        routes {{ route "all" {{ filters {{ {filters} }}; upstream "origin" }} }}
        "#
    ))
    .origin(origin)
}

/// What people are told afterwards.
fn in_words(proxy: &Proxy, response: &Response) -> String {
    let admin = proxy.address_of("admin").to_string();
    let (code, text, errors) = why(&[&id_of(response), "--admin", &admin]);
    assert_eq!((code, &*errors), (Some(0), ""));
    text
}

#[test]
fn a_known_verdict_is_told_as_such() {
    let origin = Origin::start();
    let held = Decision::allow().hold_for(Duration::from_secs(600));
    let keeper = TestAgent::named("keeper").otherwise(held).start();
    let proxy = past("agent \"keeper\"", &origin)
        .agent_with(&keeper, "timeout \"10s\"; verdict-cache max-ttl=\"1h\"")
        .start();
    proxy.wait_ready();
    for (is_known, with_response, in_text) in [
        (
            false,
            "\"keeper\";phase=request_headers;verdict=allow;ms=",
            "agents    keeper request_headers allow, ",
        ),
        (
            true,
            "\"keeper\";phase=request_headers;verdict=allow;cached;ms=",
            "agents    keeper request_headers allow, known from before, ",
        ),
    ] {
        let response = proxy.get_with("/", &[&line(TOKEN)]);
        assert_eq!(response.status, 200);
        let (trace, _) = told(&response).unwrap();
        assert!(trace.contains(with_response), "{trace}");
        let explained = explained(&proxy, &id_of(&response)).unwrap();
        let agent = &explained["agents"][0];
        assert_eq!(agent["verdict"], "allow", "{agent}");
        assert_eq!(agent["cached"], is_known, "{agent}");
        assert_eq!(
            agent["calls"],
            if is_known { json!(null) } else { json!(1) }
        );
        assert_eq!(agent["shadow"], false, "{agent}");
        let text = in_words(&proxy, &response);
        assert!(text.contains(in_text), "{text}");
        assert!(!text.contains(" calls"), "{text}");
    }
    assert_eq!(keeper.requests().len(), 1);
}

/// Asks with these lines while a shadow agent says this, which it has said before the request goes on.
fn past_a_shadow(said: Decision, lines: &[&str]) -> (Proxy, Response) {
    let origin = Origin::start();
    let waf = TestAgent::named("waf")
        .otherwise(Reaction::late(&Decision::allow()))
        .start();
    let next = TestAgent::named("next").otherwise(said).start();
    let proxy = past("agent \"next\" mode=\"shadow\"; agent \"waf\"", &origin)
        .agent(&waf)
        .agent(&next)
        .start();
    proxy.wait_ready();
    proxy.wait_metric("portcullis_agent_up{agent=\"next\"}", 1.0);
    let response = std::thread::scope(|scope| {
        let asking = scope.spawn(|| proxy.get_with("/", lines));
        next.wait_seen("request_headers", 1);
        waf.wait_seen("request_headers", 1);
        proxy.wait_metric("portcullis_agent_in_flight{agent=\"next\"}", 0.0);
        waf.release();
        asking.join().unwrap()
    });
    assert_eq!(response.status, 200);
    (proxy, response)
}

#[test]
fn what_a_shadow_agent_says_is_told_as_such() {
    let refusal = Decision::block(403).reason("rule:1");
    let token = line(TOKEN);
    for lines in [&[&*token][..], &[]] {
        let (proxy, response) = past_a_shadow(refusal.clone(), lines);
        let trace = told(&response);
        assert_eq!(trace.is_some(), !lines.is_empty());
        if let Some((trace, _)) = trace {
            let parts = [
                "\"waf\";phase=request_headers;verdict=allow;ms=",
                "\"next\";phase=request_headers;verdict=block;reason=\"rule:1\";shadow;ms=",
            ];
            for part in parts {
                assert!(trace.contains(part), "{trace}");
            }
        }
        // Without the token because both disagree.
        let id = id_of(&response);
        let explained = explained(&proxy, &id).unwrap();
        let agents = explained["agents"].as_array().unwrap();
        assert_eq!(agents.len(), 2, "{explained}");
        assert_eq!(
            (&agents[0]["name"], &agents[0]["shadow"]),
            (&json!("waf"), &json!(false))
        );
        assert_eq!(
            (&agents[1]["name"], &agents[1]["shadow"]),
            (&json!("next"), &json!(true))
        );
        assert_eq!(agents[1]["verdict"], "block");
        assert_eq!(explained["answer"]["blocked_by"], json!(null));
        let text = in_words(&proxy, &response);
        let expected = "next request_headers block: rule:1, in the shadow: not obeyed, ";
        assert!(text.contains(expected), "{text}");
        // It is the one that the report lists.
        let listed = eventually("disagreement", || {
            let admin = proxy.address_of("admin");
            let report = RawClient::connect(admin)
                .get("/shadow", &["host: localhost"])
                .json();
            report["shadows"][0]["disagreements"][0]["request_id"]
                .as_str()
                .map(str::to_owned)
        });
        assert_eq!(listed, id);
    }
    let (proxy, response) = past_a_shadow(Decision::allow(), &[]);
    assert_eq!(explained(&proxy, &id_of(&response)), None);
}
