//! Clients that only want to cost something: they lose their connection or wait for themselves, the process stays small, and
//! everybody else is served.

use super::{
    NEVER,
    transport::{Served, Transport, over_every_transport},
};
use crate::harness::{Answer, Origin, Proxy, TestAgent, agent::Reaction, eventually, frames::*};
use portcullis_agent_protocol::Decision;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
};

over_every_transport![
    floods_of_frames_end_the_connection,
    a_flood_is_told_to_calm_down,
    requests_that_are_taken_back_at_once_end_the_connection,
    requests_that_are_taken_back_later_end_the_connection,
    resets_that_are_brought_about_end_the_connection,
    a_head_without_an_end_ends_the_connection,
    a_head_that_unfolds_is_refused,
    answers_that_nobody_reads_do_not_pile_up,
    bodies_that_nobody_takes_do_not_pile_up,
];

/// What the process may grow by, whatever is done to it here.
const GROWTH_KIB: usize = 64 << 10;

/// The memory that the process has in use now.
fn resident_kib(proxy: &Served) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Lets `abuse` happen while other clients are served, and looks at the size of the process after each of its steps.
fn beside_others(proxy: &Served, abuse: impl FnMut(&mut dyn FnMut())) {
    beside_others_within(GROWTH_KIB, proxy, abuse);
}

/// The same, and the process may grow by so much.
fn beside_others_within(most_kib: usize, proxy: &Served, mut abuse: impl FnMut(&mut dyn FnMut())) {
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    assert_eq!(proxy.get("/other").status, 200);
    let before = resident_kib(proxy);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    assert_eq!(proxy.get("/other").status, 200);
                    served.fetch_add(1, Relaxed);
                }
            });
        }
        let ended = EndGuard(&over);
        abuse(&mut || {
            let grown = resident_kib(proxy).saturating_sub(before);
            assert!(grown < most_kib, "{grown} KiB");
            // Others have their turn between any two steps.
            let turn = served.load(Relaxed);
            eventually("others are served", || {
                (served.load(Relaxed) > turn).then_some(())
            });
        });
        drop(ended);
    });
}

/// Ends the others also when the test fails.
struct EndGuard<'a>(&'a AtomicBool);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Sends these bytes again and again; the code with which the connection ends. None when it has not ended.
fn flood(
    proxy: &Served,
    first: &[u8],
    again: impl Fn(u32) -> Vec<u8>,
    rounds: u32,
    step: &mut dyn FnMut(),
) -> Option<u32> {
    let mut client = proxy.connect();
    client.send(first);
    for round in 0..rounds {
        if !client.try_send(again(round)) {
            break;
        }
        if round % 20 == 0 {
            step();
        }
    }
    client.end()
}

const FLOODS: &str = r#"portcullis_http_refused_total{listener="http",reason="frame_flood"}"#;

fn floods_of_frames_end_the_connection(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let many = |frame: Vec<u8>| move |_: u32| frame.repeat(300);
    let floods: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        (
            "settings",
            Vec::new(),
            frame(SETTINGS, 0, 0, &setting(4, 65_535)),
        ),
        ("pings", Vec::new(), frame(PING, 0, 0, &[0; 8])),
        ("empty data", post(1, NEVER), frame(DATA, 0, 1, b"")),
        (
            "priorities",
            Vec::new(),
            frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]),
        ),
        ("window updates", Vec::new(), window_update(0, 1)),
        ("unknown frames", Vec::new(), frame(0xbe, 0, 0, b"x")),
    ];
    beside_others(&proxy, |step| {
        for (number, (name, first, frame)) in floods.iter().enumerate() {
            let code = flood(&proxy, first, many(frame.clone()), 400, step);
            // What was still on its way may have swept away what was said.
            assert!(
                matches!(code, Some(ENHANCE_YOUR_CALM) | None),
                "{name}: {code:?}"
            );
            proxy.wait_metric(FLOODS, (number + 1) as f64);
        }
    });
    let line = proxy.access_line(|line| line["reason"] == "frame_flood");
    assert_eq!(line["status"], 429);
}

/// The code arrives where nothing is on its way any more.
fn a_flood_is_told_to_calm_down(transport: Transport) {
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "fixed" { respond 200 "ok" } }"#,
    ));
    let mut client = proxy.connect();
    client.send(frame(PING, ACK, 0, &[0; 8]).repeat(10_500));
    assert_eq!(client.end(), Some(ENHANCE_YOUR_CALM));
}

fn requests_that_are_taken_back_at_once_end_the_connection(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    beside_others(&proxy, |step| {
        let pairs = |round: u32| {
            let streams = (0..100).map(|number| 2 * (100 * round + number) + 1);
            streams
                .flat_map(|stream| [get(stream, "/taken-back"), reset(stream, CANCEL)].concat())
                .collect()
        };
        let code = flood(&proxy, &[], pairs, 200, step);
        assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?}");
    });
    eventually("nothing in flight", || {
        (proxy.metric("portcullis_http_requests_in_flight") == 0.0).then_some(())
    });
    // Most of it went no further.
    assert!(
        origin
            .requests()
            .iter()
            .filter(|request| request.target() == "/taken-back")
            .count()
            < 5000
    );
}

/// The same where each reset comes when its request has been taken up.
fn requests_that_are_taken_back_later_end_the_connection(transport: Transport) {
    let proxy = transport.start(Proxy::in_front_of(&silent_origin()));
    let mut client = proxy.connect();
    let mut stream = 1;
    let ended = loop {
        client.send([get(stream, "/taken-back"), frame(PING, 0, 0, &[0; 8])].concat());
        // The proxy has read so far.
        if client.next_of(PING).is_none() {
            break true;
        }
        client.send(reset(stream, CANCEL));
        stream += 2;
        if stream > 20_000 {
            break false;
        }
    };
    assert!(ended, "{stream}");
    proxy.wait_metric(FLOODS, 1.0);
}

/// Streams that the client brings us to reset cost it as much as those that it resets.
fn resets_that_are_brought_about_end_the_connection(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    beside_others(&proxy, |step| {
        let pairs = |round: u32| {
            let streams = (0..100).map(|number| 2 * (100 * round + number) + 1);
            let more_than_said = |stream| {
                let fields = [head("POST", NEVER), vec![("content-length", "0")]].concat();
                [request(stream, 0, &fields), frame(DATA, 0, stream, b"x")].concat()
            };
            streams.flat_map(more_than_said).collect()
        };
        let code = flood(&proxy, &[], pairs, 200, step);
        assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?}");
        proxy.wait_metric(FLOODS, 1.0);
    });
}

fn a_head_without_an_end_ends_the_connection(transport: Transport) {
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "other" { respond 200 "ok" } }"#,
    ));
    let field = block(&[("x-filler", &"f".repeat(1000))]);
    let pieces: Vec<(&str, Vec<u8>)> = vec![
        ("full", frame(CONTINUATION, 0, 1, &field)),
        ("empty", frame(CONTINUATION, 0, 1, b"").repeat(100)),
        ("one byte", frame(CONTINUATION, 0, 1, &[0x82]).repeat(100)),
    ];
    beside_others(&proxy, |step| {
        for (name, piece) in &pieces {
            let first = frame(HEADERS, END_STREAM, 1, &block(&head("GET", NEVER)));
            let code = flood(&proxy, &first, |_| piece.repeat(10), 500, step);
            assert_ne!(code, Some(NO_ERROR), "{name}");
        }
    });
}

/// A few bytes on the wire that are a megabyte and more when they are read.
fn a_head_that_unfolds_is_refused(transport: Transport) {
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "other" { respond 200 "ok" } }"#,
    ));
    let value = "v".repeat(3900);
    let mut remembered = vec![0x40];
    remembered.extend(&block(&[("x-large", &value)])[1..]);
    beside_others(&proxy, |step| {
        for _ in 0..20 {
            let mut client = proxy.connect();
            for number in 0..20_u32 {
                let stream = 2 * number + 1;
                let mut fields = block(&head("GET", NEVER));
                if number == 0 {
                    fields.extend(&remembered);
                }
                fields.extend([0xbe].repeat(10_000));
                client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields));
            }
            let outcome = client.outcome(1);
            assert!(
                matches!(
                    outcome,
                    Outcome::Answer(431, _)
                        | Outcome::GoAway(_)
                        | Outcome::Closed
                        | Outcome::Reset(..)
                ),
                "{outcome:?}"
            );
            step();
        }
    });
}

/// Five mebibytes for whoever asks for them.
fn large_origin() -> Origin {
    let large = vec![b'x'; 5 << 20];
    Origin::answering(move |request| match request.target().as_str() {
        "/large" => Answer::with(200, &[], &large),
        _ => Answer::ok("ok"),
    })
}

/// What the parts of an answer that wait for their client may take, of one stream: some read buffers on their way through.
const STREAM_KIB: usize = 700;

/// Nobody reads, by their windows or by their socket.
fn answers_that_nobody_reads_do_not_pile_up(transport: Transport) {
    let origin = large_origin();
    let proxy = transport
        .start(Proxy::in_front_of(&origin).listener(r#"h2c; timeouts { response-write "2s" }"#));
    for (name, window) in [("no window", 0), ("no reading", 0x7fff_ffff)] {
        beside_others_within(5 * 90 * STREAM_KIB, &proxy, |step| {
            let mut clients: Vec<_> = (0..5)
                .map(|_| {
                    let mut client = proxy.with_preface();
                    let settings = [setting(1, 0), setting(4, window)].concat();
                    client.send(frame(SETTINGS, 0, 0, &settings));
                    client.send(window_update(0, 0x7fff_ffff - 65_535));
                    for number in 0..90_u32 {
                        client.send(get(2 * number + 1, "/large"));
                    }
                    client
                })
                .collect();
            for _ in 0..20 {
                step();
            }
            // They end by themselves.
            eventually(name, || {
                step();
                (proxy.metric("portcullis_http_requests_in_flight") < 5.0).then_some(())
            });
            clients.clear();
        });
    }
}

/// Bodies that nobody takes wait with the client.
fn bodies_that_nobody_takes_do_not_pile_up(transport: Transport) {
    let agent = TestAgent::named("slow")
        .on("/stuck", Reaction::late(&Decision::allow()))
        .start();
    let proxy = transport.start(Proxy::builder(
        r#"routes {
            route "stuck" { match { path "/stuck" }; filters { agent "slow" timeout="60s" }; upstream "echo" }
            route "other" { respond 200 "ok" }
        }
        upstreams { upstream "echo" { builtin "echo" } }"#,
    )
    .agent(&agent));
    proxy.wait_ready();
    beside_others(&proxy, |step| {
        let mut clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            // As much as the window of the connection takes.
            for number in 0..63_u32 {
                client.send(post(2 * number + 1, "/stuck"));
                client.send(frame(DATA, 0, 2 * number + 1, &[b'x'; 16_384]));
            }
            step();
        }
    });
}

/// An origin that answers nothing but what others ask.
fn silent_origin() -> Origin {
    Origin::answering(|request| {
        if request.target() == "/other" {
            return Answer::ok("ok");
        }
        Answer::raw("").then(|stream| {
            let _ = std::io::Read::read(stream, &mut [0]);
        })
    })
}
