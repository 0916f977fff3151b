//! Every file in `tests/fixtures/valid` means exactly what its snapshot shows.

mod fixtures;

use portcullis_config::{
    Config, Diagnostics, Loaded, Severity, diagnostic::code, load_file, load_str,
};
use std::{collections::BTreeSet, path::Path};

const FOLDER: &str = "../../tests/fixtures/valid";

fn load(name: &str) -> Loaded {
    match load_file(&Path::new(FOLDER).join(name), &fixtures::environment) {
        Ok(loaded) => loaded,
        Err(diagnostics) => panic!("{name} was refused:\n{diagnostics}"),
    }
}

fn load_text(text: &str) -> Result<Config, Diagnostics> {
    load_str(
        "test.kdl",
        text,
        Path::new("/etc/portcullis"),
        &fixtures::environment,
    )
    .map(|loaded| loaded.config)
}

#[test]
fn every_valid_file_means_what_its_snapshot_shows() {
    let mut wrong = Vec::new();
    for name in fixtures::files(FOLDER) {
        let loaded = load(&name);
        let shown = format!("{:#?}\n\n{}", loaded.config, loaded.warnings);
        let shown = fixtures::without_folder(FOLDER, &shown);
        if std::panic::catch_unwind(|| fixtures::assert_snapshot("valid", &name, &shown)).is_err() {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "not as their snapshots: {wrong:?}");
}

#[test]
fn every_kind_of_warning_has_a_fixture() {
    let mut seen = BTreeSet::new();
    for name in fixtures::files(FOLDER) {
        for warning in &load(&name).warnings {
            assert_eq!(warning.severity, Severity::Warning, "{name}");
            seen.insert(warning.code);
        }
    }
    let expected = [
        code::NO_ROUTES,
        code::UNUSED,
        code::FILE_ORDER,
        code::ASKED_TWICE,
        code::NEVER_ASKED,
        code::SHARED_VERDICTS,
        code::TRUSTS_EVERYBODY,
        code::PROXY_LOOP,
        code::UNVERIFIED,
    ];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn two_configurations_that_differ_in_layout_only_are_equal() {
    let text = std::fs::read_to_string(Path::new(FOLDER).join("everything.kdl")).unwrap();
    let moved = text.replace("\n", "\n// moved\n\n");
    assert_ne!(text, moved);
    assert_eq!(load_text(&text).unwrap(), load_text(&moved).unwrap());
    let changed = text.replace("worker-threads 4", "worker-threads 5");
    assert_ne!(load_text(&text).unwrap(), load_text(&changed).unwrap());
}

#[test]
fn line_ends_of_other_systems_change_nothing() {
    for name in fixtures::files(FOLDER) {
        let text = std::fs::read_to_string(Path::new(FOLDER).join(&name)).unwrap();
        if text.contains("include") {
            continue;
        }
        let unix = load_text(&text).unwrap();
        assert_eq!(
            load_text(&text.replace('\n', "\r\n")).unwrap(),
            unix,
            "{name}"
        );
        assert_eq!(
            load_text(&format!("\u{feff}{text}")).unwrap(),
            unix,
            "{name}"
        );
    }
}

#[test]
fn defaults_are_those_of_the_model() {
    let config = load_text(
        "schema-version \"1\"\nlisteners { listener \"l\" { address \"127.0.0.1:1\" } }\n\
         routes { route \"r\" { filters { agent \"a\" }; upstream \"u\" } }\n\
         upstreams { upstream \"u\" { target \"127.0.0.1:2\" } }\nagents { agent \"a\" { unix-socket \"/s\" } }\n",
    )
    .unwrap();
    assert_eq!(config.system, portcullis_config::System::default());
    assert_eq!(
        config.observability,
        portcullis_config::Observability::default()
    );
    assert_eq!(
        config.listeners[0].limits,
        portcullis_config::ListenerLimits::default()
    );
    assert_eq!(
        config.listeners[0].timeouts,
        portcullis_config::ListenerTimeouts::default()
    );
    assert_eq!(
        config.upstreams[0].timeouts,
        portcullis_config::UpstreamTimeouts::default()
    );
    assert_eq!(
        config.agents[0].timeout,
        std::time::Duration::from_millis(50)
    );
    assert_eq!(
        config.agents[0].failure_mode,
        portcullis_config::FailureMode::Closed
    );
    assert_eq!(
        config.agents[0].inspect,
        portcullis_config::Inspect::default()
    );
    assert_eq!((config.admin, config.probes), (None, None));
}

#[test]
fn ten_thousand_routes_load_without_a_warning() {
    let mut text = String::from(
        "schema-version \"1\"\nlisteners { listener \"l\" { address \"127.0.0.1:1\" } }\nroutes {\n",
    );
    for number in 0..10_000 {
        text += &format!(
            "    route \"r{number}\" {{ match {{ path-prefix \"/r{number}\" }}; upstream \"u\" }}\n"
        );
    }
    text += "}\nupstreams { upstream \"u\" { target \"127.0.0.1:2\" } }\n";
    let loaded = load_str("many.kdl", &text, Path::new(""), &|_| None).unwrap();
    assert_eq!(loaded.config.routes.len(), 10_000);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(
        loaded.config.routes[9_999].place.to_string(),
        "many.kdl:10003:5"
    );
}

#[test]
fn d22_two_thousand_mistakes_are_counted_and_the_first_hundred_drawn() {
    let mut text = String::from(
        "schema-version \"1\"\nlisteners { listener \"l\" { address \"127.0.0.1:1\" } }\nroutes {\n",
    );
    for number in 0..2_000 {
        text += &format!(
            "    route \"r{number}\" {{ match {{ path-prefix \"/r{number}\" }}; upstream \"u{number}\" }}\n"
        );
    }
    text += "}\n";
    let Err(diagnostics) = load_str("many.kdl", &text, Path::new(""), &|_| None) else {
        panic!("accepted")
    };
    assert_eq!(diagnostics.error_count(), 2_000);
    let lines = diagnostics
        .iter()
        .map(|found| diagnostics.place(found).line);
    assert!(lines.eq(4..1004));
    let drawn = diagnostics.to_string();
    for (text, is_there) in [
        ("many.kdl:4:", true),
        ("many.kdl:103:", true),
        ("many.kdl:104:", false),
        ("\n… and 1900 more\n", true),
    ] {
        assert_eq!(drawn.contains(text), is_there, "{text}");
    }
}
