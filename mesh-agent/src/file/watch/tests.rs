//! What counts as an edit, and what becomes of one.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Edits, SETTLE, changes, follow};
use crate::file::given::Given;
use crate::file::{Config, LoadState, read};

const FILE: &str = "node.yaml";
const SOON: Duration = Duration::from_secs(20);
/// Long enough for what would be noticed to be noticed.
const WHILE: Duration = Duration::from_millis(300);

/// Follows the edits until there are no more, but at least to `expected`; gives the text that they end with, none without
/// an edit.
async fn last_edit(edits: &mut Edits, expected: Option<&str>) -> Option<String> {
    let mut text = None;
    loop {
        let limit = if text.as_deref() == expected { WHILE } else { SOON };
        match timeout(limit, edits.next()).await {
            Ok(Some(())) => text = Some(String::from_utf8(edits.text.clone()).unwrap()),
            Ok(None) | Err(_) => return text,
        }
    }
}

/// A volume as the kubelet makes it: names are links into `..data`, which is a link to a folder of its own.
fn config_map(directory: &Path, version: &str, text: &str) {
    let data = directory.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join(FILE), text).unwrap();
    fs::write(data.join("other.yaml"), version).unwrap();
    symlink(version, directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
}

/// A way to change things in the folder, and the text that is there afterwards if that is an edit.
type Change = (&'static str, fn(&Path), Option<&'static str>);

const CHANGES: [Change; 12] = [
    ("written in place", |folder| fs::write(folder.join(FILE), "new").unwrap(), Some("new")),
    ("made empty", |folder| fs::write(folder.join(FILE), "").unwrap(), Some("")),
    (
        "replaced by another file",
        |folder| {
            fs::write(folder.join("node.yaml.swp"), "new").unwrap();
            fs::rename(folder.join("node.yaml.swp"), folder.join(FILE)).unwrap();
        },
        Some("new"),
    ),
    (
        "replaced by a link",
        |folder| {
            fs::write(folder.join("target"), "new").unwrap();
            symlink("target", folder.join("link")).unwrap();
            fs::rename(folder.join("link"), folder.join(FILE)).unwrap();
        },
        Some("new"),
    ),
    ("deleted", |folder| fs::remove_file(folder.join(FILE)).unwrap(), Some("")),
    (
        "deleted and made anew",
        |folder| {
            fs::remove_file(folder.join(FILE)).unwrap();
            std::thread::sleep(SETTLE * 3);
            fs::write(folder.join(FILE), "new").unwrap();
        },
        Some("new"),
    ),
    (
        "written piece by piece",
        |folder| {
            for text in ["n", "ne", "new"] {
                fs::write(folder.join(FILE), text).unwrap();
                std::thread::sleep(SETTLE / 2);
            }
        },
        Some("new"),
    ),
    (
        "touched",
        |folder| {
            let file = File::options().write(true).open(folder.join(FILE)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        },
        None,
    ),
    ("written as it was", |folder| fs::write(folder.join(FILE), "old").unwrap(), None),
    ("made private", |folder| fs::set_permissions(folder.join(FILE), fs::Permissions::from_mode(0o600)).unwrap(), None),
    ("read", |folder| assert_eq!(fs::read(folder.join(FILE)).unwrap(), b"old"), None),
    (
        "neighbours",
        |folder| {
            fs::write(folder.join("node.yaml.bak"), "new").unwrap();
            fs::write(folder.join("another.yaml"), "new").unwrap();
        },
        None,
    ),
];

async fn check((case, change, expected): Change, folder: &Path) {
    let mut edits = changes(&folder.join(FILE)).unwrap();
    let inside = folder.to_owned();
    let changing = tokio::task::spawn_blocking(move || change(&inside));
    let (text, done) = tokio::join!(last_edit(&mut edits, expected), changing);
    done.unwrap();
    assert_eq!(text.as_deref(), expected, "{case}");
}

#[tokio::test]
async fn edits() {
    for case in CHANGES {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "old").unwrap();
        check(case, folder.path()).await;
    }
}

#[tokio::test]
async fn edits_of_a_config_map() {
    let cases: [Change; 2] = [
        ("this key", |folder| config_map(folder, "..v2", "new"), Some("new")),
        ("another key", |folder| config_map(folder, "..v2", "old"), None),
    ];
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        config_map(folder.path(), "..v1", "old");
        symlink("..data/node.yaml", folder.path().join(FILE)).unwrap();
        check(case, folder.path()).await;
    }
}

#[tokio::test]
async fn a_file_may_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut edits = changes(&folder.path().join(FILE)).unwrap();
    fs::write(folder.path().join(FILE), "new").unwrap();
    assert_eq!(last_edit(&mut edits, Some("new")).await.as_deref(), Some("new"));
    let error = changes(&folder.path().join("no/such/folder.yaml")).unwrap_err().to_string();
    assert!(error.contains("no/such"), "{error}");
}

/// A file with so many workloads.
fn node(workloads: usize) -> String {
    let mut text = "node:
  name: n1
  addresses: [172.30.0.1]
  ca: {address: 'https://127.0.0.1:15012', root: /r, token: /t}
workloads:
"
    .to_owned();
    for number in 0..workloads {
        text += &format!("- {{name: w{number}, addresses: [10.0.0.{number}], node: n1}}\n");
    }
    text
}

fn workloads(config: &Config) -> usize {
    config.world.size().0
}

#[tokio::test]
async fn good_edits_are_published_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    fs::write(&path, node(1)).unwrap();
    let configs = watch::Sender::new(Arc::new(read(&path, &Given::default()).unwrap()));
    let states = watch::Sender::new(LoadState::good(&path));
    let (published, mut loads) = (configs.subscribe(), states.subscribe());
    let following = follow((changes(&path).unwrap(), Given::default()), configs, states);
    let steps = [
        ("good", Some(node(2)), 2, None),
        ("bad", Some(node(3) + "podz: []\n"), 2, Some("unknown field `podz`")),
        ("worse", Some("node: [\n".to_owned()), 2, Some("node.yaml:")),
        ("good again", Some(node(4)), 4, None),
        ("gone", None, 4, Some("cannot be read: No such file")),
        ("back", Some(node(4)), 4, None),
        ("empty", Some(String::new()), 4, Some("the file is empty")),
        ("back again", Some(node(5)), 5, None),
    ];
    let editing = async {
        for (case, text, expected, rejected) in steps {
            let before = loads.borrow_and_update().clone();
            match text {
                Some(text) => {
                    fs::write(path.with_extension("new"), text).unwrap();
                    fs::rename(path.with_extension("new"), &path).unwrap();
                }
                None => fs::remove_file(&path).unwrap(),
            }
            timeout(SOON, loads.changed()).await.unwrap_or_else(|_| panic!("{case}: not noticed")).unwrap();
            let state = loads.borrow().clone();
            assert_eq!(workloads(&published.borrow()), expected, "{case}");
            let told = state.rejected.as_ref().map(ToString::to_string).unwrap_or_default();
            assert!(told.contains(rejected.unwrap_or_default()), "{case}: {told}");
            assert_eq!(told.is_empty(), rejected.is_none(), "{case}: {told}");
            assert!(state.read > before.read, "{case}");
            assert_eq!(state.loaded > before.loaded, rejected.is_none(), "{case}");
            sleep(SETTLE).await;
        }
    };
    tokio::select! {
        () = following => panic!("it follows for ever"),
        () = editing => {}
    }
}
