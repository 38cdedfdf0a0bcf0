//! Grace periods of the kernel's RCU. Whoever attaches a program by tcx waits for one (`tcx_entry_sync`, net/core/dev.c of
//! Linux 6.6 and later) while nobody else may change anything of any network: 10 to 20 ms each, three for a pod. Expedited,
//! they take some microseconds, and interrupt the cores that are busy in the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The kernel's switch for the whole machine (Documentation/admin-guide/kernel-parameters.txt, `rcupdate.rcu_expedited`).
pub const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// Who turns the switch on and off again. Clones are the same.
#[derive(Clone, Debug)]
pub struct GracePeriods(Arc<Switch>);

#[derive(Debug)]
struct Switch {
    file: PathBuf,
    /// Says that it was we who turned it on, for the next start if this process dies.
    note: PathBuf,
    /// How many want it on.
    held: Mutex<usize>,
}

/// While it is held, grace periods are short; as far as the kernel lets us.
#[derive(Debug)]
pub struct Expedited(Option<Arc<Switch>>);

impl GracePeriods {
    /// The switch is `file`. A former process that died while it was on has left a note in `directory`, and it is turned off
    /// now.
    pub fn new(file: &Path, directory: &Path) -> Self {
        let switch = Switch { file: file.to_owned(), note: directory.join("rcu_expedited"), held: Mutex::new(0) };
        if switch.note.exists() {
            switch.off();
        }
        Self(Arc::new(switch))
    }

    /// Somebody else's setting is left alone, and so is a switch that cannot be turned: all is well then, only slower.
    #[must_use = "it ends when it is dropped"]
    pub fn expedite(&self) -> Expedited {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == 0
            && let Err(error) = self.0.on()
        {
            tracing::debug!(switch = %self.0.file.display(), %error, "grace periods are not expedited");
            return Expedited(None);
        }
        *held += 1;
        Expedited(Some(Arc::clone(&self.0)))
    }
}

impl Expedited {
    /// Whether it was we who turned the switch on.
    pub fn is_ours(&self) -> bool {
        self.0.is_some()
    }
}

impl Switch {
    fn on(&self) -> io::Result<()> {
        if fs::read_to_string(&self.file)?.trim() != "0" {
            return Err(io::Error::other("it is on already"));
        }
        fs::write(&self.note, "")?;
        fs::write(&self.file, "1").inspect_err(|_| drop(fs::remove_file(&self.note)))
    }

    /// The note stays where the switch does.
    fn off(&self) {
        match fs::write(&self.file, "0").and_then(|()| fs::remove_file(&self.note)) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(switch = %self.file.display(), %error, "grace periods stay expedited until the next start");
            }
        }
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        let Some(switch) = &self.0 else { return };
        let mut held = switch.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held -= 1;
        if *held == 0 {
            switch.off();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::GracePeriods;

    fn setting(initial: &str) -> (TempDir, GracePeriods) {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("switch");
        fs::write(&file, initial).unwrap();
        let periods = GracePeriods::new(&file, directory.path());
        (directory, periods)
    }

    fn is(directory: &TempDir) -> (String, bool) {
        let text = fs::read_to_string(directory.path().join("switch")).unwrap();
        (text.trim().to_owned(), directory.path().join("rcu_expedited").exists())
    }

    #[test]
    fn on_while_somebody_wants_it() {
        let (directory, periods) = setting("0\n");
        let first = periods.expedite();
        let second = periods.clone().expedite();
        assert!(first.is_ours() && second.is_ours());
        drop(first);
        assert_eq!(is(&directory), ("1".into(), true));
        drop(second);
        assert_eq!(is(&directory), ("0".into(), false));
    }

    #[test]
    fn what_somebody_else_turned_on_stays_on() {
        let (directory, periods) = setting("1\n");
        assert!(!periods.expedite().is_ours());
        assert_eq!(is(&directory), ("1".into(), false));
    }

    #[test]
    fn the_next_start_turns_it_off_after_a_death() {
        let (directory, periods) = setting("0\n");
        std::mem::forget(periods.expedite());
        assert_eq!(is(&directory), ("1".into(), true));
        GracePeriods::new(&directory.path().join("switch"), directory.path());
        assert_eq!(is(&directory), ("0".into(), false));
    }

    #[test]
    fn without_a_switch_nothing_happens() {
        let directory = TempDir::new().unwrap();
        let periods = GracePeriods::new(&directory.path().join("none"), directory.path());
        drop(periods.expedite());
        assert!(!directory.path().join("rcu_expedited").exists());
    }
}
