//! Whatever is done to a configuration: the loader does not panic, and every error says where it is.

use portcullis_config::{load_file, load_str};
use proptest::{prelude::*, sample::Index, test_runner::RngSeed};
use std::{io::Write, path::Path, sync::LazyLock};

const FOLDERS: [&str; 2] = ["../../tests/fixtures/valid", "../../tests/fixtures/invalid"];

/// The bytes of every fixture, right and wrong.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut paths: Vec<_> = FOLDERS
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).expect("the folder is part of the repository"))
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "kdl"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("fixtures can be read"))
        .collect()
});

/// What people and broken disks do to files.
#[derive(Debug, Clone)]
enum Mutation {
    FlipByte(Index, u8),
    DeleteLine(Index),
    DuplicateLine(Index),
    SwapLines(Index, Index),
    SwapTokens(Index, Index),
    DeleteToken(Index),
    DuplicateToken(Index),
    Insert(Index, String),
    Cut(Index),
    TakeLineOfAnother(Index, Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let snippet = prop_oneof![
        Just("\"".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("/-".to_owned()),
        Just("/*".to_owned()),
        Just("*/".to_owned()),
        Just("\\".to_owned()),
        Just("#\"".to_owned()),
        Just("\"\"\"".to_owned()),
        Just(";".to_owned()),
        Just("=".to_owned()),
        Just("(".to_owned()),
        Just("#true".to_owned()),
        Just("${X}".to_owned()),
        Just("{client.ip}".to_owned()),
        Just("\r".to_owned()),
        Just("\u{2028}".to_owned()),
        Just("\u{e4}".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::FlipByte(at, byte)),
        any::<Index>().prop_map(Mutation::DeleteLine),
        any::<Index>().prop_map(Mutation::DuplicateLine),
        (any::<Index>(), any::<Index>()).prop_map(|(one, two)| Mutation::SwapLines(one, two)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, two)| Mutation::SwapTokens(one, two)),
        any::<Index>().prop_map(Mutation::DeleteToken),
        any::<Index>().prop_map(Mutation::DuplicateToken),
        (any::<Index>(), snippet).prop_map(|(at, text)| Mutation::Insert(at, text)),
        any::<Index>().prop_map(Mutation::Cut),
        (any::<Index>(), any::<Index>(), any::<Index>())
            .prop_map(|(file, from, to)| Mutation::TakeLineOfAnother(file, from, to)),
    ]
}

impl Mutation {
    fn apply(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::FlipByte(at, byte) => {
                let mut bytes = bytes;
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                bytes
            }
            Self::Insert(at, text) => {
                let mut bytes = bytes;
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, text.bytes());
                bytes
            }
            Self::Cut(at) => bytes[..at.index(bytes.len() + 1)].to_vec(),
            Self::DeleteLine(at) => in_parts(&bytes, b"\n", |lines| {
                drop(lines.remove(at.index(lines.len())))
            }),
            Self::DuplicateLine(at) => in_parts(&bytes, b"\n", |lines| {
                let at = at.index(lines.len());
                lines.insert(at, lines[at].clone());
            }),
            Self::SwapLines(one, two) => in_parts(&bytes, b"\n", |lines| swap(lines, one, two)),
            Self::SwapTokens(one, two) => in_parts(&bytes, b" ", |tokens| swap(tokens, one, two)),
            Self::DeleteToken(at) => in_parts(&bytes, b" ", |tokens| {
                drop(tokens.remove(at.index(tokens.len())))
            }),
            Self::DuplicateToken(at) => in_parts(&bytes, b" ", |tokens| {
                let at = at.index(tokens.len());
                tokens.insert(at, tokens[at].clone());
            }),
            Self::TakeLineOfAnother(file, from, to) => {
                let other: Vec<&[u8]> = SEEDS[file.index(SEEDS.len())]
                    .split(|byte| *byte == b'\n')
                    .collect();
                let line = other[from.index(other.len())].to_vec();
                in_parts(&bytes, b"\n", |lines| {
                    lines.insert(to.index(lines.len()), line.clone())
                })
            }
        }
    }
}

fn swap(parts: &mut [Vec<u8>], one: &Index, two: &Index) {
    let count = parts.len();
    parts.swap(one.index(count), two.index(count));
}

fn in_parts(bytes: &[u8], separator: &[u8; 1], change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = bytes
        .split(|byte| *byte == separator[0])
        .map(<[u8]>::to_vec)
        .collect();
    change(&mut parts);
    parts.join(&separator[..])
}

fn check(path: &Path) -> Result<(), TestCaseError> {
    let Err(diagnostics) = load_file(path, &|_| None) else {
        return Ok(());
    };
    prop_assert!(diagnostics.error_count() > 0);
    let printed = diagnostics.to_string();
    for diagnostic in &diagnostics {
        let place = diagnostics.place(diagnostic);
        prop_assert!(place.line >= 1 && place.column >= 1);
        prop_assert!(place.file.ends_with(".kdl"), "{place}");
        prop_assert!(
            diagnostic.help.is_some(),
            "no remedy: {}",
            diagnostic.message
        );
        prop_assert!(
            printed.contains(&place.to_string()),
            "{place} is not shown in:\n{printed}"
        );
        prop_assert_ne!(diagnostic.code.as_str(), "internal");
    }
    Ok(())
}

/// Enough to find what is easy to find, in a second. For more there is `PROPTEST_CASES=20000`.
const CASES: u32 = 400;

fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted.and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(),
        failure_persistence: None,
        // The same files in every run: a failure must not depend on luck.
        rng_seed: RngSeed::Fixed(26), ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_are_loaded_or_refused_with_a_place(
        seed in any::<Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let seed = SEEDS[seed.index(SEEDS.len())].clone();
        let bytes = mutations.iter().fold(seed, |bytes, mutation| mutation.apply(bytes));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutated.kdl");
        std::fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
        check(&path)?;
    }

    #[test]
    fn any_text_is_loaded_or_refused_with_a_place(text in "[ -~\n{}\"#/*\\\\;=()\u{e4}]{0,200}") {
        if let Err(diagnostics) = load_str("any.kdl", &text, Path::new("/nonexistent"), &|_| None) {
            for diagnostic in &diagnostics {
                prop_assert!(diagnostics.place(diagnostic).line >= 1);
            }
            prop_assert!(!diagnostics.to_string().is_empty());
        }
    }
}
