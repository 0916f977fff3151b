//! Certificates of clients.

use crate::harness::{Authority, Origin, Proxy, TestCertificate, eventually};
use rustls::AlertDescription;

const HEADERS: &str = r#"
    routes { route "all" {
        filters { request-headers {
            set "x-subject" "{client.certificate.subject}"
            set "x-sans" "{client.certificate.sans}"
            set "x-fingerprint" "{client.certificate.fingerprint}"
        } }
        upstream "origin"
    } }
"#;

struct Scene {
    servers: Authority,
    clients: Authority,
    server: TestCertificate,
    origin: Origin,
}

impl Scene {
    fn new() -> Self {
        let servers = Authority::new("servers");
        Self {
            server: servers.server(&["test", "*.inner.test"]),
            servers,
            clients: Authority::new("clients"),
            origin: Origin::start(),
        }
    }

    fn builder(&self, mode: &str) -> crate::harness::proxy::Builder {
        Proxy::builder(HEADERS)
            .origin(&self.origin)
            .file("clients.pem", &self.clients.pem())
            .tls_with(
                &self.server,
                &format!(r#"client-auth "{mode}" ca="clients.pem""#),
            )
    }
}

fn alert(description: AlertDescription) -> Option<rustls::Error> {
    Some(rustls::Error::AlertReceived(description))
}

#[test]
fn who_the_client_is_reaches_upstream_and_log() {
    let scene = Scene::new();
    let proxy = scene.builder("require").start();
    let identity = scene
        .clients
        .client("app", &["app.example"], &["spiffe://example/app"]);
    let connector = scene.servers.connector_of(&identity);
    let mut client = connector.connect(proxy.address_of("http"));
    let forged = ["x-subject: CN=admin", "x-sans: DNS:admin"];
    assert_eq!(client.get("/known", &forged).status, 200);
    let request = scene.origin.last();
    assert_eq!(
        request.header_values("x-subject"),
        [r"CN=app,O=Test\, Inc."]
    );
    assert_eq!(
        request.header_values("x-sans"),
        ["DNS:app.example,URI:spiffe://example/app"]
    );
    let fingerprint = request.header("x-fingerprint").unwrap();
    assert_eq!(fingerprint.len(), 64);
    let line = proxy.access_line_of("/known");
    assert_eq!(
        line["client_certificate"]["subject"],
        r"CN=app,O=Test\, Inc."
    );
    assert_eq!(line["client_certificate"]["fingerprint"], *fingerprint);
}

#[test]
fn who_has_to_show_something_and_does_not_is_turned_away() {
    let scene = Scene::new();
    let proxy = scene.builder("require").start();
    let address = proxy.address_of("http");
    let nobody = scene.servers.connector();
    assert_eq!(
        nobody.refusal(address, "test"),
        alert(AlertDescription::CertificateRequired)
    );
    let stranger = Authority::new("strangers").client("app", &[], &[]);
    let stranger = scene.servers.connector_of(&stranger);
    let refused = stranger.refusal(address, "test");
    assert!(
        [
            alert(AlertDescription::UnknownCA),
            alert(AlertDescription::DecryptError)
        ]
        .contains(&refused),
        "{refused:?}"
    );
    let mut expired = rcgen::CertificateParams::default();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let usage = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let expired = scene.clients.sign(expired, usage);
    let expired = scene.servers.connector_of(&expired);
    assert_eq!(
        expired.refusal(address, "test"),
        alert(AlertDescription::CertificateExpired)
    );
    // What a server shows of itself does not make a client.
    let server = scene.clients.server(&["test"]);
    assert!(
        scene
            .servers
            .connector_of(&server)
            .refusal(address, "test")
            .is_some()
    );
    for (reason, count) in [
        ("client_certificate_missing", 1.0),
        ("client_certificate_expired", 1.0),
        ("client_certificate_invalid", 2.0),
    ] {
        let labels = format!(r#"{{listener="http",reason="{reason}"}}"#);
        proxy.wait_metric(
            &format!("portcullis_tls_handshake_failures_total{labels}"),
            count,
        );
    }
    assert_eq!(scene.origin.requests().len(), 0);
}

#[test]
fn what_is_requested_may_be_left_out_and_must_be_valid() {
    let scene = Scene::new();
    let proxy = scene.builder("request").start();
    let address = proxy.address_of("http");
    assert_eq!(scene.servers.connector().get(address, "/").status, 200);
    assert_eq!(scene.origin.last().header_values("x-subject"), [""]);
    let identity = scene.clients.client("app", &[], &[]);
    assert_eq!(
        scene
            .servers
            .connector_of(&identity)
            .get(address, "/")
            .status,
        200
    );
    let subject = scene.origin.last().header("x-subject");
    assert_eq!(subject.as_deref(), Some(r"CN=app,O=Test\, Inc."));
    let stranger = Authority::new("strangers").client("app", &[], &[]);
    assert!(
        scene
            .servers
            .connector_of(&stranger)
            .refusal(address, "test")
            .is_some()
    );
}

#[test]
fn a_host_that_the_connection_is_not_for_is_misdirected() {
    let scene = Scene::new();
    let proxy = scene.builder("request").start();
    let address = proxy.address_of("http");
    let connector = scene.servers.connector();
    for (name, host, status) in [
        ("test", "test", 200),
        ("test", "TEST:8443", 200),
        ("test", "a.inner.test", 421),
        ("a.inner.test", "a.inner.test", 200),
        ("test", "elsewhere", 421),
    ] {
        let mut client = connector.try_connect(address, name).unwrap();
        let answer = client.get("/", &[&format!("host: {host}")]);
        assert_eq!(answer.status, status, "{name} {host}");
    }
    let line = proxy.access_line(|line| line["status"] == 421);
    assert_eq!(line["reason"], "misdirected_request");
    // Where nobody is asked who he is, a connection may be used for whatever it reaches.
    let kdl = r#"routes { route "all" { respond 204 } }"#;
    let proxy = Proxy::builder(kdl).tls(&scene.server).start();
    let mut client = connector.connect(proxy.address_of("http"));
    assert_eq!(client.get("/", &["host: elsewhere"]).status, 204);
}

#[test]
fn other_authorities_hold_from_the_next_connection_on() {
    let scene = Scene::new();
    let proxy = scene.builder("require").start();
    let address = proxy.address_of("http");
    let successors = Authority::new("successors");
    let old = scene.clients.client("old", &[], &[]);
    let new = successors.client("new", &[], &[]);
    let mut before = scene.servers.connector_of(&old).connect(address);
    assert_eq!(before.get("/", &[]).status, 200);
    assert!(
        scene
            .servers
            .connector_of(&new)
            .refusal(address, "test")
            .is_some()
    );
    proxy.reload(
        &scene
            .builder("require")
            .file("clients.pem", &successors.pem()),
    );
    eventually("the new authority", || {
        (0..8)
            .all(|_| {
                scene
                    .servers
                    .connector_of(&new)
                    .refusal(address, "test")
                    .is_none()
            })
            .then_some(())
    });
    assert!(
        scene
            .servers
            .connector_of(&old)
            .refusal(address, "test")
            .is_some()
    );
    assert_eq!(before.get("/", &[]).status, 200);
}
