//! A folder for this process alone, in which its own sockets are.

use std::{
    collections::hash_map::RandomState,
    fs::{self, DirBuilder},
    hash::BuildHasher,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Where such folders are made, the first that works: the place of the system for it, then that for temporary files.
const PARENTS: [&str; 2] = ["/run/portcullis", "/tmp"];

/// Removed with everything in it when it is dropped.
#[derive(Debug)]
pub(crate) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Makes a folder that nobody else can enter.
    ///
    /// # Errors
    /// It can be made in none of the places.
    pub(crate) fn create() -> io::Result<Self> {
        let own = std::env::temp_dir();
        let parents = PARENTS.iter().map(Path::new).chain([own.as_path()]);
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for parent in parents {
            match Self::create_in(parent) {
                Ok(folder) => return Ok(folder),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn create_in(parent: &Path) -> io::Result<Self> {
        let unique = RandomState::new().hash_one(0u8);
        let path = parent.join(format!("portcullis-{}-{unique:016x}", std::process::id()));
        // Fails when the name is taken, so nobody can have prepared the folder.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What cannot be removed is empty sockets in a folder that nobody else can enter.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_folder_is_private_and_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let folder = PrivateDir::create_in(parent.path()).unwrap();
        let path = folder.path().to_owned();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(path.join("x"), "").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
