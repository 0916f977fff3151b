//! A folder for this process alone, in which its own sockets are.

use std::{
    collections::hash_map::RandomState,
    fs::{self, DirBuilder, File, TryLockError},
    hash::BuildHasher,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Where such folders are made, the first that works: the place of the system for it, then that for temporary files.
const PARENTS: [&str; 2] = ["/run/portcullis", "/tmp"];

/// The file in such a folder that its process has locked for as long as it lives. Where processes share a place and not their numbers,
/// as containers do, nothing else tells who is alive.
const LOCK: &str = "lock";

/// Removed with everything in it when it is dropped.
#[derive(Debug)]
pub(crate) struct PrivateDir {
    path: PathBuf,
    _lock: File,
}

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
        // Nobody takes it for one of a dead process before it is locked.
        let new = path.with_extension("new");
        // Fails when the name is taken, so nobody can have prepared the folder.
        DirBuilder::new().mode(0o700).create(&new)?;
        let lock = File::create_new(new.join(LOCK))?;
        // A file system without locks is as good as any when nobody shares it.
        let _ = lock.try_lock();
        fs::rename(&new, &path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
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
        if ours && is_left_behind(&entry.path(), pid) {
            // Another process may be removing the same one.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the process that has made the folder is gone.
fn is_left_behind(folder: &Path, pid: u32) -> bool {
    match File::open(folder.join(LOCK)).map(|lock| lock.try_lock()) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock)) => false,
        // This process has made none yet. In a container every process of this program has the same number.
        Ok(Err(TryLockError::Error(_))) | Err(_) => {
            pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists()
        }
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What cannot be removed is empty sockets in a folder that nobody else can enter.
        let _ = fs::remove_dir_all(&self.path);
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
    fn a_folder_that_is_in_use_stays_whatever_number_its_process_has() {
        let parent = tempfile::tempdir().unwrap();
        // As from two containers with one place for such folders: both processes are number 1.
        let neighbour = PrivateDir::create_in(parent.path()).unwrap();
        let own = PrivateDir::create_in(parent.path()).unwrap();
        assert!(neighbour.path().exists());
        // One that is gone may have had the number of one that is not.
        let gone = format!(
            "portcullis-{}-0123456789abcdef",
            std::os::unix::process::parent_id()
        );
        let gone = parent.path().join(gone);
        fs::create_dir(&gone).unwrap();
        File::create(gone.join(LOCK)).unwrap();
        drop(PrivateDir::create_in(parent.path()).unwrap());
        assert!(!gone.exists());
        drop((neighbour, own));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
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
