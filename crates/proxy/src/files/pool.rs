//! Threads for what blocks: opening and reading files. Few, so that a disk that hangs takes no more than them, and nobody waits
//! for one for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};

/// Threads at most; they come when they are needed and go when they are not.
const THREADS: usize = 8;
/// Jobs that wait for a thread; further ones are refused at once.
const MOST_WAITING: usize = 1024;
/// For a thread and for what it does.
const LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct FilePool {
    /// Only its threads for blocking work are used.
    runtime: Option<Runtime>,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    limit: Duration,
}

/// No thread is free, or the one that is does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

impl FilePool {
    /// Starts no thread yet.
    ///
    /// # Errors
    /// The system has no room for a runtime.
    pub(crate) fn new() -> std::io::Result<Self> {
        Self::within(LIMIT)
    }

    fn within(limit: Duration) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .thread_name("files")
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
            free: Arc::new(Semaphore::new(THREADS)),
            waiting: AtomicUsize::new(0),
            limit,
        })
    }

    /// What `job` says.
    ///
    /// # Errors
    /// See [`Busy`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let waiting = Waiting::new(&self.waiting).ok_or(Busy)?;
        tokio::time::timeout(self.limit, async {
            let permit = self.free.clone().acquire_owned().await.map_err(|_| Busy)?;
            drop(waiting);
            let runtime = self.runtime.as_ref().ok_or(Busy)?;
            let work = runtime.spawn_blocking(move || {
                let result = job();
                // A thread that hangs is not free, whoever has given up waiting for it.
                drop(permit);
                result
            });
            work.await.map_err(|_| Busy)
        })
        .await
        .unwrap_or(Err(Busy))
    }
}

/// Waiting threads must not keep the process from ending.
impl Drop for FilePool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A place among those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(all: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(all);
        (all.fetch_add(1, Relaxed) < MOST_WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn threads_that_hang_are_given_up_and_others_are_told() {
        // Threads that work are found within it on any machine, and those that hang never are.
        let pool = Arc::new(FilePool::within(Duration::from_secs(1)).unwrap());
        assert_eq!(pool.run(|| 7).await, Ok(7));
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        let mut stuck = Vec::new();
        for _ in 0..THREADS {
            let (pool, hang) = (pool.clone(), hang.clone());
            stuck.push(tokio::spawn(async move {
                pool.run(move || hang.lock().unwrap().recv().is_ok()).await
            }));
        }
        for stuck in stuck {
            assert_eq!(stuck.await.unwrap(), Err(Busy));
        }
        assert_eq!(pool.run(|| 7).await, Err(Busy), "none of them is free");
        drop(release);
    }

    #[test]
    fn places_are_given_back() {
        let all = AtomicUsize::new(MOST_WAITING - 1);
        let last = Waiting::new(&all);
        assert!(last.is_some());
        assert!(Waiting::new(&all).is_none());
        drop(last);
        assert!(Waiting::new(&all).is_some());
        assert_eq!(all.load(Relaxed), MOST_WAITING - 1);
    }
}
