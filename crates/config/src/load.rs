//! Files into a configuration. What is read, and how, is up to `files`.

use crate::{
    check,
    diagnostic::{Diagnostic, Diagnostics, Report, code},
    files::{FindError, Finder, read},
    kdl::{self, Context, Parsed, Role},
    model::Config,
    resolve,
    source::{Sources, Span, Spanned},
    syntax,
};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files that include the next, below the main file.
const DEEPEST: usize = 16;

/// A configuration that can be used, and what is odd about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What to do.
    pub config: Config,
    /// What probably is not meant.
    pub warnings: Diagnostics,
}

/// Reads a file and all that it includes.
///
/// `environment` is asked for `${NAME}`; usually it is `&|name| std::env::var(name).ok()`.
///
/// # Errors
/// Everything that is wrong, with its places. A file that cannot be read is one of these things.
pub fn load_file(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Diagnostics> {
    let report = Report::default();
    let mut loader = Loader::new(environment, &report);
    let mut parsed = Parsed::default();
    match read(path) {
        Ok(bytes) => loader.main(path, bytes, &mut parsed),
        Err(error) => {
            let source = loader
                .sources
                .add(Arc::from(path.to_string_lossy()), Arc::from(""));
            report.add(unreadable(Span::new(source, 0..0), path, &error));
            loader.incomplete = true;
        }
    }
    finish(loader, parsed)
}

/// Reads a text as if it were the file `name` in the folder `folder`, which relative paths start from.
///
/// # Errors
/// Everything that is wrong, with its places.
pub fn load_str(
    name: &str,
    text: &str,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Diagnostics> {
    let report = Report::default();
    let mut loader = Loader::new(environment, &report);
    let mut parsed = Parsed::default();
    loader.text(
        Arc::from(name),
        Arc::from(text),
        folder,
        Role::Main,
        &mut parsed,
    );
    finish(loader, parsed)
}

fn finish(loader: Loader<'_>, parsed: Parsed) -> Result<Loaded, Diagnostics> {
    let Loader {
        report,
        sources,
        incomplete,
        ..
    } = loader;
    // With a part of the text unread, every name in it would look undefined.
    if !incomplete {
        check::check(&parsed, report);
    }
    if incomplete || report.has_errors() {
        return Err(report.finish(sources));
    }
    match resolve::resolve(parsed, &sources) {
        Some(config) => Ok(Loaded {
            config,
            warnings: report.finish(sources),
        }),
        None => {
            report.add(
                Diagnostic::error(
                    code::INTERNAL,
                    Span::new(0, 0..0),
                    "this configuration passed all checks and has holes",
                )
                .help("this is a mistake of the program: please report it with this file"),
            );
            Err(report.finish(sources))
        }
    }
}

struct Loader<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    report: &'a Report,
    sources: Sources,
    /// Files that are being read, outermost first, and where the next was included.
    open: Vec<PathBuf>,
    /// Files that were read, and where they were included. None: the main file.
    seen: HashMap<PathBuf, Option<Span>>,
    finder: Finder,
    /// Part of the text could not be read.
    incomplete: bool,
}

impl<'a> Loader<'a> {
    fn new(environment: &'a dyn Fn(&str) -> Option<String>, report: &'a Report) -> Self {
        Self {
            environment,
            report,
            sources: Sources::default(),
            open: Vec::new(),
            seen: HashMap::new(),
            finder: Finder::default(),
            incomplete: false,
        }
    }

    fn main(&mut self, path: &Path, bytes: Vec<u8>, parsed: &mut Parsed) {
        let identity = identity(path);
        self.seen.insert(identity.clone(), None);
        self.open.push(identity);
        self.bytes(path, bytes, Role::Main, parsed);
    }

    fn bytes(&mut self, path: &Path, bytes: Vec<u8>, role: Role, parsed: &mut Parsed) {
        let name: Arc<str> = Arc::from(path.to_string_lossy());
        let folder = path.parent().unwrap_or(Path::new(""));
        match String::from_utf8(bytes) {
            Ok(text) => self.text(name, Arc::from(text), folder, role, parsed),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let source = self.sources.add(name, Arc::from(text));
                self.incomplete = true;
                self.report.add(
                    Diagnostic::error(
                        code::ENCODING,
                        Span::new(source, at..at + char::REPLACEMENT_CHARACTER.len_utf8()),
                        "this file is not UTF-8",
                    )
                    .label("the first wrong byte")
                    .help("save it as UTF-8"),
                );
            }
        }
    }

    fn text(
        &mut self,
        name: Arc<str>,
        text: Arc<str>,
        folder: &Path,
        role: Role,
        parsed: &mut Parsed,
    ) {
        let source = self.sources.add(name, text.clone());
        let (pieces, mut complete) = syntax::pieces(source, &text, &kdl::LISTS, self.report);
        let mut file = kdl::File::default();
        for piece in pieces {
            if self.report.is_hopeless() {
                self.report.not_all_read();
                complete = false;
                break;
            }
            let Some(document) = syntax::parse(source, &text, &piece, self.report) else {
                complete = false;
                continue;
            };
            let context = Context {
                source,
                offset: piece.range.start,
                folder,
                environment: self.environment,
                report: self.report,
            };
            let list = piece.list.map(|name| Spanned {
                value: &text[name.clone()],
                span: Span::new(source, name),
            });
            file.read(&context, &document, list, parsed, &mut |parsed, path| {
                self.include(folder, &path, parsed)
            });
        }
        if complete {
            file.finish(source, role, self.report);
        } else {
            self.incomplete = true;
        }
    }

    fn include(&mut self, folder: &Path, path: &Spanned<String>, parsed: &mut Parsed) {
        if self.open.len() > DEEPEST {
            return self.refuse(
                Diagnostic::error(code::FILE, path.span, "files include each other too deeply")
                    .label("is not read")
                    .help(format!("{DEEPEST} levels are the most")),
            );
        }
        let files = match self.finder.find(folder, &path.value) {
            Ok(files) => files,
            Err(error) => return self.refuse(not_found(path.span, &error)),
        };
        for file in files {
            let identity = identity(&file);
            if self.open.contains(&identity) {
                self.report.add(
                    Diagnostic::error(
                        code::INCLUDE_LOOP,
                        path.span,
                        format!("`{}` includes itself", file.display()),
                    )
                    .label("here, directly or through others")
                    .help("remove this line, or make the pattern narrower"),
                );
                continue;
            }
            if let Some(first) = self.seen.get(&identity).copied().flatten() {
                self.report.add(
                    Diagnostic::error(
                        code::INCLUDED_TWICE,
                        path.span,
                        format!("`{}` is included already", file.display()),
                    )
                    .label("the second time")
                    .also(first, "the first time")
                    .help("remove one of them, or make the pattern narrower"),
                );
                continue;
            }
            match read(&file) {
                Ok(bytes) => {
                    self.seen.insert(identity.clone(), Some(path.span));
                    self.open.push(identity);
                    self.bytes(&file, bytes, Role::Included, parsed);
                    self.open.pop();
                }
                Err(error) => self.refuse(unreadable(path.span, &file, &error)),
            }
        }
    }

    /// Says why a part of the text is not read.
    fn refuse(&mut self, diagnostic: Diagnostic) {
        self.incomplete = true;
        self.report.add(diagnostic);
    }
}

/// What a file is called, whatever the way to it.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

fn not_found(span: Span, error: &FindError) -> Diagnostic {
    match error {
        FindError::Unreadable { folder, error } => unreadable(span, folder, error),
        FindError::Pattern => Diagnostic::error(code::INVALID_VALUE, span, error.to_string())
            .help("there are `*` and `?`, each within one part of the path"),
        FindError::TooLong => Diagnostic::error(code::INVALID_VALUE, span, error.to_string())
            .help("give the path of a file, or a pattern such as \"conf.d/*.kdl\""),
        FindError::TooManyEntries | FindError::TooManyFiles => {
            Diagnostic::error(code::FILE, span, error.to_string())
                .label("is not read")
                .help("make patterns narrower, or put more into one file")
        }
    }
}

fn unreadable(span: Span, path: &Path, error: &io::Error) -> Diagnostic {
    let help = match error.kind() {
        io::ErrorKind::NotFound => {
            "check the path; a relative one starts from the folder of the file it is written in"
        }
        io::ErrorKind::PermissionDenied => {
            "give the user that runs this program the right to read it"
        }
        _ => "check that it is a regular file that can be read",
    };
    // The system's words without its number, which differs between systems.
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    };
    Diagnostic::error(
        code::FILE,
        span,
        format!("cannot read `{}`: {reason}", path.display()),
    )
    .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HEAD: &str =
        "schema-version \"1\"\nlisteners { listener \"l\" { address \"127.0.0.1:1\" } }\n";

    /// Writes files into a new folder.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn routes(folder: &tempfile::TempDir) -> Result<Vec<String>, Diagnostics> {
        let loaded = load_file(&folder.path().join("main.kdl"), &|_| None)?;
        Ok(loaded
            .config
            .routes
            .iter()
            .map(|route| route.id.to_string())
            .collect())
    }

    fn route(name: &str) -> String {
        format!("routes {{ route \"{name}\" {{ match {{ path \"/{name}\" }}; respond 200 }} }}\n")
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_with_its_name() {
        let folder = folder(&[]);
        for (path, reason) in [
            ("main.kdl", "there is no such file"),
            ("", "it is a folder"),
        ] {
            let Err(diagnostics) = load_file(&folder.path().join(path), &|_| None) else {
                panic!("accepted")
            };
            let found: Vec<_> = diagnostics.iter().collect();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].code, code::FILE);
            assert!(found[0].message.contains(reason), "{}", found[0].message);
            assert_eq!(
                (
                    diagnostics.place(found[0]).line,
                    diagnostics.place(found[0]).column
                ),
                (1, 1)
            );
        }
    }

    #[test]
    fn patterns_may_be_in_every_part_of_a_path() {
        let main = format!("{HEAD}include \"conf.d/*/r?.kdl\"\n{}", route("last"));
        let folder = folder(&[
            ("main.kdl", &main),
            ("conf.d/b/r1.kdl", &route("b1")),
            ("conf.d/a/r2.kdl", &route("a2")),
            ("conf.d/a/r1.kdl", &route("a1")),
            ("conf.d/a/r10.kdl", "not read"),
            ("conf.d/.c/r1.kdl", "not read"),
            ("conf.d/r1.kdl", "not read"),
        ]);
        assert_eq!(routes(&folder).unwrap(), ["a1", "a2", "b1", "last"]);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = folder(&[(
            "main.kdl",
            &format!("{HEAD}include \"fifo\"\ninclude \"*fo\""),
        )]);
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        for (main, count) in [("main.kdl", 2), ("fifo", 1)] {
            let Err(diagnostics) = load_file(&folder.path().join(main), &|_| None) else {
                panic!("accepted")
            };
            assert_eq!(diagnostics.len(), count);
            for found in &diagnostics {
                assert_eq!(found.code, code::FILE);
                assert!(found.message.ends_with("it is a pipe"), "{}", found.message);
            }
        }
    }

    #[test]
    fn includes_are_bounded() {
        let chain: Vec<(String, String)> = (0..=DEEPEST)
            .map(|number| {
                let next = format!("include \"{}.kdl\"\n", number + 1);
                (format!("{number}.kdl"), next)
            })
            .collect();
        let mut files: Vec<(&str, &str)> = chain
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let deep = format!("{HEAD}include \"0.kdl\"\n");
        let many = HEAD.to_owned() + &"include \"none.kdl\"\n".repeat(990) + "include \"*.kdl\"";
        files.extend([("deep.kdl", deep.as_str()), ("many.kdl", many.as_str())]);
        let folder = folder(&files);
        for (main, message, line) in [
            ("deep.kdl", "files include each other too deeply", 1),
            ("many.kdl", "more than 1000 files are included", 993),
        ] {
            let Err(diagnostics) = load_file(&folder.path().join(main), &|_| None) else {
                panic!("accepted")
            };
            let found = diagnostics.iter().find(|found| found.message == message);
            let place = found.map(|found| diagnostics.place(found).line);
            assert_eq!(place, Some(line), "{diagnostics}");
        }
    }

    #[test]
    fn a_link_does_not_hide_a_loop() {
        let folder = folder(&[("main.kdl", &format!("{HEAD}include \"link.kdl\"\n"))]);
        std::os::unix::fs::symlink(
            folder.path().join("main.kdl"),
            folder.path().join("link.kdl"),
        )
        .unwrap();
        let Err(diagnostics) = routes(&folder) else {
            panic!("accepted")
        };
        assert_eq!(diagnostics.iter().next().unwrap().code, code::INCLUDE_LOOP);
    }

    #[test]
    fn absolute_includes_and_paths_stay_as_they_are() {
        let other = folder(&[("other.kdl", &route("other"))]);
        let path = other.path().join("other.kdl");
        let folder = folder(&[(
            "main.kdl",
            &format!("{HEAD}include \"{}\"\n", path.display()),
        )]);
        assert_eq!(routes(&folder).unwrap(), ["other"]);
    }

    #[test]
    fn a_mistake_in_the_shape_of_one_route_hides_none_in_another() {
        let text = format!(
            "{HEAD}routes {{\n  route \"a\" {{ respond 200 /x }}\n  route \"b\" {{ respond \"x\" }}\n  \
             route \"c\" {{ respond 200 \"\"\"\n   x \\\n  y\n    \"\"\" }}\n}}\n"
        );
        let Err(diagnostics) = load_str("a.kdl", &text, Path::new(""), &|_| None) else {
            panic!("accepted")
        };
        let found: Vec<_> = diagnostics
            .iter()
            .map(|found| (found.code, diagnostics.place(found).line))
            .collect();
        assert_eq!(
            found,
            [(code::SYNTAX, 4), (code::WRONG_TYPE, 5), (code::SYNTAX, 6)],
            "{diagnostics}"
        );
    }
}
