//! Every file in `tests/fixtures/invalid` says exactly what its snapshot shows.
//!
//! After a change of a message: `INSTA_UPDATE=always cargo test -p portcullis-config`, and read the difference.

mod fixtures;

use portcullis_config::{Diagnostic, Severity, Style, diagnostic::code, load_file};
use std::{collections::BTreeSet, path::Path};

const FOLDER: &str = "../../tests/fixtures/invalid";

#[test]
fn every_invalid_file_prints_what_its_snapshot_shows() {
    let files = fixtures::files(FOLDER);
    assert!(files.len() >= 45, "{} files", files.len());
    let mut wrong = Vec::new();
    for name in files {
        let printed = fixtures::without_folder(FOLDER, &printed(&name));
        if std::panic::catch_unwind(|| fixtures::assert_snapshot("invalid", &name, &printed))
            .is_err()
        {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "not as their snapshots: {wrong:?}");
}

fn printed(name: &str) -> String {
    match load_file(&Path::new(FOLDER).join(name), &fixtures::environment) {
        Ok(loaded) => panic!("{name} was accepted: {:#?}", loaded.config),
        Err(diagnostics) => diagnostics.render(Style::Plain),
    }
}

#[test]
fn every_error_has_a_place_and_a_remedy() {
    for name in fixtures::files(FOLDER) {
        let Err(diagnostics) = load_file(&Path::new(FOLDER).join(&name), &fixtures::environment)
        else {
            panic!("{name} was accepted");
        };
        assert!(diagnostics.error_count() > 0, "{name} has warnings only");
        for diagnostic in &diagnostics {
            let place = diagnostics.place(diagnostic);
            assert!(
                place.file.ends_with(".kdl") && place.line >= 1 && place.column >= 1,
                "{name}: {place}"
            );
            assert!(
                diagnostic.help.is_some(),
                "{name}: no remedy for: {}",
                diagnostic.message
            );
            assert_ne!(diagnostic.code, code::INTERNAL, "{name}");
        }
    }
}

#[test]
fn d22_a_file_with_many_mistakes_shows_all_of_them_in_one_run() {
    let Err(diagnostics) = load_file(&Path::new(FOLDER).join("many.kdl"), &fixtures::environment)
    else {
        panic!("accepted");
    };
    let codes: BTreeSet<&str> = diagnostics
        .iter()
        .map(|found| found.code.as_str())
        .collect();
    for expected in [
        code::WRONG_TYPE,
        code::WRONG_UNIT,
        code::INVALID_VALUE,
        code::UNKNOWN_NODE,
        code::MISSING,
        code::OUT_OF_RANGE,
        code::DUPLICATE_ID,
        code::ADDRESS_IN_USE,
        code::INVALID_REGEX,
        code::DANGLING_REFERENCE,
        code::PROTECTED_HEADER,
        code::TWO_ACTIONS,
        code::NO_ACTION,
        code::UNKNOWN_PROPERTY,
        code::UNSET_VARIABLE,
    ] {
        assert!(
            codes.contains(expected.as_str()),
            "{expected} is not reported: {diagnostics}"
        );
    }
}

#[test]
fn every_kind_of_error_has_a_fixture() {
    let mut seen = BTreeSet::new();
    for name in fixtures::files(FOLDER) {
        if let Err(diagnostics) = load_file(&Path::new(FOLDER).join(&name), &fixtures::environment)
        {
            seen.extend(
                diagnostics
                    .iter()
                    .filter(|found| is_error(found))
                    .map(|found| found.code),
            );
        }
    }
    let warnings = [
        code::NO_ROUTES,
        code::UNUSED,
        code::FILE_ORDER,
        code::ASKED_TWICE,
        code::NEVER_ASKED,
        code::SHARED_VERDICTS,
        code::PASSED_BY,
        code::TRUSTS_EVERYBODY,
        code::UNVERIFIED,
        code::PROXY_LOOP,
        code::INTERNAL,
    ];
    let missing: Vec<_> = code::ALL
        .iter()
        .filter(|code| !seen.contains(code) && !warnings.contains(code))
        .collect();
    assert!(missing.is_empty(), "no fixture shows {missing:?}");
}

fn is_error(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == Severity::Error
}
