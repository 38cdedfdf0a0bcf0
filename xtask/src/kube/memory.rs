//! What a rig's programs take, by their pid files.

use std::fs;
use std::path::Path;

/// A program that runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) pid: u32,
    /// Resident memory in KiB; nothing when the program has ended.
    pub(super) resident: Option<u64>,
}

/// The programs with a pid file `DIRECTORY/NAME/NAME.pid`, by name.
pub(super) fn programs(directory: &Path) -> Vec<Running> {
    let folders = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = folders
        .filter_map(|folder| {
            let name = folder.file_name().into_string().ok()?;
            let pid = fs::read_to_string(folder.path().join(format!("{name}.pid"))).ok()?;
            let pid = pid.trim().parse().ok()?;
            Some(Running { name, pid, resident: resident(pid) })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_are_read() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs::create_dir_all(place.path().join(name)).unwrap();
            fs::write(place.path().join(name).join(format!("{name}.pid")), text).unwrap();
        };
        write("own", &format!("{}\n", std::process::id()));
        write("broken", "no number");
        fs::create_dir_all(place.path().join("empty")).unwrap();
        let found = programs(place.path());
        assert_eq!(found.iter().map(|running| running.name.as_str()).collect::<Vec<_>>(), ["own"]);
        assert!(found[0].resident.unwrap() > 0);
    }
}
