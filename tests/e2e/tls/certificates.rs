//! Which certificate is shown to whom, and what becomes of one that cannot be used.

use crate::harness::{
    Authority, Proxy, TestCertificate,
    proxy::Builder,
    tls::{BelievesAnything, Connector},
};
use rustls::SignatureScheme;

const EVERYTHING: &str = r#"routes { route "all" { respond 204 } }"#;

/// The certificate that is shown to a client that asks for this name.
fn shown(proxy: &Proxy, authority: &Authority, name: &str) -> Vec<u8> {
    let mut config = authority.client_config(None);
    // What it is shown need not be for the name that it has asked for.
    let any = BelievesAnything::new();
    config.dangerous().set_certificate_verifier(any);
    let connector = Connector::new(config);
    let stream = connector.handshake(proxy.address_of("http"), name).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn certificates_are_chosen_by_the_names_in_them() {
    let authority = Authority::new("servers");
    let default = authority.server(&["default.example"]);
    let exact = authority.server(&["exact.example.com", "192.0.2.1"]);
    let wildcard = authority.server(&["*.example.com", "second.example"]);
    let overridden = authority.server(&["unused.example"]);
    let proxy = Proxy::builder(EVERYTHING)
        .certificate("default", &default)
        .certificate("wildcard", &wildcard)
        .certificate("exact", &exact)
        .certificate("overridden", &overridden)
        .listener(
            r#"tls {
                certificate "default.pem" key="default.key"
                certificate "wildcard.pem" key="wildcard.key"
                certificate "exact.pem" key="exact.key"
                certificate "overridden.pem" key="overridden.key" server-name="*.other.example"
            }"#,
        )
        .start();
    for (name, certificate) in [
        ("default.example", &default),
        ("nobody.example", &default),
        ("127.0.0.1", &default),
        ("exact.example.com", &exact),
        ("EXACT.example.COM", &exact),
        ("a.example.com", &wildcard),
        ("a.b.example.com", &default),
        ("example.com", &default),
        ("second.example", &wildcard),
        ("a.other.example", &overridden),
        ("unused.example", &default),
    ] {
        assert!(
            shown(&proxy, &authority, name) == certificate.der().to_vec(),
            "{name}"
        );
    }
}

#[test]
fn of_several_with_one_name_it_is_the_first_that_is_understood() {
    let authority = Authority::new("servers");
    let usual = authority.server(&["test"]);
    let modern = authority.server_with(&["test"], &rcgen::PKCS_ED25519);
    let builder = Proxy::builder(EVERYTHING)
        .certificate("usual", &usual)
        .certificate("modern", &modern)
        .listener(
            r#"tls {
                certificate "usual.pem" key="usual.key"
                certificate "modern.pem" key="modern.key"
            }"#,
        );
    // Nobody is shown what is never shown.
    let (code, _, errors) = builder.clone().check();
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let proxy = builder.start();
    for (understood, certificate) in [
        (SignatureScheme::ECDSA_NISTP256_SHA256, &usual),
        (SignatureScheme::ED25519, &modern),
    ] {
        let mut config = authority.client_config(None);
        let only = BelievesAnything::understanding(vec![understood]);
        config.dangerous().set_certificate_verifier(only);
        let connector = Connector::new(config);
        for name in ["test", "elsewhere", "127.0.0.1"] {
            let stream = connector.handshake(proxy.address_of("http"), name).unwrap();
            let shown = &stream.conn.peer_certificates().unwrap()[0];
            assert!(*shown == certificate.der(), "{name} {understood:?}");
        }
    }
}

/// A proxy with this certificate, which is good until the test makes it bad.
fn with(certificate: &TestCertificate) -> Builder {
    Proxy::builder(EVERYTHING).tls(certificate)
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_and_changes_nothing() {
    let authority = Authority::new("servers");
    let good = authority.server(&["test"]);
    let other = authority.server(&["test"]);
    let proxy = with(&good).start();
    for (builder, file, problem) in [
        (
            with(&good).file("server.key", &other.key),
            "server.key",
            "is not the key of the certificate in",
        ),
        (with(&good).file("server.key", "secret words"), "server.key", "has no private key in PEM"),
        (with(&good).file("server.pem", &good.key), "server.pem", "has no certificate in PEM"),
        (
            with(&good).file("server.pem", &good.pem.replace("MII", "M\u{e9}I")),
            "server.pem",
            "a section of PEM is not base64",
        ),
        (
            with(&good).file(
                "server.key",
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            ),
            "server.key",
            "the key is encrypted",
        ),
        (
            with(&good).listener(r#"tls { certificate "server.pem" key="gone.key" }"#),
            "gone.key",
            "No such file",
        ),
        (
            with(&good).listener(
                r#"tls { certificate "server.pem" key="server.key"; client-auth "require" ca="server.key" }"#,
            ),
            "server.key",
            "has no certificate in PEM",
        ),
        (
            with(&good).listener(r#"tls { certificate "server.pem" key="server.key" ocsp="server.pem" }"#),
            "server.pem",
            "is not an OCSP response in DER",
        ),
    ] {
        let logged = proxy.log_lines().len();
        proxy.reload_in_vain(&builder);
        let lines = proxy.log_lines();
        let error = lines[logged..]
            .iter()
            .find_map(|line| line["error"].as_str())
            .unwrap_or_default();
        assert!(error.contains(file) && error.contains(problem), "{error}");
        assert!(error.contains("listener \"http\"") && error.contains("portcullis.kdl:"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(authority.connector().get(proxy.address_of("http"), "/").status, 204);
    }
    assert!(!proxy.log_text().contains("PRIVATE KEY-----"));
    // The same at the start, where there is nothing to keep.
    let (code, _, errors) = with(&good).file("server.key", &other.key).run_to_end();
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("is not the key of the certificate in"),
        "{errors}"
    );
}

#[test]
fn what_an_authority_says_of_a_certificate_is_handed_on_and_renewed() {
    let authority = Authority::new("servers");
    let certificate = authority.server(&["test"]);
    let listener = r#"tls { certificate "server.pem" key="server.key" ocsp="server.ocsp" }"#;
    let with = |said: &str| {
        with(&certificate)
            .listener(listener)
            .file("server.ocsp", said)
    };
    let (first, second) = ("0\u{3}\n\u{1}\0", "0\u{3}\n\u{1}\u{1}");
    let proxy = with(first).start();
    let stapled = || {
        let mut config = authority.client_config(None);
        let any = BelievesAnything::new();
        config.dangerous().set_certificate_verifier(any.clone());
        let connector = Connector::new(config);
        connector
            .handshake(proxy.address_of("http"), "test")
            .unwrap();
        any.stapled()
    };
    assert_eq!(stapled(), first.as_bytes());
    proxy.reload(&with(second));
    assert_eq!(stapled(), second.as_bytes());
}

#[test]
fn a_new_certificate_is_shown_after_a_reload() {
    let authority = Authority::new("servers");
    let (old, new) = (authority.server(&["test"]), authority.server(&["test"]));
    let proxy = with(&old).start();
    let mut before = authority.connector().connect(proxy.address_of("http"));
    assert_eq!(before.get("/", &[]).status, 204);
    assert!(shown(&proxy, &authority, "test") == old.der().to_vec());
    proxy.reload(&with(&new));
    // Each worker takes some of these connections.
    for _ in 0..20 {
        assert!(shown(&proxy, &authority, "test") == new.der().to_vec());
    }
    // A connection is not touched by what happens to files.
    assert_eq!(before.get("/", &[]).status, 204);
}

/// A certificate for `test` that ends at this time.
fn ending(authority: &Authority, seconds_from_now: i64) -> TestCertificate {
    let mut params = rcgen::CertificateParams::new(vec!["test".to_owned()]).unwrap();
    let now = std::time::SystemTime::now();
    params.not_after = now.into();
    params.not_after += std::time::Duration::from_secs(seconds_from_now.unsigned_abs());
    if seconds_from_now < 0 {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    authority.sign(params, rcgen::ExtendedKeyUsagePurpose::ServerAuth)
}

#[test]
fn certificates_that_end_are_warned_of_and_measured() {
    const DAY: i64 = 24 * 60 * 60;
    let authority = Authority::new("servers");
    for (certificate, warning) in [
        (
            ending(&authority, -1),
            Some("server.pem: expired on 2020-01-01T00:00:00Z"),
        ),
        (
            ending(&authority, 13 * DAY),
            Some("server.pem: expires on "),
        ),
        (ending(&authority, 15 * DAY), None),
    ] {
        let (code, _, errors) = with(&certificate).check();
        assert_eq!(code, Some(0));
        assert_eq!(errors.contains("warning"), warning.is_some(), "{errors}");
        assert!(errors.contains(warning.unwrap_or_default()), "{errors}");
    }
    let proxy = with(&ending(&authority, -1)).start();
    proxy.log_line(|line| {
        let text = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && text.contains("expired on 2020-01-01")
    });
    let series = r#"portcullis_tls_certificate_expiry_timestamp_seconds{listener="http"}"#;
    assert_eq!(proxy.metric(series), 1_577_836_800.0);
    proxy.reload(&with(&ending(&authority, 15 * DAY)));
    assert!(proxy.metric(series) > 1_700_000_000.0);
    let plain = Proxy::builder(EVERYTHING).listener("");
    proxy.reload(&plain);
    assert_eq!(proxy.metric(series), 0.0);
}

#[test]
fn check_names_every_file_that_cannot_be_used_and_what_is_never_shown() {
    let authority = Authority::new("servers");
    let (one, two) = (
        authority.server(&["test"]),
        authority.server(&["other", "test"]),
    );
    let listeners = r#"listeners {
        listener "a" { address "127.0.0.1:0"; tls { certificate "one.pem" key="two.key" } }
        listener "b" { address "127.0.0.1:0"; tls { certificate "gone.pem" key="one.key" } }
    }"#;
    let builder = |listeners: &str| {
        Proxy::builder(format!("{listeners}\n{EVERYTHING}"))
            .certificate("one", &one)
            .certificate("two", &two)
    };
    let (code, _, errors) = builder(listeners).check();
    assert_eq!(code, Some(1));
    for wanted in ["two.key: is not the key of", "gone.pem: No such file"] {
        assert!(errors.contains(wanted), "{errors}");
    }
    let listeners = r#"listeners {
        listener "a" { address "127.0.0.1:0"; tls {
            certificate "one.pem" key="one.key"
            certificate "two.pem" key="two.key"
        } }
    }"#;
    let (code, _, errors) = builder(listeners).check();
    assert_eq!(code, Some(0));
    assert!(
        errors.contains("two.pem: is never shown for test, which "),
        "{errors}"
    );
}
