//! What the lines of the access log are written to.

use portcullis_config::LogSink;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A sink that can be written to, with its settings; or none.
pub(crate) struct Sink(Option<(Target, portcullis_config::AccessLog)>);

pub(super) enum Target {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File(PathBuf, File),
}

impl Sink {
    /// Opens what the settings name; without settings there is no sink.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub(crate) fn open(settings: Option<&portcullis_config::AccessLog>) -> io::Result<Self> {
        let Some(settings) = settings else {
            return Ok(Self(None));
        };
        let target = match &settings.sink {
            LogSink::Stdout => Target::Stdout(io::stdout()),
            LogSink::Stderr => Target::Stderr(io::stderr()),
            LogSink::File(path) => Target::File(path.clone(), open_file(path)?),
        };
        Ok(Self(Some((target, settings.clone()))))
    }

    pub(super) fn into_target(self) -> Option<(Target, portcullis_config::AccessLog)> {
        self.0
    }
}

impl Target {
    /// Opens the file again. When that fails, the old one goes on.
    pub(super) fn reopen(&mut self) {
        let Self::File(path, file) = self else {
            return;
        };
        match open_file(path) {
            Ok(new) => *file = new,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "access log cannot be opened again, the old file goes on");
            }
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let is_pipe = std::fs::metadata(path).is_ok_and(|known| known.file_type().is_fifo());
    if !is_pipe {
        return OpenOptions::new().append(true).create(true).open(path);
    }
    // Opened for reading as well, so that neither this nor a write waits for a reader.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nonblock)
        .open(path)
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Stderr(stderr) => stderr.write(bytes),
            Self::File(_, file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::Stderr(stderr) => stderr.flush(),
            Self::File(_, file) => file.flush(),
        }
    }
}
