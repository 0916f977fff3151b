//! Who the client is, and what the origin is told about it.

use crate::harness::{
    Origin, Proxy, Recorded, TestAgent,
    agent::{Dialect, Reaction},
    http2,
};
use portcullis_agent_protocol::Decision;

/// Everything that a client can claim about where a request comes from.
const CLAIMS: &[&str] = &[
    "x-forwarded-for: 203.0.113.9",
    "x-forwarded-proto: https",
    "x-forwarded-host: claimed.example",
    "x-forwarded-port: 1234",
    "x-forwarded-user: root",
    "x-real-ip: 203.0.113.8",
    "forwarded: for=203.0.113.7;proto=https",
    "x-request-id: claimed-id",
];

/// What the origin gets when a client at 127.0.0.1 sends these lines.
fn forwarded(listener: &str, lines: &[&str]) -> (Recorded, serde_json::Value) {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).listener(listener).start();
    let response = proxy.get_with("/", lines);
    assert_eq!(response.status, 200, "{lines:?}");
    let id = response.header("x-request-id").unwrap();
    let line = proxy.access_line(|line| line["request_id"] == id);
    let request = origin.last();
    assert_eq!(request.header("x-request-id").as_deref(), Some(id));
    (request, line)
}

#[test]
fn x_forwarded_for_is_walked_over_trusted_proxies() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "waf" }; upstream "origin" } }"#)
            .listener(r#"trusted-proxies "127.0.0.1" "10.0.0.0/8" "2001:db8::/32""#)
            .origin(&origin)
            .agent(&agent)
            .start();
    proxy.wait_ready();
    for (lines, client) in [
        (&[][..], "127.0.0.1"),
        (&["203.0.113.9"], "203.0.113.9"),
        (&["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
        (&["1.2.3.4, 203.0.113.9, 10.1.1.1"], "203.0.113.9"),
        (&["1.2.3.4,203.0.113.9,10.1.1.1,10.2.2.2"], "203.0.113.9"),
        (&["1.2.3.4", "203.0.113.9", "10.1.1.1"], "203.0.113.9"),
        (
            &["203.0.113.9, 10.1.1.1", "10.2.2.2, 2001:db8::1"],
            "203.0.113.9",
        ),
        // Nobody but proxies: the first of them is the client.
        (&["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        (&["2001:db9::7"], "2001:db9::7"),
        (&["[2001:db9::7]:443"], "2001:db9::7"),
        (&["203.0.113.9:8080"], "203.0.113.9"),
        (&["::ffff:203.0.113.9"], "203.0.113.9"),
        // What cannot be read is nobody's address, and what is left of it is not believed.
        (&["unknown"], "127.0.0.1"),
        (&[""], "127.0.0.1"),
        (&["203.0.113.9, unknown"], "127.0.0.1"),
        (&["203.0.113.9, nonsense, 10.1.1.1"], "10.1.1.1"),
    ] {
        let lines: Vec<_> = lines
            .iter()
            .map(|line| format!("X-Forwarded-For: {line}"))
            .collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let response = proxy.get_with("/", &lines);
        let id = response.header("x-request-id").unwrap();
        let told = agent.saw(|event| event["request_id"] == id);
        assert_eq!(told["client_ip"], client, "the agent: {lines:?}");
        let line = proxy.access_line(|line| line["request_id"] == id);
        assert_eq!(line["client_ip"], client, "the log: {lines:?}");
        let real = origin.last().header("x-real-ip");
        assert_eq!(real.as_deref(), Some(client), "the origin: {lines:?}");
    }
}

/// A client in front of a trusted proxy cannot make its address unreadable.
#[test]
fn bytes_that_are_no_text_hide_nobody() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"h2c; trusted-proxies "127.0.0.1""#)
        .start();
    let of_client = |id: &str| {
        let line = proxy.access_line(|line| line["request_id"] == id);
        assert_eq!(line["client_ip"], "203.0.113.9");
        let request = origin.last();
        for (name, value) in [
            ("x-real-ip", "203.0.113.9"),
            ("x-forwarded-for", "203.0.113.9, 127.0.0.1"),
        ] {
            assert_eq!(request.header(name).as_deref(), Some(value));
        }
    };
    let request = b"GET / HTTP/1.1\r\nhost: test\r\nx-forwarded-for: \xff, 203.0.113.9\r\n\r\n";
    let response = proxy.client().send(request).response();
    assert_eq!(response.status, 200);
    of_client(response.header("x-request-id").unwrap());
    let mut request = http2::get("/");
    let claim = http::HeaderValue::from_bytes(b"\xff, 203.0.113.9").unwrap();
    request.headers_mut().insert("x-forwarded-for", claim);
    let response = http2::exchange(proxy.address_of("http"), vec![request])
        .remove(0)
        .unwrap();
    of_client(response.headers()["x-request-id"].to_str().unwrap());
}

#[test]
fn an_untrusted_client_is_where_it_connects_from() {
    let (request, line) = forwarded("", CLAIMS);
    assert_eq!(line["client_ip"], "127.0.0.1");
    assert_eq!(request.header("x-real-ip").as_deref(), Some("127.0.0.1"));
}

#[test]
fn d27_claims_of_an_untrusted_client_are_replaced() {
    let (request, _) = forwarded("", CLAIMS);
    let head = String::from_utf8(request.head.clone()).unwrap();
    for claimed in ["203.0.113", "claimed", "1234", "root"] {
        assert!(!head.contains(claimed), "{claimed}: {head}");
    }
    assert_eq!(
        request.header("x-forwarded-for").as_deref(),
        Some("127.0.0.1")
    );
    assert_eq!(request.header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(request.header("x-forwarded-host").as_deref(), Some("test"));
    let forwarded = request.header("forwarded").unwrap();
    assert!(forwarded.contains("for=127.0.0.1"), "{forwarded}");
    assert!(forwarded.contains("proto=http"), "{forwarded}");
}

#[test]
fn d27_names_with_underscores_are_the_same_names() {
    let lines = [
        "x_forwarded_for: 203.0.113.9",
        "X_FORWARDED_FOR: 203.0.113.9",
        "x-forwarded_proto: https",
        "x_real_ip: 203.0.113.9",
        "x_request_id: claimed-id",
        "x_forwarded-user: root",
    ];
    // Not from a trusted proxy either: it says what it means with dashes.
    for listener in [
        "",
        r#"underscores-in-headers "pass""#,
        r#"trusted-proxies "127.0.0.1"; underscores-in-headers "pass""#,
    ] {
        let (request, line) = forwarded(listener, &lines);
        let head = String::from_utf8(request.head).unwrap();
        assert!(!head.contains('_'), "{head}");
        assert_eq!(line["client_ip"], "127.0.0.1");
    }
}

/// What reads like a name that agents and rules decide by goes on only where the operator says so, and what tells how a body is
/// read not even then.
#[test]
fn d27_names_with_underscores_pass_where_they_may() {
    let lines = ["user_agent: a", "content_encoding: gzip", "x_own: 1"];
    for (listener, names) in [
        ("", &[][..]),
        (r#"underscores-in-headers "drop""#, &[]),
        (
            r#"underscores-in-headers "pass""#,
            &["user_agent", "x_own"][..],
        ),
    ] {
        let (request, _) = forwarded(listener, &lines);
        let head = String::from_utf8(request.head).unwrap();
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let left: Vec<_> = fields
            .map(|(name, _)| name)
            .filter(|name| name.contains('_'))
            .collect();
        assert_eq!(left, names, "{listener}");
    }
}

#[test]
fn d27_connection_cannot_take_out_what_is_not_the_clients() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf")
        .otherwise(Decision::allow().set_request_header("x-user", "guest"))
        .start();
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "waf" }; upstream "origin" } }"#)
            .origin(&origin)
            .agent(&agent)
            .start();
    proxy.wait_ready();
    for name in [
        "host",
        "x-forwarded-for",
        "x-real-ip",
        "x-request-id",
        "via",
        "content-length",
    ] {
        let response = proxy.get_with("/", &[&format!("connection: close, {name}")]);
        assert_eq!(response.status, 400, "{name}");
    }
    assert_eq!(origin.connections(), 0);
    // What an agent says about a request is not the client's to take out either.
    let lines = [
        "x-user: root",
        "x-own: 1",
        "connection: close, x-user, x-own",
    ];
    assert_eq!(proxy.get_with("/", &lines).status, 200);
    assert_eq!(origin.last().header("x-user").as_deref(), Some("guest"));
    assert_eq!(origin.last().header("x-own"), None);
    // The agent has judged the request that the origin got.
    let told = agent.requests().remove(0);
    assert_eq!(told["headers"]["x-own"], serde_json::Value::Null);
}

#[test]
fn a_trusted_proxy_is_believed() {
    let (request, line) = forwarded(r#"trusted-proxies "127.0.0.1""#, CLAIMS);
    assert_eq!(line["client_ip"], "203.0.113.9");
    assert_eq!(line["request_id"], "claimed-id");
    let header = |name| request.header(name);
    assert_eq!(
        header("x-forwarded-for").as_deref(),
        Some("203.0.113.9, 127.0.0.1")
    );
    assert_eq!(header("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(
        header("x-forwarded-host").as_deref(),
        Some("claimed.example")
    );
    assert_eq!(header("x-forwarded-port").as_deref(), Some("1234"));
    // Who the client is was found out here, and is said once.
    assert_eq!(header("x-real-ip").as_deref(), Some("203.0.113.9"));
    let forwarded = header("forwarded").unwrap();
    assert!(forwarded.starts_with("for=203.0.113.7;proto=https, for=127.0.0.1"));
}

#[test]
fn forwarded_is_spoken_to_those_who_speak_it() {
    let (request, _) = forwarded("", &[]);
    assert_eq!(request.header("forwarded"), None);
    assert_eq!(
        request.header("x-forwarded-for").as_deref(),
        Some("127.0.0.1")
    );
}

#[test]
fn a_hop_adds_itself_to_via() {
    let (request, _) = forwarded("", &["via: 1.0 before"]);
    let hops = request.header_values("via").join(", ");
    assert_eq!(hops, "1.0 before, 1.1 portcullis");
}

#[test]
fn the_port_is_that_of_the_listener() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    proxy.get_with("/", &["host: example.com:8080"]);
    let request = origin.last();
    let port = proxy.address_of("http").port().to_string();
    assert_eq!(request.header("x-forwarded-port"), Some(port));
    assert_eq!(
        request.header("x-forwarded-host").as_deref(),
        Some("example.com:8080")
    );
    assert_eq!(request.header("host").as_deref(), Some("example.com:8080"));
}

#[test]
fn request_ids_are_made_here_unless_a_trusted_proxy_has_one() {
    let trusted = r#"trusted-proxies "127.0.0.1""#;
    let long = format!("x-request-id: {}", "i".repeat(129));
    for (listener, line, kept) in [
        ("", "x-request-id: claimed-id", false),
        (trusted, "x-request-id: claimed-id", true),
        (trusted, "x-request-id: a,b", false),
        (trusted, "x-request-id: \"a\"", false),
        (trusted, "x-request-id:", false),
        (trusted, &long, false),
    ] {
        let (request, _) = forwarded(listener, &[line]);
        let id = request.header("x-request-id").unwrap();
        assert_eq!(id == "claimed-id", kept, "{listener} {line}: {id}");
        if !kept {
            assert_eq!(id.len(), 36, "a UUID: {id}");
        }
    }
}

#[test]
fn request_ids_differ() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    let mut ids: Vec<_> = (0..20)
        .map(|_| {
            client
                .get("/", &[])
                .header("x-request-id")
                .unwrap()
                .to_owned()
        })
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn a_listener_has_its_own_trusted_proxies() {
    let origin = Origin::start();
    let proxy = Proxy::builder(
        r#"
        system { trusted-proxies "127.0.0.1" }
        listeners {
            listener "believing" { address "127.0.0.1:0" }
            listener "doubting" { address "127.0.0.1:0"; trusted-proxies "192.0.2.1" }
        }
        routes { route "all" { upstream "origin" } }
        "#,
    )
    .origin(&origin)
    .start();
    for (listener, client) in [("believing", "203.0.113.9"), ("doubting", "127.0.0.1")] {
        let mut connection = crate::harness::RawClient::connect(proxy.address_of(listener));
        let response = connection.get("/", &["x-forwarded-for: 203.0.113.9"]);
        assert_eq!(response.status, 200);
        let real = origin.last().header("x-real-ip");
        assert_eq!(real.as_deref(), Some(client), "{listener}");
        let line = proxy.access_line(|line| line["listener"] == listener);
        assert_eq!(line["client_ip"], client, "{listener}");
    }
}

#[test]
fn an_id_that_a_proxy_sends_twice_is_two_requests_for_agents() {
    let agent = TestAgent::named("waf")
        .speaking(Dialect::Legacy)
        .on("/slow", Reaction::late(&Decision::allow()))
        .start();
    let origin = Origin::start();
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "waf" }; upstream "origin" } }"#)
            .listener(r#"trusted-proxies "127.0.0.1""#)
            .origin(&origin)
            .agent_with(&agent, "timeout \"10s\"; pool min=2")
            .start();
    proxy.wait_ready();
    let mut clients = [proxy.client(), proxy.client()];
    for client in &mut clients {
        client.send("GET /slow HTTP/1.1\r\nhost: a\r\nx-request-id: twice\r\n\r\n");
    }
    proxy.wait_metric("portcullis_agent_in_flight", 2.0);
    agent.release();
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-request-id"), Some("twice"));
    }
    let asked = agent.requests();
    assert_eq!(
        (&asked[0]["request_id"], &asked[1]["request_id"]),
        (&"twice".into(), &"twice".into())
    );
    assert_ne!(asked[0]["correlation_id"], asked[1]["correlation_id"]);
}
