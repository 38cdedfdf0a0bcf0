//! Files of the node, replaced as a whole or not at all.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::plan::ENDINGS;

/// How the names of files begin that are being written. Runtimes do not look at them: they have none of their endings.
pub(super) const FRESH: &str = ".mesh-agent-cni.";
/// The longest configuration file that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// After this time, what is being written is what a killed agent left.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// A file at a moment: whoever writes to it, or puts another one in its place, changes this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Stamp {
    /// Of the file at the path; none, if there is none.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(Self::new(&metadata))),
            Ok(_) => Err(io::Error::other("what is there is no file")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn new(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A configuration file as it was read.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) name: String,
    /// Empty when it cannot be read as text: it is there, and useless.
    pub(super) text: String,
    pub(super) stamp: Stamp,
    pub(super) mode: u32,
}

/// All files in the folder that a runtime looks at.
pub(super) fn configurations(folder: &Path) -> io::Result<Vec<Configuration>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if !is_configuration(&name) {
            continue;
        }
        // What vanishes meanwhile is not there.
        let Ok(metadata) = fs::metadata(folder.join(&name)) else { continue };
        if metadata.is_file() {
            let text = text(&folder.join(&name)).unwrap_or_default();
            let (stamp, mode) = (Stamp::new(&metadata), metadata.permissions().mode() & 0o7777);
            found.push(Configuration { name, text, stamp, mode });
        }
    }
    Ok(found)
}

pub(super) fn is_configuration(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending)) && !name.starts_with(FRESH)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if length as u64 > LONGEST { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Puts a file in its place: `fill` writes it beside, and it is renamed once it is on the disk. Gives false, and changes
/// nothing, when what is there is not what `seen` says any more. A link is followed: the file behind it is replaced.
pub(super) fn replace(
    path: &Path,
    seen: Option<Stamp>,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<bool> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let fresh = folder.join(format!("{FRESH}{:016x}", fastrand::u64(..)));
    let put = || -> io::Result<bool> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        fill(&mut file)?;
        // Not narrowed by the process's mask, as the mode of a new file is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        // A program that is open for writing cannot be started.
        drop(file);
        if Stamp::of(&path)? != seen {
            return Ok(false);
        }
        let put = swap(&fresh, &path, seen)?;
        File::open(folder)?.sync_all()?;
        Ok(put)
    };
    let put = put();
    // By now it is the old file, or one that has not got its place.
    fs::remove_file(&fresh).ok();
    put
}

/// Puts `fresh` in the place of the file that was seen there, or of none. When another one has come meanwhile, that one
/// stays: whoever has written it will not write it again.
fn swap(fresh: &Path, path: &Path, seen: Option<Stamp>) -> io::Result<bool> {
    let Some(seen) = seen else {
        return match renameat_with(CWD, fresh, CWD, path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::INVAL | Errno::NOSYS) => fs::rename(fresh, path).map(|()| true),
            result => Ok(result.map(|()| true)?),
        };
    };
    let (mut expected, mut placed) = (Some(seen), Stamp::of(fresh)?);
    let mut swaps = 0;
    loop {
        match renameat_with(CWD, fresh, CWD, path, RenameFlags::EXCHANGE) {
            // The file system cannot do that, and what was seen is some microseconds old.
            Err(Errno::INVAL | Errno::NOSYS) if swaps == 0 => return fs::rename(fresh, path).map(|()| true),
            // It has been removed just now.
            Err(Errno::NOENT) => return Ok(false),
            result => result?,
        }
        swaps += 1;
        let out = Stamp::of(fresh)?;
        if same_content(out, expected) {
            return Ok(swaps == 1);
        }
        // What came out is news, and goes back in.
        (expected, placed) = (placed, out);
    }
}

/// Whether it is the same file with the same content, under whatever name.
fn same_content(one: Option<Stamp>, other: Option<Stamp>) -> bool {
    // A new name is a change as well.
    let content = |stamp: Stamp| (stamp.inode, stamp.size, stamp.modified);
    one.map(content) == other.map(content)
}

/// Removes a file; one that is not there is removed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn is_executable(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o111 == 0o111)
}

/// Whether both files have the same bytes.
pub(super) fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::with_capacity(1 << 16, one), BufReader::with_capacity(1 << 16, other));
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(other.read(&mut right[..1])? == 0);
        }
        match other.read_exact(&mut right[..length]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            result => result?,
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
}

/// Copies a program into a file.
pub(super) fn copy(from: &Path, to: &mut File) -> io::Result<()> {
    io::copy(&mut File::open(from)?, to)?;
    to.flush()
}

/// Removes what agents that were killed have left half written.
pub(super) fn sweep(folder: &Path) {
    let left = |path: &PathBuf| {
        let age = fs::metadata(path).and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age > LEFT_BEHIND)
    };
    let ours = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = ours.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(FRESH.as_bytes()));
    for path in ours.map(|entry| entry.path()).filter(left) {
        // Not worth an error: it is in nobody's way.
        fs::remove_file(path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) -> Option<Stamp> {
        fs::write(path, text).unwrap();
        Stamp::of(path).unwrap()
    }

    fn put(path: &Path, seen: Option<Stamp>, meanwhile: impl FnOnce()) -> bool {
        let fill = |file: &mut File| {
            meanwhile();
            file.write_all(b"ours")
        };
        replace(path, seen, 0o640, fill).unwrap()
    }

    #[test]
    fn only_what_was_seen_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let text = || fs::read_to_string(&path).unwrap();
        assert!(put(&path, None, || ()));
        assert_eq!(text(), "ours");
        let seen = write(&path, "theirs");
        assert!(put(&path, seen, || ()));
        assert_eq!((text().as_str(), Stamp::of(&path).unwrap() == seen), ("ours", false));
        assert!(!put(&path, seen, || ()), "it is another one by now");
        let seen = Stamp::of(&path).unwrap();
        assert!(!put(&path, seen, || assert!(write(&path, "news").is_some())));
        assert_eq!(text(), "news");
        assert!(!put(&path, Stamp::of(&path).unwrap(), || fs::remove_file(&path).unwrap()));
        assert!(!put(&path, None, || assert!(write(&path, "first").is_some())));
        assert_eq!((text().as_str(), fs::read_dir(directory.path()).unwrap().count()), ("first", 1));
    }

    #[test]
    fn news_of_the_last_moment_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (path, fresh) = (directory.path().join("file"), directory.path().join("fresh"));
        let seen = write(&path, "old");
        write(&fresh, "ours");
        assert!(swap(&fresh, &path, seen).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        // From here on what was seen is not what is there.
        write(&fresh, "ours again");
        assert!(!swap(&fresh, &path, seen).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        assert_eq!(fs::read_to_string(&fresh).unwrap(), "ours again", "it has not got its place");
        assert!(!swap(&fresh, &path, None).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!swap(&fresh, &path, seen).unwrap());
        assert!(swap(&fresh, &path, None).unwrap());
    }

    #[test]
    fn files_are_compared_to_their_ends() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        let long = "x".repeat(200_000);
        let cases = [("", "", true), ("a", "b", false), ("a", "ab", false), (&long, &long, true)];
        for (left, right, expected) in cases {
            write(&one, left);
            write(&other, right);
            assert_eq!(same(&one, &other).unwrap(), expected);
        }
        write(&other, &(long[1..].to_owned() + "y"));
        assert!(!same(&one, &other).unwrap());
    }
}
