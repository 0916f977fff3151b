use super::*;
use portcullis_config::Precompressed;
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
};
use tempfile::TempDir;

/// A folder with files, and things beside it that must not be seen.
struct Folder {
    outer: TempDir,
}

impl Folder {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("www");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir_all(root.join("empty")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::write(outer.path().join("secret.txt"), "secret").unwrap();
        fs::write(root.join("index.html"), "<p>start").unwrap();
        fs::write(root.join("sub/index.html"), "<p>sub").unwrap();
        fs::write(root.join("sub/a b.txt"), "0123456789").unwrap();
        fs::write(root.join(".git/config"), "hidden").unwrap();
        fs::write(root.join("app.js"), "plain").unwrap();
        fs::write(root.join("app.js.br"), "brotli").unwrap();
        fs::write(root.join("app.js.gz"), "gzipped").unwrap();
        Self { outer }
    }

    fn root(&self) -> std::path::PathBuf {
        self.outer.path().join("www")
    }

    fn files(&self, change: impl FnOnce(&mut StaticFiles)) -> Files {
        let mut settings = StaticFiles {
            root: self.root(),
            index: "index.html".to_owned(),
            fallback: None,
            precompressed: Vec::new(),
            dot_files: false,
        };
        change(&mut settings);
        Files::new(&settings, &Arc::new(FilePool::new().unwrap()))
    }
}

/// The status, and what is in the file as far as it was read ahead.
fn get(files: &Files, path: &str, lines: &[(&'static str, &str)]) -> Result<(u16, String), Missed> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let asked = Asked {
        conditions: Conditions::of(&headers, false),
        encodings: encoding::accepted(&headers, &files.encodings),
        is_head: false,
    };
    let place = Place::of(path, files.settings.dot_files).ok_or(Missed::Nothing)?;
    let found = files.find(&place, &asked)?;
    let text = found.first.clone().unwrap_or_default();
    let answer = found.into_answer(&files.pool).unwrap();
    let status = answer.head.status.as_u16();
    Ok((status, String::from_utf8(text.to_vec()).unwrap()))
}

fn text(files: &Files, path: &str) -> Result<String, Missed> {
    get(files, path, &[]).map(|(_, text)| text)
}

#[test]
fn files_are_found_below_the_folder() {
    let folder = Folder::new();
    let files = folder.files(|_| {});
    for (path, expected) in [
        ("/", Ok("<p>start")),
        ("/index.html", Ok("<p>start")),
        ("/sub/", Ok("<p>sub")),
        ("/sub", Err(Missed::Folder)),
        ("/sub/a%20b.txt", Ok("0123456789")),
        ("/index.html/", Err(Missed::Nothing)),
        ("/index.html/x", Err(Missed::Nothing)),
        ("/nothing", Err(Missed::Nothing)),
        ("/empty/", Err(Missed::Nothing)),
        ("/.git/config", Err(Missed::Nothing)),
        ("/sub%2Findex.html", Err(Missed::Nothing)),
    ] {
        assert_eq!(text(&files, path), expected.map(str::to_owned), "{path}");
    }
    let long = format!("/{}", "a".repeat(300));
    assert_eq!(text(&files, &long), Err(Missed::Nothing));
    let all = folder.files(|settings| settings.dot_files = true);
    assert_eq!(text(&all, "/.git/config").as_deref(), Ok("hidden"));
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let folder = Folder::new();
    let root = folder.root();
    symlink("../secret.txt", root.join("out.txt")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink(root.join("index.html"), root.join("absolute.html")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink("circle", root.join("circle")).unwrap();
    symlink("../../secret.txt", root.join("app.js.zst")).unwrap();
    symlink("../index.html", root.join("sub/inside.html")).unwrap();
    symlink("sub", root.join("other")).unwrap();
    let files = folder.files(|settings| {
        settings.fallback = Some("index.html".to_owned());
        settings.precompressed = vec![Precompressed::Zstd];
    });
    for path in [
        "/out.txt",
        "/up/secret.txt",
        "/up/",
        "/absolute.html",
        "/magic/etc/hostname",
        "/circle",
    ] {
        // Not even the fallback: whoever asks is told nothing, and the log is.
        assert_eq!(text(&files, path), Err(Missed::Refused), "{path}");
    }
    assert_eq!(text(&files, "/sub/inside.html").as_deref(), Ok("<p>start"));
    assert_eq!(text(&files, "/other/").as_deref(), Ok("<p>sub"));
    // What lies beside a file is followed no further.
    let zstd = get(&files, "/app.js", &[("accept-encoding", "zstd")]);
    assert_eq!(zstd, Ok((200, "plain".to_owned())));
    // The folder itself may be a link, and another one later.
    let link = folder.outer.path().join("current");
    symlink("www", &link).unwrap();
    let linked = folder.files(|settings| settings.root.clone_from(&link));
    assert_eq!(text(&linked, "/").as_deref(), Ok("<p>start"));
    fs::remove_file(&link).unwrap();
    symlink("www/sub", &link).unwrap();
    assert_eq!(text(&linked, "/").as_deref(), Ok("<p>sub"));
    fs::remove_file(&link).unwrap();
    assert_eq!(text(&linked, "/"), Err(Missed::Nothing));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let folder = Folder::new();
    let root = folder.root();
    let fifo = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), kind, fifo, 0).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    fs::create_dir(root.join("folder.html")).unwrap();
    let files = folder.files(|settings| settings.index = "folder.html".to_owned());
    // Nobody writes into it, and nobody waits for that.
    assert_eq!(text(&files, "/pipe"), Err(Missed::Refused));
    assert_eq!(text(&files, "/socket"), Err(Missed::Refused));
    assert_eq!(text(&files, "/"), Err(Missed::Nothing));
}

#[test]
fn a_fallback_answers_where_there_is_nothing() {
    let folder = Folder::new();
    let files = folder.files(|settings| settings.fallback = Some("sub/index.html".to_owned()));
    for path in ["/nothing", "/a/b/c", "/empty/", "/index.html/x"] {
        assert_eq!(text(&files, path).as_deref(), Ok("<p>sub"), "{path}");
    }
    assert_eq!(text(&files, "/").as_deref(), Ok("<p>start"));
    assert_eq!(text(&files, "/sub"), Err(Missed::Folder));
    fs::remove_file(folder.root().join("sub/index.html")).unwrap();
    assert_eq!(text(&files, "/nothing"), Err(Missed::Nothing));
}

#[test]
fn codings_lie_beside_the_file() {
    let folder = Folder::new();
    let files = folder.files(|settings| {
        settings.precompressed = vec![
            Precompressed::Zstd,
            Precompressed::Brotli,
            Precompressed::Gzip,
        ];
    });
    for (accepted, expected) in [
        ("", "plain"),
        ("gzip", "gzipped"),
        ("gzip, br, zstd", "brotli"),
        ("gzip, br;q=0.1", "gzipped"),
        ("deflate", "plain"),
    ] {
        let got = get(&files, "/app.js", &[("accept-encoding", accepted)]);
        assert_eq!(got, Ok((200, expected.to_owned())), "{accepted}");
    }
    // Without a file there is nothing to lie beside.
    fs::remove_file(folder.root().join("app.js")).unwrap();
    let got = get(&files, "/app.js", &[("accept-encoding", "br")]);
    assert_eq!(got, Err(Missed::Nothing));
}

#[test]
fn slices_are_those_that_are_asked_for() {
    let folder = Folder::new();
    let files = folder.files(|_| {});
    let path = "/sub/a%20b.txt";
    for (range, expected) in [
        ("bytes=2-4", (206, "234")),
        ("bytes=-3", (206, "789")),
        ("bytes=0-", (206, "0123456789")),
        ("bytes=10-", (416, "")),
        ("bytes=nonsense", (200, "0123456789")),
    ] {
        let (status, text) = get(&files, path, &[("range", range)]).unwrap();
        assert_eq!((status, text.as_str()), expected, "{range}");
    }
}

#[test]
fn a_tag_is_weak_while_the_file_may_still_change() {
    let folder = Folder::new();
    let path = folder.root().join("index.html");
    let tag = |path: &Path, ago: Duration| {
        let file = fs::File::options().write(true).open(path).unwrap();
        let now = SystemTime::now();
        file.set_modified(now - ago).unwrap();
        let files = folder.files(|_| {});
        let place = Place::of("/", false).unwrap();
        let opened = lookup::open(&files.settings, &place, &[]).unwrap();
        let tag = Validators::new(&opened, now).etag_value();
        tag.to_str().unwrap().to_owned()
    };
    assert!(tag(&path, Duration::ZERO).starts_with("W/\""));
    let settled = tag(&path, Duration::from_secs(10));
    assert!(settled.starts_with('"'), "{settled}");
    assert_ne!(tag(&path, Duration::from_secs(20)), settled);
}
