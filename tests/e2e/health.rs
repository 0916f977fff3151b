//! Targets that are not in order get nothing, as long as others are.

use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy, RawClient, TestAgent, eventually,
    proxy::Builder,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::SeqCst},
    },
};

/// An origin that answers health checks with a status that can be changed, and everything else with its name.
struct Patient {
    origin: Origin,
    status: Arc<AtomicU16>,
}

impl Patient {
    fn new(name: &'static str) -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let told = status.clone();
        let origin = Origin::answering(move |request| match &*request.target() {
            "/healthz" => Answer::with(told.load(SeqCst), &[], b""),
            _ => Answer::ok(name),
        });
        Self { origin, status }
    }

    /// Says from now on that it is in order, or that it is not, and waits until the proxy knows.
    fn says(&self, status: u16, proxy: &Proxy) {
        self.status.store(status, SeqCst);
        let up = f64::from(u8::from(status == 200));
        proxy.wait_metric(&up_of(self.origin.address()), up);
    }

    /// Requests that were no checks.
    fn served(&self) -> usize {
        let requests = self.origin.requests();
        let served = requests
            .iter()
            .filter(|request| request.target() != "/healthz");
        served.count()
    }

    fn checks(&self) -> usize {
        self.origin.requests().len() - self.served()
    }
}

fn up_of(target: SocketAddr) -> String {
    format!("portcullis_upstream_target_up{{target=\"{target}\"}}")
}

fn behind(upstream: &str) -> Builder {
    Proxy::builder(
        "admin { address \"127.0.0.1:0\" }\nroutes { route \"all\" { upstream \"pool\" } }",
    )
    .upstream("pool", upstream)
}

const CHECK: &str =
    r#"health-check "http" path="/healthz" host="app" interval="50ms" healthy=2 unhealthy=2"#;

fn pool(patients: &[&Patient], settings: &str) -> Builder {
    let mut kdl = String::new();
    for patient in patients {
        kdl.push_str(&format!("target \"{}\"; ", patient.origin.address()));
    }
    behind(&(kdl + settings))
}

/// The answers to so many requests, without those that say the same.
fn answers(proxy: &Proxy, count: usize) -> Vec<String> {
    let mut client = proxy.client();
    let mut answers: Vec<_> = (0..count).map(|_| client.get("/", &[]).text()).collect();
    answers.sort();
    answers.dedup();
    answers
}

#[test]
fn who_is_unhealthy_gets_nothing_until_it_is_healthy_again() {
    let (a, b) = (Patient::new("a"), Patient::new("b"));
    let proxy = pool(&[&a, &b], CHECK).start();
    assert_eq!(answers(&proxy, 8), ["a", "b"]);
    a.says(500, &proxy);
    assert_eq!(answers(&proxy, 8), ["b"]);
    let line = proxy.log_line(|line| line["message"] == "target is unhealthy");
    assert_eq!(line["address"], a.origin.address().to_string());
    assert_eq!(line["problem"], "status 500");
    // A reload that changes the upstream knows it still.
    let other = format!("{CHECK}; balance \"least-requests\"");
    proxy.reload(&pool(&[&a, &b], &other));
    assert_eq!(answers(&proxy, 8), ["b"]);
    a.says(200, &proxy);
    assert_eq!(answers(&proxy, 30), ["a", "b"]);
    let check = a.origin.saw(|request| request.target() == "/healthz");
    assert_eq!(check.header("host").unwrap(), "app");
    assert_eq!(
        check.header("user-agent").unwrap(),
        "portcullis-health-check"
    );
    // One that is no longer asked counts as healthy.
    a.says(500, &proxy);
    proxy.reload(&pool(&[&a, &b], ""));
    assert_eq!(answers(&proxy, 8), ["a", "b"]);
}

#[test]
fn a_reload_in_vain_leaves_checks_as_they_are() {
    let (a, b) = (Patient::new("a"), Patient::new("b"));
    let proxy = pool(&[&a, &b], CHECK).start();
    a.says(500, &proxy);
    proxy.reload_in_vain(&pool(&[&a, &b], "").listener("nonsense"));
    assert_eq!(answers(&proxy, 8), ["b"]);
    a.says(200, &proxy);
}

#[test]
fn statuses_that_are_wanted_are_healthy() {
    let a = Patient::new("a");
    a.status.store(302, SeqCst);
    let settings = format!("{CHECK} {{ status 204 \"3xx\" }}");
    let proxy = pool(&[&a], &settings).start();
    let passed = "portcullis_upstream_health_checks_total{result=\"success\"}";
    eventually("a check that passed", || {
        (proxy.metric(passed) > 0.0).then_some(())
    });
    a.status.store(200, SeqCst);
    proxy.wait_metric(&up_of(a.origin.address()), 0.0);
}

#[test]
fn who_is_no_target_any_longer_is_not_asked() {
    let (a, b) = (Patient::new("a"), Patient::new("b"));
    let proxy = pool(&[&a, &b], CHECK).start();
    eventually("checks", || {
        (a.checks() > 1 && b.checks() > 1).then_some(())
    });
    proxy.reload(&pool(&[&b], CHECK));
    let (before, of_other) = (a.checks(), b.checks());
    eventually("more checks", || (b.checks() > of_other + 5).then_some(()));
    assert!(a.checks() <= before + 1, "{} after {before}", a.checks());
    let metrics = proxy.probe("/metrics").text();
    assert!(!metrics.contains(&a.origin.address().to_string()));
}

#[test]
fn when_nobody_is_in_order_everybody_is_tried() {
    let (a, b) = (Patient::new("a"), Patient::new("b"));
    let proxy = pool(&[&a, &b], CHECK).start();
    a.says(500, &proxy);
    b.says(500, &proxy);
    let panics = "portcullis_upstream_panic_requests_total";
    assert_eq!(proxy.metric(panics), 0.0);
    assert_eq!(answers(&proxy, 8), ["a", "b"]);
    assert_eq!(proxy.metric(panics), 8.0);
    // The proxy itself is as well as before.
    assert_eq!(proxy.probe("/readyz").status, 200);
    let status = RawClient::connect(proxy.address_of("admin"))
        .get("/status", &["host: localhost"])
        .json();
    let upstream = &status["upstreams"][0];
    assert_eq!(upstream["in_panic"], true);
    assert_eq!(upstream["targets"][0]["state"], "unhealthy");
    assert_eq!(upstream["targets"][0]["last_problem"], "status 500");
}

#[test]
fn a_share_that_is_too_small_is_none() {
    let patients = [Patient::new("a"), Patient::new("b"), Patient::new("c")];
    let all = patients.each_ref();
    let settings = format!("{CHECK}; panic-threshold \"50%\"");
    let proxy = pool(&all, &settings).start();
    patients[0].says(500, &proxy);
    assert_eq!(answers(&proxy, 9), ["b", "c"]);
    patients[1].says(500, &proxy);
    assert_eq!(answers(&proxy, 9), ["a", "b", "c"]);
}

#[test]
fn a_connection_is_enough_for_tcp() {
    let (a, b) = (Origin::start(), Origin::answering(|_| Answer::ok("b")));
    let targets = format!(
        "target \"{}\"; target \"{}\"; health-check \"tcp\" interval=\"50ms\" unhealthy=1",
        a.address(),
        b.address()
    );
    let proxy = behind(&targets).start();
    let address = a.address();
    drop(a);
    proxy.wait_metric(&up_of(address), 0.0);
    assert_eq!(answers(&proxy, 8), ["b"]);
    let line = proxy.log_line(|line| line["message"] == "target is unhealthy");
    assert_eq!(line["problem"], "ConnectRefused");
    let _again = Origin::at(address, |_| Answer::ok("ok"));
    proxy.wait_metric(&up_of(address), 1.0);
    assert_eq!(answers(&proxy, 30), ["b", "ok"]);
}

#[test]
fn a_grpc_server_says_how_its_service_is() {
    let status = Arc::new(AtomicU16::new(1));
    let told = status.clone();
    let origin = Http2Origin::answering(move |request| {
        if request.target() != "/grpc.health.v1.Health/Check" {
            return Http2Answer::with(200, &[], "ok");
        }
        let serving = u8::try_from(told.load(SeqCst)).unwrap();
        let answer = Http2Answer::with(
            200,
            &[("content-type", "application/grpc")],
            vec![0, 0, 0, 0, 2, 8, serving],
        );
        answer.with_trailers(&[("grpc-status", "0")])
    });
    let settings = format!(
        "target \"{}\"; protocol \"h2c\"; health-check \"grpc\" service=\"app\" interval=\"50ms\" unhealthy=1",
        origin.address()
    );
    let proxy = behind(&settings).start();
    let passed = "portcullis_upstream_health_checks_total{result=\"success\"}";
    eventually("a check that passed", || {
        (proxy.metric(passed) > 0.0).then_some(())
    });
    let asked = origin.take();
    assert_eq!(asked[0].body, [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'p', b'p']);
    assert_eq!(asked[0].header("te").unwrap(), "trailers");
    status.store(2, SeqCst);
    proxy.wait_metric(&up_of(origin.address()), 0.0);
    let line = proxy.log_line(|line| line["message"] == "target is unhealthy");
    assert_eq!(line["problem"], "serving status 2");
}

/// One that always fails in this way, and one that does not.
fn failing(answer: impl Fn() -> Answer + Send + Sync + 'static) -> (Origin, Origin) {
    (Origin::answering(move |_| answer()), Origin::start())
}

fn outlier(origins: [&Origin; 2], settings: &str) -> Builder {
    let [one, other] = origins.map(Origin::address);
    behind(&format!("target \"{one}\"; target \"{other}\"; {settings}"))
}

#[test]
fn who_fails_in_a_row_is_ejected_also_over_a_reload() {
    for (settings, answer) in [
        (
            "outlier failures=3 eject=\"1h\"",
            "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "outlier failures=3 statuses=\"5xx\" eject=\"1h\"",
            "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "outlier failures=3 statuses=\"none\" eject=\"1h\"",
            "nonsense\r\n\r\n",
        ),
        // Its answers break off.
        (
            "outlier failures=3 eject=\"1h\"",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        ),
    ] {
        let (bad, good) = failing(move || Answer::raw(answer).then_close());
        let proxy = outlier([&bad, &good], settings).start();
        let ejections = "portcullis_upstream_target_ejections_total";
        for _ in 0..20 {
            proxy.get("/");
        }
        eventually("the ejection", || {
            (proxy.metric(ejections) == 1.0).then_some(())
        });
        let failed = bad.requests().len();
        assert!((3..=4).contains(&failed), "{answer}: {failed}");
        assert_eq!(proxy.metric(&up_of(bad.address())), 0.0);
        let line =
            proxy.log_line(|line| line["message"] == "target is ejected because of its answers");
        assert_eq!(line["seconds"], 3600.0);
        proxy.reload(&outlier(
            [&bad, &good],
            &format!("{settings}; balance \"random\""),
        ));
        assert_eq!(answers(&proxy, 20), ["ok"]);
        assert_eq!(bad.requests().len(), failed);
    }
}

#[test]
fn what_is_no_failure_ejects_nobody() {
    for (settings, answer) in [
        (
            "outlier failures=1",
            "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "outlier failures=1 statuses=\"none\"",
            "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "outlier failures=1 statuses=\"5xx\"",
            "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
        ),
    ] {
        let (bad, good) = failing(move || Answer::raw(answer));
        let proxy = outlier([&bad, &good], settings).start();
        for _ in 0..20 {
            proxy.get("/");
        }
        assert_eq!(bad.requests().len(), 10, "{settings}");
        assert_eq!(
            proxy.metric("portcullis_upstream_target_ejections_total"),
            0.0
        );
    }
}

#[test]
fn half_of_the_targets_stay_whatever_they_do() {
    let (bad, worse) = (
        Origin::answering(|_| Answer::with(503, &[], b"")),
        Origin::answering(|_| Answer::with(503, &[], b"")),
    );
    let proxy = outlier([&bad, &worse], "outlier failures=1 eject=\"1h\"").start();
    for _ in 0..10 {
        assert_eq!(proxy.get("/").status, 503);
    }
    assert_eq!(
        proxy.metric("portcullis_upstream_target_ejections_total"),
        1.0
    );
    assert_eq!(bad.requests().len() + worse.requests().len(), 10);
}

#[test]
fn clients_that_go_away_eject_nobody() {
    const CLIENTS: usize = 32;
    let agent = TestAgent::named("waf").start();
    for inspected in [false, true] {
        let origins = [(); 2].map(|()| {
            Origin::answering(|_| {
                Answer::raw("").then(|stream| {
                    // For as long as the proxy has patience.
                    let _ = std::io::Read::read(stream, &mut [0]);
                })
            })
        });
        let filters = if inspected {
            "filters { agent \"waf\" }; "
        } else {
            ""
        };
        let targets = format!(
            "target \"{}\"; target \"{}\"; outlier failures=1 eject=\"1h\"",
            origins[0].address(),
            origins[1].address()
        );
        let mut builder = Proxy::builder(format!(
            "routes {{ route \"all\" {{ {filters}upstream \"pool\" }} }}"
        ))
        .upstream("pool", &targets);
        if inspected {
            builder = builder.agent_with(&agent, "timeout \"10s\"; inspect { request-headers; request-body \"buffer\"; response-headers }");
        }
        let proxy = builder.start();
        proxy.wait_ready();
        let clients: Vec<RawClient> = (0..CLIENTS)
            .map(|number| {
                let mut client = proxy.client();
                // Half of them before they have sent everything.
                client.send(match number % 2 {
                    0 => "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
                    _ if inspected => {
                        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nwhole".to_owned()
                    }
                    _ => "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf".to_owned(),
                });
                client
            })
            .collect();
        let in_flight = "portcullis_upstream_target_requests_in_flight";
        proxy.wait_metric(in_flight, CLIENTS as f64);
        drop(clients);
        proxy.wait_metric(in_flight, 0.0);
        assert_eq!(
            proxy.metric("portcullis_upstream_target_ejections_total"),
            0.0
        );
        assert_eq!(proxy.metric("portcullis_upstream_target_up"), 2.0);
    }
}

#[test]
fn a_target_that_is_silent_for_too_long_has_failed() {
    let (bad, good) = failing(|| {
        Answer::raw("").then(|stream| {
            let _ = std::io::Read::read(stream, &mut [0]);
        })
    });
    let settings = "outlier failures=1 eject=\"1h\"; timeouts { response-header \"200ms\" }";
    let proxy = outlier([&bad, &good], settings).start();
    let mut statuses: Vec<u16> = (0..6).map(|_| proxy.get("/").status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 504]);
    assert_eq!(
        proxy.metric("portcullis_upstream_target_ejections_total"),
        1.0
    );
}
