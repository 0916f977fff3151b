//! Finding and reading the files of a configuration. The only place of this crate that touches the file system, and
//! only by reading; of regular files alone, and of so many that it ends soon whatever the texts say.

use crate::pattern;
use rustix::fs::OFlags;
use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};
use thiserror::Error;

/// Larger files are refused; ten thousand routes are about two megabytes.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes of a path; no system takes more.
const LONGEST_PATH: usize = 4096;
/// Names in folders that all patterns of a configuration look at.
const MOST_ENTRIES: usize = 10_000;
/// Files that are included.
const MOST_FILES: usize = 1_000;

/// Why the files of an `include` are not found.
#[derive(Debug, Error)]
pub(crate) enum FindError {
    #[error("this path is longer than {LONGEST_PATH} bytes")]
    TooLong,
    #[error("this pattern is not understood")]
    Pattern,
    #[error("cannot read `{}`: {error}", folder.display())]
    Unreadable { folder: PathBuf, error: io::Error },
    #[error("the patterns look at more than {MOST_ENTRIES} names in folders")]
    TooManyEntries,
    #[error("more than {MOST_FILES} files are included")]
    TooManyFiles,
}

/// Finds what an `include` means, and remembers what that has cost.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    entries: usize,
    files: usize,
}

impl Finder {
    /// The files, sorted by name. None is fine for a pattern.
    ///
    /// # Errors
    /// The pattern has parts that patterns do not have, a folder cannot be read, or it is too much.
    pub(crate) fn find(&mut self, folder: &Path, path: &str) -> Result<Vec<PathBuf>, FindError> {
        if path.len() > LONGEST_PATH {
            return Err(FindError::TooLong);
        }
        let found = if pattern::is_pattern(path) {
            self.fitting(folder, path)?
        } else {
            vec![folder.join(path)]
        };
        self.files += found.len();
        if self.files > MOST_FILES {
            return Err(FindError::TooManyFiles);
        }
        Ok(found)
    }

    fn fitting(&mut self, folder: &Path, path: &str) -> Result<Vec<PathBuf>, FindError> {
        if path.contains("**") || path.contains(['[', '{']) {
            return Err(FindError::Pattern);
        }
        let mut found = vec![folder.to_path_buf()];
        for component in Path::new(path).components() {
            let part = match component {
                Component::Normal(part) => part.to_string_lossy(),
                other => {
                    found.iter_mut().for_each(|folder| folder.push(other));
                    continue;
                }
            };
            if !pattern::is_pattern(&part) {
                found.iter_mut().for_each(|folder| folder.push(&*part));
                continue;
            }
            let mut next = Vec::new();
            for folder in &found {
                self.entries(folder, &part, &mut next)?;
            }
            found = next;
        }
        // Links to nowhere and folders are no files; what else is there is said to be no regular file.
        found.retain(|path| path.metadata().is_ok_and(|metadata| !metadata.is_dir()));
        found.sort();
        Ok(found)
    }

    fn entries(
        &mut self,
        folder: &Path,
        part: &str,
        found: &mut Vec<PathBuf>,
    ) -> Result<(), FindError> {
        let shown = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let unreadable = |error| FindError::Unreadable {
            folder: shown.to_path_buf(),
            error,
        };
        // A folder without names costs, too.
        self.count()?;
        let entries = match shown.read_dir() {
            Ok(entries) => entries,
            // The folder that a pattern looks into may be missing, like everything that the pattern means.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(unreadable(error)),
        };
        for entry in entries {
            self.count()?;
            let name = entry.map_err(unreadable)?.file_name();
            if let Some(name) = name.to_str()
                && pattern::fits(part, name)
            {
                found.push(folder.join(name));
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), FindError> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            return Err(FindError::TooManyEntries);
        }
        Ok(())
    }
}

/// All bytes of a regular file.
///
/// # Errors
/// It cannot be read, is too large, or is something else: reading a pipe or a device can take for ever, and opening
/// one can have effects.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    regular(&path.metadata()?)?;
    // It may have become something else since; without blocking, that does no harm.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    regular(&file.metadata()?)?;
    bytes(file)
}

fn bytes(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 64MiB",
        ));
    }
    Ok(bytes)
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let what = if kind.is_fifo() {
        "it is a pipe"
    } else if kind.is_socket() {
        "it is a socket"
    } else {
        "it is a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};
    use std::{fs, os::unix::net::UnixListener};

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        mkfifoat(CWD, path("fifo"), Mode::RUSR).unwrap();
        std::os::unix::fs::symlink(path("fifo"), path("link-to-fifo")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        assert_eq!(read(&path("file")).unwrap(), b"text");
        assert_eq!(read(&path("link")).unwrap(), b"text");
        for (path, expected) in [
            (path("fifo"), "it is a pipe"),
            (path("link-to-fifo"), "it is a pipe"),
            (path("socket"), "it is a socket"),
            (PathBuf::from("/dev/zero"), "it is a device"),
            (PathBuf::from("/dev/null"), "it is a device"),
        ] {
            let error = read(&path).unwrap_err();
            assert_eq!(error.to_string(), expected, "{}", path.display());
        }
        for (path, kind) in [
            (path(""), io::ErrorKind::IsADirectory),
            (path("none"), io::ErrorKind::NotFound),
        ] {
            assert_eq!(read(&path).unwrap_err().kind(), kind);
        }
        let mut finder = Finder::default();
        let found = finder.find(folder.path(), "*").unwrap();
        assert_eq!(
            found,
            ["fifo", "file", "link", "link-to-fifo", "socket"].map(path)
        );
    }

    #[test]
    fn a_pattern_that_means_everything_ends_soon() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..150 {
            fs::create_dir(folder.path().join(number.to_string())).unwrap();
            for file in 0..101 {
                fs::write(folder.path().join(format!("{number}/f{file}")), "").unwrap();
            }
        }
        for (pattern, error) in [
            (
                "*/f*",
                Some("the patterns look at more than 10000 names in folders"),
            ),
            ("[ab]*", Some("this pattern is not understood")),
            ("1?/f*", Some("more than 1000 files are included")),
            ("1*/f1", None),
            ("none/*/*", None),
            (&"*a".repeat(2048), None),
            (
                &"*".repeat(4097),
                Some("this path is longer than 4096 bytes"),
            ),
        ] {
            let result = Finder::default().find(folder.path(), pattern);
            let found = result.as_ref().err().map(ToString::to_string);
            assert_eq!(found.as_deref(), error, "{pattern}");
        }
        // The bounds are those of all includes together.
        let mut finder = Finder::default();
        let error = (0..MOST_ENTRIES).find_map(|_| finder.find(folder.path(), "none*").err());
        assert!(matches!(error, Some(FindError::TooManyEntries)));
        let mut finder = Finder::default();
        let error = (0..=MOST_FILES).find_map(|_| finder.find(folder.path(), "1").err());
        assert!(matches!(error, Some(FindError::TooManyFiles)));
    }
}
