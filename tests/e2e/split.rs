//! Requests of one route that are shared out to several upstreams.

use crate::harness::{Answer, Origin, Proxy, proxy::Builder};

/// Where a request goes.
fn served(proxy: &Proxy, lines: &[&str]) -> String {
    proxy.get_with("/", lines).text()
}

fn two() -> [Origin; 2] {
    ["stable", "canary"].map(|name| Origin::answering(move |_| Answer::ok(name)))
}

fn splitting(origins: &[Origin; 2], split: &str) -> Builder {
    let [stable, canary] = origins;
    Proxy::builder(format!(
        "routes {{ route \"all\" {{ split {{ {split} }} }} }}"
    ))
    .upstream("stable", &format!("target \"{}\"", stable.address()))
    .upstream("canary", &format!("target \"{}\"", canary.address()))
}

#[test]
fn each_request_is_shared_out_by_itself() {
    let origins = two();
    let split = "upstream \"stable\" weight=3; upstream \"canary\" weight=1";
    let proxy = splitting(&origins, split).start();
    let mut client = proxy.client();
    for _ in 0..400 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    let got = origins.each_ref().map(|origin| origin.requests().len());
    // Of 400, a quarter within seven standard deviations.
    assert!((40..=160).contains(&got[1]), "{got:?}");
    assert_eq!(got[0] + got[1], 400);
}

#[test]
fn who_has_no_weight_gets_nothing() {
    let origins = two();
    let split = "upstream \"stable\" weight=1; upstream \"canary\" weight=0";
    let proxy = splitting(&origins, split).start();
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("/", &[]).text(), "stable");
    }
}

#[test]
fn a_client_stays_when_weights_grow_and_processes_change() {
    let origins = two();
    let split = |canary: u32| {
        let stable = 100 - canary;
        format!(
            "upstream \"stable\" weight={stable}; upstream \"canary\" weight={canary}; sticky \"cookie:who\""
        )
    };
    let of_all = |proxy: &Proxy| -> Vec<String> {
        (0..60)
            .map(|client| served(proxy, &[&format!("cookie: a=b; who={client}")]))
            .collect()
    };
    let few = splitting(&origins, &split(20));
    let proxy = few.clone().start();
    let before = of_all(&proxy);
    assert_eq!(of_all(&proxy), before, "a client comes back");
    assert_eq!(of_all(&few.start()), before, "another process agrees");
    proxy.reload(&splitting(&origins, &split(60)));
    let after = of_all(&proxy);
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || after == "canary", "{before} to {after}");
    }
    let canaries = |served: &[String]| served.iter().filter(|name| *name == "canary").count();
    assert!(canaries(&before) > 0 && canaries(&before) < canaries(&after));
    proxy.reload(&splitting(&origins, &split(100)));
    assert_eq!(canaries(&of_all(&proxy)), 60);
}

#[test]
fn clients_are_known_by_header_or_address() {
    let origins = two();
    let by = |sticky: &str| {
        format!("upstream \"stable\" weight=1; upstream \"canary\" weight=1; sticky \"{sticky}\"")
    };
    let proxy = splitting(&origins, &by("header:x-user")).start();
    let of = |user: u32| served(&proxy, &[&format!("x-user: {user}")]);
    let first: Vec<String> = (0..30).map(of).collect();
    assert_eq!((0..30).map(of).collect::<Vec<_>>(), first);
    assert!(first.contains(&"stable".to_owned()) && first.contains(&"canary".to_owned()));
    // Without the header it is the address, which all requests here have in common.
    let by_address = served(&proxy, &[]);
    let proxy = splitting(&origins, &by("client-ip")).start();
    for _ in 0..20 {
        assert_eq!(served(&proxy, &[]), by_address);
    }
}

#[test]
fn the_upstream_that_was_taken_is_in_the_log() {
    let origins = two();
    let split = "upstream \"stable\" weight=0; upstream \"canary\" weight=1";
    let proxy = splitting(&origins, split).start();
    assert_eq!(proxy.get("/logged").text(), "canary");
    let line = proxy.access_line_of("/logged");
    assert_eq!(line["upstream"], "canary");
    assert_eq!(line["upstream_address"], origins[1].address().to_string());
    assert_eq!(line["route"], "all");
}
