//! From a path of a request to a file that is open. Everything here blocks.

use super::encoding::Encoding;
use percent_encoding::percent_decode_str;
use portcullis_config::StaticFiles;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FileType, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};
use std::{fs::File, path::Path, time::SystemTime};

/// Where in a folder something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Names with slashes between them; empty: the folder itself.
    path: String,
    /// A folder is asked for.
    is_folder: bool,
}

/// A file that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) length: u64,
    pub(super) modified: Option<SystemTime>,
    pub(super) content_type: String,
    pub(super) encoding: Option<Encoding>,
}

/// Why there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    /// There is none of this name.
    Nothing,
    /// It is a folder, and its path lacks the slash at the end.
    Folder,
    /// It leads out of the folder, is not ours to read, or is no file.
    Refused,
    /// The system says no for another reason.
    Failed,
}

impl Place {
    /// That of a path in its normal form; `None` where nothing can be.
    pub(super) fn of(path: &str, dot_files: bool) -> Option<Self> {
        let mut names = String::with_capacity(path.len());
        let mut parts = path.strip_prefix('/')?.split('/').peekable();
        let mut is_folder = false;
        while let Some(part) = parts.next() {
            if part.is_empty() {
                // Behind the last slash; two in a row name nothing.
                if parts.peek().is_some() {
                    return None;
                }
                is_folder = true;
                break;
            }
            let name = percent_decode_str(part).decode_utf8().ok()?;
            // Those with a meaning of their own cannot come out of a path in its normal form, and are no names in any case.
            if name.contains(['/', '\0']) || name == "." || name == ".." {
                return None;
            }
            // RFC 8615: meant for everybody.
            let is_well_known = names.is_empty() && name == ".well-known";
            if name.starts_with('.') && !dot_files && !is_well_known {
                return None;
            }
            if !names.is_empty() {
                names.push('/');
            }
            names.push_str(&name);
        }
        Some(Self {
            path: names,
            is_folder,
        })
    }

    /// That of a file of the configuration.
    pub(super) fn fixed(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            is_folder: false,
        }
    }
}

/// Opens what is at a place, in the first of these codings in which it is there.
pub(super) fn open(
    settings: &StaticFiles,
    place: &Place,
    encodings: &[Encoding],
) -> Result<Opened, Missed> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // By its name each time: a deployment may put another folder there.
    let root = rustix::fs::open(&settings.root, flags, Mode::empty()).map_err(missed)?;
    let root = root.as_fd();
    let path = if place.path.is_empty() {
        "."
    } else {
        &place.path
    };
    let (file, kind) = beneath(root, path)?;
    match (kind, place.is_folder) {
        (FileType::RegularFile, false) => opened(root, file, &place.path, encodings),
        (FileType::RegularFile, true) => Err(Missed::Nothing),
        (FileType::Directory, false) if !place.path.is_empty() => Err(Missed::Folder),
        (FileType::Directory, _) => {
            let index = Path::new(&place.path).join(&settings.index);
            // It was put together from texts.
            let index = index.to_str().ok_or(Missed::Nothing)?;
            match beneath(root, index)? {
                (file, FileType::RegularFile) => opened(root, file, index, encodings),
                _ => Err(Missed::Nothing),
            }
        }
        _ => Err(Missed::Refused),
    }
}

/// The file, or what lies beside it in a coding that the client takes.
fn opened(
    root: BorrowedFd<'_>,
    file: OwnedFd,
    path: &str,
    encodings: &[Encoding],
) -> Result<Opened, Missed> {
    let content_type = content_type(path);
    for encoding in encodings {
        let sibling = format!("{path}{}", encoding.suffix);
        if let Ok((file, FileType::RegularFile)) = beneath(root, &sibling) {
            return described(file, content_type, Some(*encoding));
        }
    }
    described(file, content_type, None)
}

fn described(
    file: OwnedFd,
    content_type: String,
    encoding: Option<Encoding>,
) -> Result<Opened, Missed> {
    let file = File::from(file);
    let metadata = file.metadata().map_err(|_| Missed::Failed)?;
    Ok(Opened {
        length: metadata.len(),
        modified: metadata.modified().ok(),
        file,
        content_type,
        encoding,
    })
}

/// Opens something below the folder without ever leaving it, wherever symbolic links lead, and says what it is.
fn beneath(root: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, FileType), Missed> {
    // A pipe without a writer must not be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(root, path, flags, Mode::empty(), resolve) {
        // Someone has renamed something at the same time.
        Err(Errno::AGAIN) => openat2(root, path, flags, Mode::empty(), resolve),
        // Kernels before 5.6, and sandboxes that do not know it.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(root, path, flags),
        opened => opened,
    };
    let file = opened.map_err(missed)?;
    let kind = rustix::fs::fstat(&file).map_err(missed)?.st_mode;
    Ok((file, FileType::from_raw_mode(kind)))
}

/// The same where the kernel cannot do it: no symbolic links at all.
fn step_by_step(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let Some((folders, name)) = path.rsplit_once('/') else {
        return openat(root, path, flags | OFlags::NOFOLLOW, Mode::empty());
    };
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut folder: Option<OwnedFd> = None;
    for part in folders.split('/') {
        let from = folder.as_ref().map_or(root, AsFd::as_fd);
        folder = Some(openat(from, part, step, Mode::empty())?);
    }
    let from = folder.as_ref().map_or(root, AsFd::as_fd);
    openat(from, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

const fn missed(error: Errno) -> Missed {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => Missed::Nothing,
        // Where a link leads out it says `XDEV`, where links go in circles `LOOP`, and a socket cannot be opened.
        Errno::XDEV | Errno::LOOP | Errno::ACCESS | Errno::PERM | Errno::NXIO => Missed::Refused,
        _ => Missed::Failed,
    }
}

/// By the end of the name; texts are in UTF-8 as those of nearly everybody.
fn content_type(path: &str) -> String {
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    if kind.type_() == mime_guess::mime::TEXT && kind.get_param("charset").is_none() {
        return format!("{kind}; charset=utf-8");
    }
    kind.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_names_below_the_folder() {
        for (path, expected) in [
            ("/", Some(("", true))),
            ("/a", Some(("a", false))),
            ("/a/", Some(("a", true))),
            ("/a/b.html", Some(("a/b.html", false))),
            ("/a%20b", Some(("a b", false))),
            ("/%C3%A4", Some(("ä", false))),
            ("/...", None),
            ("/.git/config", None),
            ("/a/.htaccess", None),
            (
                "/.well-known/security.txt",
                Some((".well-known/security.txt", false)),
            ),
            ("/a/.well-known/x", None),
            ("/.well-known/.hidden/x", None),
            ("/.well-known/.well-known", None),
            ("/a//b", None),
            ("//", None),
            ("/a%2Fb", None),
            ("/%FF", None),
            ("a", None),
        ] {
            let expected = expected.map(|(path, is_folder)| Place {
                path: path.to_owned(),
                is_folder,
            });
            assert_eq!(Place::of(path, false), expected, "{path}");
        }
        assert!(Place::of("/.git/config", true).is_some());
        assert_eq!(Place::of("/..", true), None);
        assert_eq!(Place::of("/a/./b", true), None);
    }

    #[test]
    fn types_follow_from_names() {
        for (name, kind) in [
            ("a/index.html", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.PNG", "image/png"),
            ("a.wasm", "application/wasm"),
            ("a.woff2", "font/woff2"),
            ("a.b.tar.gz", "application/gzip"),
            ("LICENSE", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), kind, "{name}");
        }
    }
}
