//! The file of a Unix socket that clients connect to.

use portcullis_agent_protocol::server::bind_socket_with_mode;
use std::{
    fs::Permissions,
    io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

/// Removes the file when it is dropped, unless another process has put its own into this place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Listens. What a dead process has left there is replaced; what somebody listens on is not. To be called on a runtime.
    ///
    /// # Errors
    /// Somebody listens there, something else than a socket is there, or the system does not permit it.
    pub(super) fn bind(path: &Path, mode: u32) -> io::Result<(Self, UnixListener)> {
        let socket = bind_socket_with_mode(path, mode)?.into_std()?;
        let file = Self {
            path: path.to_owned(),
            identity: identity(path),
        };
        Ok((file, socket))
    }

    /// Says who may connect. An error is only logged: whoever could connect still can.
    pub(super) fn set_mode(&self, mode: u32) {
        if let Err(error) = std::fs::set_permissions(&self.path, Permissions::from_mode(mode)) {
            let path = self.path.display();
            tracing::error!(%path, %error, "the mode of the socket stays as it was");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            // Nobody accepts there any more, whether it goes or not.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_goes_with_its_socket_and_that_of_another_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (file, socket) = SocketFile::bind(&path, 0o600).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        file.set_mode(0o666);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o666);
        assert!(SocketFile::bind(&path, 0o600).is_err(), "somebody listens");
        // It has ended, and another process is here before its file is gone.
        drop(socket);
        let (other, _socket) = SocketFile::bind(&path, 0o600).unwrap();
        drop(file);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}
