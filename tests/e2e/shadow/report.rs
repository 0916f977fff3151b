//! The report says what shadow agents said.

use super::{entry, pairs, past, report_with, series, wait_up};
use crate::harness::{Origin, Proxy, TestAgent, agent::Reaction};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};

#[test]
fn the_report_has_the_agents_own_counts() {
    let origin = Origin::start();
    let waf = TestAgent::named("waf")
        .on("/both", Decision::block(403))
        .on("/old", Decision::block(403))
        .start();
    let next = TestAgent::named("next")
        .on("/both", Decision::block(404))
        .on("/new", Decision::block(403).reason("rule:7"))
        .on("/away", Decision::redirect("/elsewhere"))
        .on("/broken", Reaction::Fail)
        .start();
    let filters = r#"agent "next" mode="shadow" compare-with="waf"; agent "waf""#;
    let builder = past(filters, &origin).agent(&waf).agent(&next);
    let proxy = builder.clone().start();
    proxy.wait_ready();
    wait_up(&proxy, &next);
    let mut disagreed = Vec::new();
    let plan = [
        ("/both", 5, 403),
        ("/old", 2, 403),
        ("/new", 3, 200),
        ("/away", 1, 200),
        ("/broken", 4, 200),
        ("/fine", 20, 200),
    ];
    for (path, count, status) in plan {
        for _ in 0..count {
            let response = proxy.get(path);
            assert_eq!(response.status, status, "{path}");
            if ["/old", "/new", "/away"].contains(&path) {
                disagreed.push(response.header("x-request-id").unwrap().to_owned());
            }
        }
    }
    let expected = [
        ("allow", "allow", 20),
        ("allow", "block", 2),
        ("block", "allow", 3),
        ("block", "block", 5),
        ("protocol_error", "allow", 4),
        ("redirect", "allow", 1),
    ];
    for (shadow, enforced, count) in expected {
        proxy.wait_metric(&series(shadow, enforced), f64::from(count));
    }
    let told = next.requests().len();
    assert_eq!(told, 35);
    let reported = entry(&proxy);
    assert_counts(&reported, expected, told);
    assert_samples(&reported, disagreed);
    // No failure was applied, since nothing was done about it.
    let applied = r#"portcullis_agent_failures_applied_total{agent="next"}"#;
    assert_eq!(proxy.metric(applied), 0.0);
    counts_go_on(&proxy, &builder);
}

/// Verdicts met as often as expected, and as often as the agent was asked.
fn assert_counts(entry: &Value, expected: [(&str, &str, i32); 6], told: usize) {
    let expected = expected.map(|(shadow, enforced, count)| {
        (
            shadow.to_owned(),
            enforced.to_owned(),
            u64::try_from(count).unwrap(),
        )
    });
    assert_eq!(pairs(entry), expected);
    let sum: u64 = pairs(entry).iter().map(|(_, _, count)| count).sum();
    assert_eq!(sum, told as u64);
    for (member, value) in [
        ("route", json!("all")),
        ("agent", json!("next")),
        ("compare_with", json!("waf")),
        ("enforce", json!(null)),
        ("compared", json!(31)),
        ("agreed", json!(25)),
        ("disagreed", json!(6)),
        ("failed", json!(4)),
        ("not_compared", json!(0)),
        ("dropped", json!(0)),
    ] {
        assert_eq!(entry[member], value, "{member} in {entry}");
    }
}

/// The requests about which they disagreed, all of them.
fn assert_samples(entry: &Value, mut disagreed: Vec<String>) {
    let samples = entry["disagreements"].as_array().unwrap();
    let mut sampled: Vec<_> = samples
        .iter()
        .map(|sample| sample["request_id"].as_str().unwrap().to_owned())
        .collect();
    sampled.sort();
    disagreed.sort();
    assert_eq!(sampled, disagreed);
    let new = samples.iter().find(|sample| sample["shadow"] == "block");
    assert_eq!(new.unwrap()["reason"], "rule:7");
}

/// Over a reload.
fn counts_go_on(proxy: &Proxy, builder: &crate::harness::proxy::Builder) {
    proxy.reload(builder);
    proxy.get("/fine");
    proxy.wait_metric(&series("allow", "allow"), 21.0);
    assert_eq!(entry(proxy)["compared"], 32);
}

#[test]
fn without_a_partner_it_is_compared_with_what_was_enforced() {
    let origin = Origin::start();
    let next = TestAgent::named("next").start();
    let open = TestAgent::named("open").otherwise(Reaction::Fail).start();
    let closed = TestAgent::named("closed").on("/no", Reaction::Fail).start();
    let filters = r#"agent "next" mode="shadow"; agent "open" failure-mode="open"; agent "closed""#;
    let proxy = past(filters, &origin)
        .agent(&next)
        .agent(&open)
        .agent(&closed)
        .start();
    proxy.wait_ready();
    wait_up(&proxy, &next);
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(proxy.get("/no").status, 502);
    proxy.wait_metric(&series("allow", "allow"), 1.0);
    proxy.wait_metric(&series("allow", "protocol_error"), 1.0);
    let entry = entry(&proxy);
    assert_eq!(
        (&entry["compared"], &entry["not_compared"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn the_report_is_found_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let origin = Origin::start();
    let next = TestAgent::named("next")
        .on("/no", Decision::block(403))
        .start();
    let proxy = Proxy::builder(format!(
        r#"
        admin {{ address "unix:{}" }}
        routes {{ route "shop" {{ filters {{ agent "next" mode="shadow" }}; upstream "origin" }} }}
        "#,
        socket.display()
    ))
    .origin(&origin)
    .agent(&next)
    .start();
    wait_up(&proxy, &next);
    let id = proxy.get("/no").header("x-request-id").unwrap().to_owned();
    proxy.wait_metric(&series("block", "allow"), 1.0);
    let config = proxy.folder().join("portcullis.kdl");
    let address = format!("unix:{}", socket.display());
    for arguments in [["-c", config.to_str().unwrap()], ["--admin", &address]] {
        let (well, text) = report_with(&arguments);
        assert!(well, "{text}");
        for part in [
            r#"route "shop", agent "next", compared with what was enforced"#,
            "agreement 0.00 %: 0 of 1 compared, 1 disagreed",
            "1 x shadow block, enforced allow",
            &id,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
    let nobody = folder.path().join("nobody.sock");
    let nobody = format!("unix:{}", nobody.display());
    let (well, text) = report_with(&["--admin", &nobody]);
    assert!(!well && text.contains("no connection"), "{text}");
    let probes = proxy.address_of("probes").to_string();
    let (well, text) = report_with(&["--admin", &probes]);
    assert!(!well && text.contains("404"), "{text}");
}
