//! `rate-limit`. The rates are so slow that nothing comes back while a test runs.

use super::{get_from, past, statuses};
use crate::harness::{Authority, Origin, Proxy, Response, TestAgent, tls::Connector};

#[test]
fn what_is_too_much_is_refused_and_clients_are_told() {
    let origin = Origin::start();
    let proxy = past(r#"rate-limit "1/h" burst=3 key="client-ip""#, &origin).start();
    for left in [2, 1, 0] {
        let response = get_from(&proxy, "192.0.2.1");
        assert_eq!(response.status, 200);
        let policy = response.header("ratelimit-policy");
        assert_eq!(policy, Some(r#""limit-1";q=3;w=10800"#));
        let whole_in = (3 - left) * 3600;
        let said = format!(r#""limit-1";r={left};t={whole_in}"#);
        assert_eq!(response.header("ratelimit"), Some(&*said));
    }
    let refused = get_from(&proxy, "192.0.2.1");
    assert_eq!(refused.status, 429);
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert_eq!(
        refused.header("ratelimit"),
        Some(r#""limit-1";r=0;t=10800"#)
    );
    assert!(refused.text().starts_with("429 Too Many Requests\n"));
    assert_eq!(origin.requests().len(), 3);
    let line = proxy.access_line(|line| line["status"] == 429);
    assert_eq!(line["reason"], "rate_limited");
    assert_eq!(line["blocked_by"], "filter:rate-limit");
    let series =
        r#"portcullis_filter_refused_total{route="all",filter="rate-limit",mode="enforce"}"#;
    proxy.wait_metric(series, 1.0);
}

#[test]
fn counts_are_those_of_the_process() {
    let origin = Origin::start();
    let proxy = past(r#"rate-limit "5/h" key="route""#, &origin).start();
    let statuses = statuses(20, || proxy.get("/"));
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(passed, 5, "{statuses:?}");
}

/// An address and a tenant.
type Client = (&'static str, Option<&'static str>);

const BLUE: Client = ("192.0.2.1", Some("blue"));
const RED: Client = ("192.0.2.1", Some("red"));
const ELSEWHERE: Client = ("192.0.2.2", Some("blue"));
const NOBODY: Client = ("192.0.2.1", None);

/// A key, who comes after whom, and whether they are counted together.
const TOGETHER: [(&str, Client, Client, bool); 12] = [
    ("client-ip", BLUE, RED, true),
    ("client-ip", BLUE, ELSEWHERE, false),
    (
        "client-ip",
        ("2001:db8::1", None),
        ("2001:db8::ffff:2", None),
        true,
    ),
    (
        "client-ip",
        ("2001:db8::1", None),
        ("2001:db8:0:1::1", None),
        false,
    ),
    ("header:X-Tenant", BLUE, ELSEWHERE, true),
    ("header:X-Tenant", BLUE, RED, false),
    ("header:X-Tenant", NOBODY, ("192.0.2.2", None), true),
    ("header:X-Tenant", NOBODY, ("192.0.2.1", Some("")), false),
    ("client-ip+header:x-tenant", BLUE, BLUE, true),
    ("client-ip+header:x-tenant", BLUE, ELSEWHERE, false),
    ("client-ip+header:x-tenant", BLUE, RED, false),
    ("route", BLUE, ("2001:db8::1", Some("red")), true),
];

#[test]
fn requests_are_counted_by_what_the_key_says() {
    let origin = Origin::start();
    let ask = |proxy: &Proxy, (address, tenant): Client| -> u16 {
        let from = format!("x-forwarded-for: {address}");
        let tenant = tenant.map(|tenant| format!("x-tenant: {tenant}"));
        let lines: Vec<&str> = std::iter::once(&*from).chain(tenant.as_deref()).collect();
        proxy.get_with("/", &lines).status
    };
    for (key, first, second, together) in TOGETHER {
        let proxy = past(&format!(r#"rate-limit "1/h" key="{key}""#), &origin).start();
        assert_eq!(ask(&proxy, first), 200, "{key} {first:?}");
        let status = if together { 429 } else { 200 };
        assert_eq!(ask(&proxy, second), status, "{key} {first:?} {second:?}");
    }
}

#[test]
fn a_limit_of_a_chain_is_one_for_its_routes_unless_the_key_says_otherwise() {
    let origin = Origin::start();
    for (key, second) in [("client-ip", 429), ("client-ip+route", 200)] {
        let kdl = format!(
            r#"
            filters {{ chain "shared" {{ rate-limit "1/h" key="{key}" }} }}
            routes {{
                route "a" {{ match {{ path "/a" }}; filters {{ use "shared" }}; upstream "origin" }}
                route "b" {{ match {{ path "/b" }}; filters {{ use "shared" }}; upstream "origin" }}
            }}
            "#
        );
        let proxy = Proxy::builder(kdl).origin(&origin).start();
        assert_eq!(proxy.get("/a").status, 200);
        assert_eq!(proxy.get("/a").status, 429);
        assert_eq!(proxy.get("/b").status, second, "{key}");
    }
}

#[test]
fn a_reload_keeps_the_counts_of_lines_that_stay_the_same() {
    let origin = Origin::start();
    let with = |limit: &str, header: &str| {
        let filters = format!(r#"request-headers {{ set "x-a" "{header}" }}; {limit}"#);
        past(&filters, &origin)
    };
    let limit = r#"rate-limit "1/h" key="client-ip""#;
    let proxy = with(limit, "1").start();
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(proxy.get("/").status, 429);
    proxy.reload(&with(limit, "2"));
    assert_eq!(proxy.get("/").status, 429);
    proxy.reload(&with(r#"rate-limit "1/h" burst=2 key="client-ip""#, "2"));
    let statuses = statuses(3, || proxy.get("/"));
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn in_the_shadow_nothing_is_refused() {
    let origin = Origin::start();
    let limit = r#"rate-limit "1/h" key="client-ip" mode="shadow""#;
    let proxy = past(limit, &origin).start();
    assert_eq!(statuses(3, || proxy.get("/")), [200; 3]);
    let series =
        r#"portcullis_filter_refused_total{route="all",filter="rate-limit",mode="shadow"}"#;
    proxy.wait_metric(series, 2.0);
}

#[test]
fn what_is_refused_is_answered_as_configured() {
    let origin = Origin::start();
    let limit =
        r#"rate-limit "60/m" burst=1 key="client-ip" status=503 headers=#false max-keys=1000"#;
    let proxy = past(
        &format!(r#"{limit}; rate-limit "1/h" key="route""#),
        &origin,
    )
    .start();
    let said = |response: &Response| -> Vec<String> {
        let values = response.header_values("ratelimit").into_iter();
        values.map(str::to_owned).collect()
    };
    // The second limit of the route is the only one that speaks of itself.
    assert_eq!(said(&proxy.get("/")), [r#""limit-2";r=0;t=3600"#]);
    let refused = proxy.get("/");
    assert_eq!((refused.status, said(&refused)), (503, Vec::new()));
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn nobody_behind_a_limit_is_asked_about_what_it_refuses() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let filters = r#"rate-limit "1/h" key="client-ip"; agent "waf""#;
    let proxy = past(filters, &origin).agent(&agent).start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(proxy.get("/").status, 429);
    proxy.access_line(|line| line["status"] == 429);
    assert_eq!(agent.requests().len(), 1);
}

#[test]
fn clients_are_counted_by_their_certificates() {
    let origin = Origin::start();
    let servers = Authority::new("servers");
    let clients = Authority::new("clients");
    let proxy = past(r#"rate-limit "1/h" key="certificate""#, &origin)
        .file("clients.pem", &clients.pem())
        .tls_with(
            &servers.server(&["test"]),
            r#"client-auth "request" ca="clients.pem""#,
        )
        .start();
    let ask = |connector: &Connector| {
        let mut client = connector.connect(proxy.address_of("http"));
        client.get("/", &[]).status
    };
    for name in ["one", "two"] {
        let shown = servers.connector_of(&clients.client(name, &[], &[]));
        assert_eq!([ask(&shown), ask(&shown)], [200, 429], "{name}");
    }
    let nobody = servers.connector();
    assert_eq!([ask(&nobody), ask(&nobody)], [200, 429]);
}
