//! What was changed for a pod, on disk (`<run_dir>/pods/<pod>.json`), written before the change is made.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bpf::fs::file_name;

/// The undo record of one pod. It holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) uid: String,
    pub(super) netns: PathBuf,
    /// Cookie of the namespace: the path may name another one by now.
    #[serde(default)]
    pub(super) cookie: u64,
    pub(super) interface: String,
    /// Sysctl files and the values they had.
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) clsact: bool,
    /// Interfaces that had no clsact discipline before.
    pub(super) own_qdisc: Vec<String>,
}

/// The directory of the records.
#[derive(Clone, Debug)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(super) fn open(run_dir: &Path) -> io::Result<Self> {
        let directory = run_dir.join("pods");
        fs::create_dir_all(&directory)?;
        // What is undone by these records is done as root.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        Ok(Self { directory })
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{}.json", file_name(uid)))
    }

    pub(super) fn read(&self, uid: &str) -> Option<Undo> {
        serde_json::from_slice(&fs::read(self.path(uid)).ok()?).ok()
    }

    pub(super) fn write(&self, undo: &Undo) -> io::Result<()> {
        let path = self.path(&undo.uid);
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(undo)?)?;
        fs::rename(fresh, path)
    }

    pub(super) fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All records; files that cannot be read are none.
    pub(super) fn all(&self) -> Vec<Undo> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let json =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
        json.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Records, Undo};

    #[test]
    fn records_survive_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        let undo = Undo { uid: "Kubernetes//Pod/default/a.b".into(), ..Undo::default() };
        records.write(&undo).unwrap();
        assert_eq!(records.read(&undo.uid), Some(undo.clone()));
        assert_eq!(records.all(), vec![undo.clone()]);
        records.remove(&undo.uid).unwrap();
        records.remove(&undo.uid).unwrap();
        assert_eq!(records.all(), vec![]);
    }
}
