//! Network namespaces: entering one, and coming back.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A handle on a network namespace; keeps it alive while held. Clones share the handle.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Arc::new(File::open(path)?) })
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Device and inode: equal for two handles on one namespace.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let meta = self.file.metadata()?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Runs `body` on this thread with the thread inside the namespace. Sockets made there stay in the namespace.
    ///
    /// Aborts the process if the way back fails: a thread in the wrong namespace would send traffic from the wrong pod.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> io::Result<T> {
        let back = Return { home: home()? };
        enter(self.file.as_fd())?;
        let value = body();
        drop(back);
        Ok(value)
    }
}

thread_local! {
    /// Where this thread lives. Only [`Netns::run`] moves a thread, and it always comes back, so it is looked up once.
    static HOME: OnceCell<Netns> = const { OnceCell::new() };
}

fn home() -> io::Result<Netns> {
    HOME.with(|home| match home.get() {
        Some(found) => Ok(found.clone()),
        None => Ok(home
            .get_or_init({
                let found = Netns::current()?;
                || found
            })
            .clone()),
    })
}

/// Goes home when dropped, so that a panic in the body cannot strand the thread.
struct Return {
    home: Netns,
}

impl Drop for Return {
    fn drop(&mut self) {
        if enter(self.home.file.as_fd()).is_err() {
            std::process::abort();
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
}
