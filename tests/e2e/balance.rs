//! Who among several targets gets a request.

use crate::harness::{Answer, Origin, Proxy, RawClient, Response, eventually, proxy::Builder};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// Three origins that say who they are.
fn three() -> [Origin; 3] {
    ["a", "b", "c"].map(|name| Origin::answering(move |_| Answer::ok(name)))
}

/// The targets, and what else is said of the upstream.
fn pool(origins: &[Origin], settings: &str) -> Builder {
    let mut kdl = String::new();
    for origin in origins {
        kdl.push_str(&format!("target \"{}\"; ", origin.address()));
    }
    kdl.push_str(settings);
    behind(&kdl)
}

fn behind(upstream: &str) -> Builder {
    Proxy::builder(r#"routes { route "all" { upstream "pool" } }"#).upstream("pool", upstream)
}

/// How many requests each has had.
fn served(origins: &[Origin]) -> Vec<usize> {
    let requests = origins.iter().map(|origin| origin.requests().len());
    requests.collect()
}

/// The same, and no connection to them is kept, so that one that is dropped is gone at once.
fn three_that_close() -> [Origin; 3] {
    ["a", "b", "c"].map(|name| Origin::answering(move |_| Answer::ok(name).then_close()))
}

/// An answer that comes when the switch is on, and how many wait for that.
fn held(released: &Arc<AtomicBool>, waiting: &Arc<AtomicUsize>) -> Origin {
    let (released, waiting) = (released.clone(), waiting.clone());
    Origin::answering(move |_| {
        waiting.fetch_add(1, SeqCst);
        eventually("release", || released.load(SeqCst).then_some(()));
        Answer::ok("held")
    })
}

#[test]
fn what_has_a_key_in_common_goes_to_one_target() {
    for algorithm in ["ring", "maglev"] {
        for (key, line) in [
            ("header:x-user", "x-user: NUMBER"),
            ("cookie:user", "cookie: a=b; user=NUMBER"),
            ("path", ""),
            ("uri", ""),
        ] {
            let origins = three();
            let settings = format!("balance \"hash\" key=\"{key}\" algorithm=\"{algorithm}\"");
            let proxy = pool(&origins, &settings).start();
            let mut client = proxy.client();
            let mut ask = |number: u32, round: u32| {
                let line = line.replace("NUMBER", &number.to_string());
                let query = if key == "uri" { 0 } else { round };
                let path = format!("/{number}?{query}");
                client
                    .get(
                        &path,
                        &[&*line].map(|line| if line.is_empty() { "x-a: b" } else { line }),
                    )
                    .text()
            };
            let first: Vec<String> = (0..30).map(|number| ask(number, 0)).collect();
            let again: Vec<String> = (0..30).map(|number| ask(number, 1)).collect();
            assert_eq!(first, again, "{settings}");
            assert!(
                served(&origins).iter().all(|count| *count >= 4),
                "{settings}: {first:?}"
            );
        }
        let origins = three();
        let settings = format!("balance \"hash\" key=\"client-ip\" algorithm=\"{algorithm}\"");
        let proxy = pool(&origins, &settings).start();
        for number in 0..6 {
            proxy.get(&format!("/{number}"));
        }
        let mut counts = served(&origins);
        counts.sort_unstable();
        assert_eq!(counts, [0, 0, 6]);
    }
}

#[test]
fn a_request_without_the_key_is_spread() {
    let origins = three();
    let proxy = pool(&origins, "balance \"hash\" key=\"header:x-user\"").start();
    let mut client = proxy.client();
    for _ in 0..100 {
        client.get("/", &[]);
    }
    assert!(served(&origins).iter().all(|count| *count >= 10));
}

#[test]
fn random_reaches_everybody() {
    let origins = three();
    let proxy = pool(&origins, "balance \"random\"").start();
    let mut client = proxy.client();
    for _ in 0..100 {
        client.get("/", &[]);
    }
    assert!(served(&origins).iter().all(|count| *count >= 10));
}

#[test]
fn least_requests_spares_who_is_busy_also_after_a_reload() {
    const IN_FLIGHT: &str = "portcullis_upstream_requests_in_flight{upstream=\"pool\"}";
    let (released, waiting) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let origins = [held(&released, &waiting), Origin::start()];
    let builder = |weight| {
        let (busy, idle) = (origins[0].address(), origins[1].address());
        behind(&format!(
            "target \"{busy}\"; target \"{idle}\" weight={weight}; balance \"least-requests\""
        ))
    };
    let proxy = builder(1).start();
    let address = proxy.address_of("http");
    let mut clients = Vec::new();
    // Until one of them is held.
    eventually("a request that is held", || {
        let client = move || RawClient::connect(address).get("/hold", &[]).status;
        clients.push(thread::spawn(client));
        let last = clients.last().unwrap();
        eventually("its way", || {
            (last.is_finished() || waiting.load(SeqCst) > 0).then_some(())
        });
        (waiting.load(SeqCst) > 0).then_some(())
    });
    for weight in [1, 2] {
        if weight == 2 {
            proxy.reload(&builder(weight));
        }
        for _ in 0..10 {
            // One that was answered counts until it is over, which may come later.
            proxy.wait_metric(IN_FLIGHT, 1.0);
            assert_eq!(proxy.get("/").text(), "ok");
        }
    }
    released.store(true, SeqCst);
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
}

#[test]
fn p2c_ewma_gives_little_to_who_is_slow() {
    let slow = Origin::answering(|_| {
        thread::sleep(Duration::from_millis(500));
        Answer::ok("slow")
    });
    let origins = [slow, Origin::start(), Origin::start()];
    let proxy = pool(&origins, "balance \"p2c-ewma\"").start();
    let address = proxy.address_of("http");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut client = RawClient::connect(address);
                for _ in 0..60 {
                    assert_eq!(client.get("/", &[]).status, 200);
                }
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
    let counts = served(&origins);
    assert!(counts[0] * 10 < counts.iter().sum(), "{counts:?}");
}

#[test]
fn a_backup_stands_in_and_no_more() {
    let backup = Origin::answering(|_| Answer::ok("backup"));
    let main = Origin::answering(|_| Answer::ok("ok").then_close());
    let targets = |main: &std::net::SocketAddr| {
        format!(
            "target \"{main}\"; target \"{}\" backup=#true",
            backup.address()
        )
    };
    let proxy = behind(&targets(&main.address())).start();
    for _ in 0..10 {
        assert_eq!(proxy.get("/").text(), "ok");
    }
    let gone = main.address();
    drop(main);
    eventually("the backup", || {
        (proxy.get("/").text() == "backup").then_some(())
    });
    let proxy = behind(&targets(&gone)).start();
    assert_eq!(proxy.get("/").text(), "backup");
}

#[test]
fn slow_start_spares_who_has_just_come() {
    let origins = three();
    let settings = "slow-start \"24h\"";
    let proxy = pool(&origins[..2], settings).start();
    let mut client = proxy.client();
    for _ in 0..10 {
        client.get("/", &[]);
    }
    // At the start nobody is new.
    assert_eq!(served(&origins), [5, 5, 0]);
    proxy.reload(&pool(&origins, settings));
    for _ in 0..300 {
        proxy.get("/");
    }
    // A tenth of its turns, which would be a hundred.
    let count = served(&origins)[2];
    assert!((1..60).contains(&count), "{count}");
}

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A proxy whose clients stay with their target, with this key.
fn sticky(origins: &[Origin], key: &str) -> Builder {
    pool(origins, "sticky cookie=\"at\" key-file=\"key\" ttl=\"2h\"").file("key", key)
}

fn set_cookie(response: &Response) -> Option<String> {
    let cookies = response.header_values("set-cookie");
    let cookie = cookies.iter().find(|cookie| cookie.starts_with("at="))?;
    Some((*cookie).to_owned())
}

#[test]
fn d29_a_sticky_client_stays_over_restarts_and_with_replicas() {
    let origins = three();
    let proxy = sticky(&origins, KEY).start();
    let first = proxy.get("/");
    let cookie = set_cookie(&first).unwrap();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=7200; HttpOnly; SameSite=Lax");
    let line = format!("cookie: other=1; {pair}");
    let stays = |proxy: &Proxy| {
        for _ in 0..6 {
            let response = proxy.get_with("/", &[&line]);
            assert_eq!(response.text(), first.text());
            assert_eq!(set_cookie(&response), None);
        }
    };
    stays(&proxy);
    // Another process with the same key, and the same process after a reload.
    stays(&sticky(&origins, KEY).start());
    proxy.reload(&sticky(&origins, &format!("{KEY}\n")));
    stays(&proxy);
    let other = sticky(&origins, &KEY.replace('0', "1")).start();
    let response = other.get_with("/", &[&line]);
    assert!(
        set_cookie(&response).is_some(),
        "a cookie of somebody else holds"
    );
}

#[test]
fn a_sticky_client_whose_target_is_gone_gets_another() {
    let origins = three_that_close();
    let proxy = sticky(&origins, KEY).start();
    let first = proxy.get("/");
    let cookie = set_cookie(&first).unwrap();
    let line = format!("cookie: {}", cookie.split(';').next().unwrap());
    let left: Vec<Origin> = origins
        .into_iter()
        .zip(["a", "b", "c"])
        .filter(|(_, name)| first.text() != *name)
        .map(|(origin, _)| origin)
        .collect();
    // First it only refuses connections, then it is no target any more.
    let response = proxy.get_with("/", &[&line]);
    assert_ne!(response.text(), first.text());
    let next = set_cookie(&response).unwrap();
    assert_ne!(next, cookie);
    proxy.reload(&sticky(&left, KEY));
    let response = proxy.get_with("/", &[&line]);
    assert!(set_cookie(&response).is_some());
    let line = format!("cookie: {}", next.split(';').next().unwrap());
    let stayed = proxy.get_with("/", &[&line]);
    assert_eq!(set_cookie(&stayed), None);
}

#[test]
fn a_cookie_for_https_is_sent_over_https_alone() {
    let origins = three();
    let proxy = sticky(&origins, KEY)
        .listener("trusted-proxies \"127.0.0.1\"")
        .start();
    let response = proxy.get_with("/", &["x-forwarded-proto: https"]);
    assert!(
        set_cookie(&response)
            .unwrap()
            .ends_with("; SameSite=Lax; Secure")
    );
}
