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
        remove_left_behind(parent);
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

/// Removes the folders of processes of this program that were killed. Folders of other users stay: they cannot be removed.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix("portcullis-")?.split_once('-'))
            .and_then(|(pid, unique)| Some((pid.parse::<u32>().ok()?, unique)));
        let Some((pid, unique)) = owner else { continue };
        let ours = unique.len() == 16 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
        // This process has made none yet. In a container every process of this program has the same number.
        let dead = pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists();
        if ours && dead {
            // Another process may be removing the same one.
            let _ = fs::remove_dir_all(entry.path());
        }
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

    #[test]
    fn folders_of_dead_processes_are_removed_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        // Process ids end well below this.
        let dead = parent.path().join("portcullis-4000000001-0123456789abcdef");
        let of = |pid: u32| {
            parent
                .path()
                .join(format!("portcullis-{pid}-0123456789abcdef"))
        };
        let alive = of(std::os::unix::process::parent_id());
        let restarted = of(std::process::id());
        let other = parent.path().join("portcullis-4000000001-notes");
        for folder in [&dead, &alive, &restarted, &other] {
            fs::create_dir(folder).unwrap();
        }
        let _folder = PrivateDir::create_in(parent.path()).unwrap();
        assert_eq!(
            [
                dead.exists(),
                alive.exists(),
                restarted.exists(),
                other.exists()
            ],
            [false, true, false, true]
        );
    }
}
