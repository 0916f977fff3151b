//! What operators do with the container image: `make docker-test` builds it and runs this. Containers, volumes and networks
//! that a test has made are gone when it ends.

mod docker;
mod load;

use docker::{Compose, Container, Folder, docker, eventually, free_port, get, image};
use load::Load;
use std::net::SocketAddr;

/// How much larger than its base the image may be.
const MOST_BYTES: u64 = 40_000_000;
/// How it is run in production: no capability, no root, nothing to write to.
const HARDENED: [&str; 5] = [
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
];
/// So that nobody waits for ten seconds; and for containers that are no proxies.
const SOON: &[&str] = &["--health-interval=1s"];
const NEVER: &[&str] = &["--no-healthcheck"];

/// How often the container is stopped under load.
const STOPS: usize = 5;

/// A configuration with a builtin agent that blocks one path, as a file that a container can read.
fn config(folder: &Folder, address: &str, blocked: &str) {
    let text = include_str!("../../deploy/container.kdl")
        .replace("0.0.0.0:8080", address)
        .replace("\"/admin\"", &format!("{blocked:?}"));
    folder.write("portcullis.kdl", &text);
}

fn mounted(folder: &Folder) -> String {
    format!("{}:/etc/portcullis:ro", folder.path())
}

#[test]
fn the_image_is_small_and_says_what_it_is() {
    let size = |image: &str| -> u64 {
        let size = docker(&["image", "inspect", "--format", "{{.Size}}", image]);
        size.parse().unwrap()
    };
    let base = std::env::var("BASE").expect("BASE: the image that ours is built on");
    let added = size(&image()) - size(&base);
    println!("the image adds {added} bytes to its base");
    assert!(added <= MOST_BYTES, "{added} bytes");

    let inspected = docker(&["image", "inspect", "--format", "{{json .Config}}", &image()]);
    for part in [
        r#""User":"65532:65532""#,
        r#""StopSignal":"SIGTERM""#,
        r#""Entrypoint":["/usr/local/bin/portcullis"]"#,
        r#""Cmd":["run","-c","/etc/portcullis/portcullis.kdl"]"#,
        r#""Test":["CMD","/usr/local/bin/portcullis","healthcheck"]"#,
        r#""8080/tcp":{}"#,
        r#""8443/tcp":{}"#,
        r#""9902/tcp":{}"#,
        r#""org.opencontainers.image.licenses":"Apache-2.0""#,
        r#""org.opencontainers.image.revision":""#,
    ] {
        assert!(inspected.contains(part), "{part} is not in {inspected}");
    }
}

#[test]
fn it_serves_without_any_configuration() {
    let proxy = Container::run(&["--publish", "127.0.0.1::8080"], &[]);
    proxy.wait_health("healthy");
    let address = proxy.published(8080);
    assert_eq!(get(address, "/hello").unwrap().status, 200);
    assert_eq!(get(address, "/admin").unwrap().status, 403);
}

#[test]
fn a_hardened_container_asks_its_agent() {
    let folder = Folder::new();
    config(&folder, "0.0.0.0:8080", "/secret");
    let volume = mounted(&folder);
    let options = [
        &HARDENED[..],
        SOON,
        &["--publish", "127.0.0.1::8080", "--volume", &volume],
    ]
    .concat();
    let proxy = Container::run(&options, &[]);
    proxy.wait_health("healthy");
    let address = proxy.published(8080);
    let allowed = get(address, "/hello").unwrap();
    assert_eq!(allowed.status, 200);
    assert!(
        allowed.body.contains("\"uri\": \"/hello\""),
        "{}",
        allowed.body
    );
    assert_eq!(get(address, "/secret").unwrap().status, 403);

    proxy.stop();
    assert_eq!(proxy.exit_code(), "0");
}

#[test]
fn a_changed_file_takes_effect_at_sighup() {
    let folder = Folder::new();
    config(&folder, "0.0.0.0:8080", "/before");
    let volume = mounted(&folder);
    let options = [
        &HARDENED[..],
        SOON,
        &["--publish", "127.0.0.1::8080", "--volume", &volume],
    ]
    .concat();
    let proxy = Container::run(&options, &[]);
    proxy.wait_health("healthy");
    let address = proxy.published(8080);
    assert_eq!(get(address, "/before").unwrap().status, 403);
    assert_eq!(get(address, "/after").unwrap().status, 200);

    config(&folder, "0.0.0.0:8080", "/after");
    proxy.signal("HUP");
    eventually("the new configuration", || {
        let statuses = ["/before", "/after"].map(|path| get(address, path).unwrap().status);
        (statuses == [200, 403]).then_some(())
    });
    proxy.wait_health("healthy");

    // A file that is not good changes nothing.
    folder.write("portcullis.kdl", "nonsense");
    proxy.signal("HUP");
    eventually("the refusal in the log", || {
        proxy.logs().contains("nonsense").then_some(())
    });
    assert_eq!(get(address, "/after").unwrap().status, 403);
    // And the proxy is as healthy as before.
    proxy.exec("healthcheck");
}

/// In the network of the host: between Docker's port forwarder and the container a connection can be lost that the proxy has
/// never seen.
#[test]
fn a_stop_under_load_loses_no_request() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let probes = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let folder = Folder::new();
    let text = include_str!("../../deploy/container.kdl")
        .replace("0.0.0.0:8080", &address.to_string())
        .replace("0.0.0.0:9902", &probes.to_string());
    folder.write("portcullis.kdl", &text);
    let volume = mounted(&folder);
    let options = ["--network", "host", "--volume", &volume];
    let proxy = Container::run(&[&HARDENED[..], SOON, &options].concat(), &[]);
    let mut lost = Vec::new();
    // What can be lost is lost in an instant that a single stop may miss.
    for round in 1..=STOPS {
        proxy.wait_health("healthy");
        let load = Load::start(address);
        eventually("load", || (load.answered() > 200).then_some(()));
        proxy.stop();
        assert_eq!(proxy.exit_code(), "0");
        let answered = load.answered();
        let missed = load.end();
        println!("stop {round}: {answered} requests were answered, not: {missed:?}");
        lost.extend(missed.lost);
        // Each client learns it once for each socket of the listener, and is refused then.
        assert!(missed.unheard <= 2 * load::CLIENTS, "{}", missed.unheard);
        if round < STOPS {
            proxy.start();
        }
    }
    assert!(lost.is_empty(), "{lost:?}");
}

/// D30: an agent that cannot make its socket is seen from outside, and lets nothing pass.
#[test]
fn d30_an_agent_without_its_socket_is_not_a_yes() {
    let folder = Folder::new();
    folder.write(
        "portcullis.kdl",
        include_str!("../../deploy/compose/portcullis.kdl"),
    );
    // Both see the folder; it belongs to somebody else.
    let sockets = Folder::new();
    let shared = format!("{}:/run/portcullis/agents", sockets.path());
    let socket = "/run/portcullis/agents/denylist.sock";
    let agent = Container::run(
        &[&HARDENED[..], NEVER, &["--volume", &shared]].concat(),
        &["agent", "denylist", "--socket", socket],
    );
    let volume = mounted(&folder);
    let options = [
        "--publish",
        "127.0.0.1::8080",
        "--volume",
        &volume,
        "--volume",
        &shared,
    ];
    let proxy = Container::run(&[&HARDENED[..], SOON, &options].concat(), &[]);

    let code = eventually("end of the agent", || {
        Some(agent.exit_code()).filter(|_| !agent.is_running())
    });
    assert_eq!(code, "1");
    assert!(
        agent.logs().contains("cannot listen on"),
        "{}",
        agent.logs()
    );

    let address = proxy.published(8080);
    eventually("listener", || get(address, "/hello").ok());
    for path in ["/hello", "/admin"] {
        let refused = get(address, path).unwrap();
        assert_eq!(refused.status, 503, "{path}");
        assert!(refused.head.contains("retry-after:"), "{}", refused.head);
    }
    proxy.wait_health("unhealthy");
    let reason = proxy.inspect("{{json .State.Health.Log}}");
    assert!(reason.contains("not ready: agent denylist"), "{reason}");

    // As soon as the agent can, the proxy serves.
    sockets.open();
    let _agent = Container::run(
        &[&HARDENED[..], NEVER, &["--volume", &shared]].concat(),
        &["agent", "denylist", "--socket", socket],
    );
    proxy.wait_health("healthy");
    assert_eq!(get(address, "/hello").unwrap().status, 200);
    assert_eq!(get(address, "/admin").unwrap().status, 403);
}

#[test]
fn compose_runs_the_agent_in_a_container_of_its_own() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let compose = Compose::up(
        "../../deploy/compose/docker-compose.yml",
        &address.to_string(),
    );
    let answer = eventually("an allowed request", || {
        get(address, "/hello")
            .ok()
            .filter(|response| response.status == 200)
    });
    assert!(
        answer.body.contains("\"uri\": \"/hello\""),
        "{}",
        answer.body
    );
    assert_eq!(get(address, "/admin").unwrap().status, 403);
    // The verdict came from the other container.
    compose.run(&["stop", "denylist"]);
    eventually("refusal", || {
        (get(address, "/hello").ok()?.status == 503).then_some(())
    });
    compose.run(&["start", "denylist"]);
    eventually("the agent's return", || {
        (get(address, "/hello").ok()?.status == 200).then_some(())
    });
}
