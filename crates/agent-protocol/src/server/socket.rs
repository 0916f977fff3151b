//! The socket that an agent listens on.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The variable in which a proxy that starts an agent gives it its socket.
pub const SOCKET_VARIABLE: &str = "PORTCULLIS_AGENT_SOCKET";

/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// The path that the environment gives; `None` when it gives none.
#[must_use]
pub fn socket_from_env() -> Option<PathBuf> {
    let path = std::env::var_os(SOCKET_VARIABLE)?;
    (!path.is_empty()).then(|| path.into())
}

/// Listens at this path, with mode 0660. A socket that a dead process left
/// there is replaced. The directory has to exist. To be called on a tokio
/// runtime.
///
/// # Errors
/// `AddrInUse` when somebody listens there, `AlreadyExists` when something
/// else than a socket is there, and what binding itself ends with.
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    bind_socket_with_mode(path, SOCKET_MODE)
}

/// The same with another mode, as in `0o600`.
///
/// # Errors
/// As [`bind_socket`].
pub fn bind_socket_with_mode(path: &Path, mode: u32) -> io::Result<UnixListener> {
    refuse_if_taken(path)?;
    // Bound under another name and then renamed, so that nobody can connect
    // before the mode is set, and a stale socket is replaced at once.
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = OsString::from(".");
    beside.push(name);
    let beside = path.with_file_name(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    let in_place = fs::set_permissions(&beside, Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = in_place {
        // What went wrong first is what the caller needs to know.
        drop(fs::remove_file(&beside));
        return Err(error);
    }
    Ok(listener)
}

fn refuse_if_taken(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is there and is not a socket", path.display()),
        )),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another process listens on {}", path.display()),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let first = bind_socket(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        assert_eq!(
            bind_socket(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        let _second = bind_socket(&path).unwrap();
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 1);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind_socket(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let missing = directory.path().join("missing/agent.sock");
        assert_eq!(
            bind_socket(&missing).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
