//! The networks' configurations of the container runtime: which one it takes, and which plugins are chained there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde_json::Value;

/// A folder that the agent writes to, or that others must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) state: FolderState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FolderState {
    Missing,
    /// With its permission bits.
    Writable(u32),
    /// And why not.
    ReadOnly(String),
}

impl Folder {
    pub(super) fn read(path: &Path) -> Self {
        let look = || -> io::Result<FolderState> {
            let found = fs::metadata(path)?;
            if !found.is_dir() {
                return Ok(FolderState::ReadOnly("it is no folder".to_owned()));
            }
            Ok(match access(path, Access::WRITE_OK) {
                Ok(()) => FolderState::Writable(found.permissions().mode() & 0o7777),
                Err(error) => FolderState::ReadOnly(io::Error::from(error).to_string()),
            })
        };
        let state = look().unwrap_or_else(|error| match error.kind() == io::ErrorKind::NotFound {
            true => FolderState::Missing,
            false => FolderState::ReadOnly(error.to_string()),
        });
        Self { path: path.to_owned(), state }
    }
}

/// One file with a network's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) file: String,
    /// The types of its plugins, in their order; empty when it is no such configuration.
    pub(super) chain: Vec<String>,
}

/// Files of the folder that end so are none for the runtime: Cilium has renamed them.
const PUT_AWAY: &str = ".cilium_bak";

/// The configurations of a folder in the order in which the runtime looks at them, and those that were put away.
pub(super) fn read(folder: &Path) -> (Vec<List>, Vec<String>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let put_away = names.iter().filter(|name| name.ends_with(PUT_AWAY)).cloned().collect();
    let of_runtime = |name: &String| {
        Path::new(name).extension().is_some_and(|kind| ["conflist", "conf", "json"].iter().any(|known| kind == *known))
    };
    let list = |file: String| {
        let text = fs::read_to_string(folder.join(&file)).unwrap_or_default();
        List { chain: chain(&text), file }
    };
    (names.into_iter().filter(of_runtime).map(list).collect(), put_away)
}

/// The plugins of a list, or the one of a single configuration.
fn chain(text: &str) -> Vec<String> {
    let Ok(written) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let plugins = written.get("plugins").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![written]);
    let kind = |plugin: &Value| plugin.get("type").and_then(Value::as_str).map(str::to_owned);
    plugins.iter().filter_map(kind).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{Folder, FolderState, List, chain, read};

    #[test]
    fn chains() {
        let list = r#"{"cniVersion": "1.0.0", "name": "k8s", "plugins": [{"type": "calico"}, {"type": "portmap"}]}"#;
        assert_eq!(chain(list), ["calico", "portmap"]);
        assert_eq!(chain(r#"{"name": "x", "type": "bridge"}"#), ["bridge"]);
        for broken in ["", "{", "[]", "{}", r#"{"plugins": []}"#, r#"{"plugins": [{"type": 3}]}"#] {
            assert_eq!(chain(broken), [""; 0], "{broken}");
        }
    }

    #[test]
    fn the_runtimes_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["20-b.conflist", "10-a.conf", "README", "05-c.conflist.cilium_bak", "15.json"] {
            fs::write(folder.path().join(name), r#"{"type": "t"}"#).unwrap();
        }
        let (lists, put_away) = read(folder.path());
        let list = |file: &str| List { file: file.into(), chain: vec!["t".into()] };
        assert_eq!(lists, [list("10-a.conf"), list("15.json"), list("20-b.conflist")]);
        assert_eq!(put_away, ["05-c.conflist.cilium_bak"]);
        assert_eq!(read(Path::new("/no/such/folder")), (vec![], vec![]));
    }

    #[test]
    fn folders() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(Folder::read(folder.path()).state, FolderState::Writable(0o750));
        assert_eq!(Folder::read(&folder.path().join("none")).state, FolderState::Missing);
        assert_eq!(Folder::read(&file).state, FolderState::ReadOnly("it is no folder".into()));
    }
}
