//! Requests over TLS are served like others, and everybody is told that it was TLS.

use crate::harness::{Authority, Origin, Proxy, TestAgent, http2};
use bytes::Bytes;

#[test]
fn both_versions_of_http_are_served_over_tls() {
    let origin = Origin::start();
    let authority = Authority::new("servers");
    let proxy = Proxy::in_front_of(&origin)
        .tls(&authority.server(&["test"]))
        .start();
    let address = proxy.address_of("http");
    let connector = authority.connector();

    let mut client = connector.connect(address);
    assert_eq!(client.tls().alpn_protocol(), None);
    for path in ["/first", "/second"] {
        assert_eq!(client.get(path, &[]).status, 200);
        let request = origin.last();
        assert_eq!(request.target(), path);
        assert_eq!(
            request.header("x-forwarded-proto").as_deref(),
            Some("https")
        );
        let port = address.port().to_string();
        assert_eq!(request.header("x-forwarded-port"), Some(port));
    }
    let line = proxy.access_line_of("/second");
    assert_eq!(line["protocol"], "HTTP/1.1");
    assert_eq!(line["tls_version"], "TLSv1.3");
    assert_eq!(line["tls_cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(line["tls_server_name"], "test");
    assert_eq!(line["tls_resumed"], serde_json::Value::Null);
    assert_eq!(line["client_certificate"], serde_json::Value::Null);

    let body = Bytes::from(vec![b'x'; 300_000]);
    let requests = (0..20).map(|_| http2::request("POST", "/h2", body.clone()));
    for answer in http2::exchange_over_tls(address, &connector, requests.collect()) {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(origin.last().body.len(), body.len());
    assert_eq!(proxy.access_line_of("/h2")["protocol"], "HTTP/2");
}

#[test]
fn what_is_offered_can_be_limited() {
    let authority = Authority::new("servers");
    let proxy = Proxy::builder(r#"routes { route "all" { respond 204 } }"#)
        .tls_with(
            &authority.server(&["test"]),
            r#"alpn "http/1.1"; min-version "1.3""#,
        )
        .start();
    let address = proxy.address_of("http");
    let connector = authority.connector();
    let both = connector.offering(&["h2", "http/1.1"]);
    let mut client = both.connect(address);
    assert_eq!(client.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(client.get("/", &[]).status, 204);
    let refused = connector.offering(&["h2"]).refusal(address, "test");
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    assert_eq!(refused, Some(rustls::Error::AlertReceived(alert)));
    let old = authority.connector_speaking(&rustls::version::TLS12);
    let refused = old.refusal(address, "test");
    let alert = rustls::AlertDescription::ProtocolVersion;
    assert_eq!(refused, Some(rustls::Error::AlertReceived(alert)));
    for (reason, count) in [("no_common_protocol", 1.0), ("nothing_in_common", 1.0)] {
        let labels = format!(r#"{{listener="http",reason="{reason}"}}"#);
        proxy.wait_metric(
            &format!("portcullis_tls_handshake_failures_total{labels}"),
            count,
        );
    }
}

#[test]
fn tls_1_2_is_spoken_unless_it_is_ruled_out() {
    let authority = Authority::new("servers");
    let proxy = Proxy::builder(r#"routes { route "all" { respond 204 } }"#)
        .tls(&authority.server(&["test"]))
        .start();
    let connector = authority.connector_speaking(&rustls::version::TLS12);
    let answer = connector.get(proxy.address_of("http"), "/old");
    assert_eq!(answer.status, 204);
    let line = proxy.access_line_of("/old");
    assert_eq!(line["tls_version"], "TLSv1.2");
    assert_eq!(
        line["tls_cipher"],
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    );
}

#[test]
fn agents_headers_and_redirects_know_of_tls() {
    let origin = Origin::start();
    let authority = Authority::new("servers");
    let agent = TestAgent::named("waf").start();
    let kdl = r#"
        routes {
            route "moved" { match { path "/moved" }; redirect "{request.scheme}://{request.host}/new" }
            route "all" {
                filters {
                    request-headers {
                        set "x-version" "{tls.version}"
                        set "x-cipher" "{tls.cipher}"
                        set "x-name" "{tls.server-name}"
                        set "x-subject" "{client.certificate.subject}"
                    }
                    agent "waf"
                }
                upstream "origin"
            }
        }
    "#;
    let proxy = Proxy::builder(kdl)
        .origin(&origin)
        .agent(&agent)
        .tls(&authority.server(&["test"]))
        .start();
    proxy.wait_ready();
    let mut client = authority.connector().connect(proxy.address_of("http"));
    let forged = ["x-subject: CN=admin", "x-version: none"];
    assert_eq!(client.get("/", &forged).status, 200);
    let request = origin.last();
    for (name, value) in [
        ("x-version", "TLSv1.3"),
        ("x-cipher", "TLS_AES_256_GCM_SHA384"),
        ("x-name", "test"),
        ("x-subject", ""),
    ] {
        assert_eq!(request.header_values(name), [value], "{name}");
    }
    let told = agent.requests().pop().unwrap();
    assert_eq!(told["tls_version"], "TLSv1.3");
    assert_eq!(told["tls_cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(told["server_name"], "test");
    let moved = client.get("/moved", &[]);
    assert_eq!(moved.header("location"), Some("https://test/new"));
}
