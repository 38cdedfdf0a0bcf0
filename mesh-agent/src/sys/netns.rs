//! Network namespaces: entering one, and coming back.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A handle on a network namespace; keeps it alive while held. Clones share the handle, and two handles on one namespace
/// are equal.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    /// Device and inode: not given to another namespace while this handle is open.
    id: (u64, u64),
}

impl Netns {
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::open(path)?)
    }

    /// A handle from an open descriptor that somebody else has handed over. Whether it is a network namespace shows when
    /// it is entered.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::of(fd.into())
    }

    fn of(file: File) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        Ok(Self { id: (meta.dev(), meta.ino()), file: Arc::new(file) })
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Device and inode: those of another handle on it, and of nothing else while one is open.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// The number that the kernel shows for it, as in `net:[4026531840]`.
    pub fn inode(&self) -> u64 {
        self.id.1
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

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
}
