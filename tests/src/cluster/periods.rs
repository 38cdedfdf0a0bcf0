//! The machine's switch for short grace periods, which the nodes' agents turn. They have no time to turn it back when a
//! cluster is removed with them.

use std::fs;

const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// The setting before the cluster; dropped, it is the machine's again.
#[derive(Debug)]
pub(super) struct GracePeriods(Option<String>);

impl GracePeriods {
    /// A kernel without the switch has nothing to be kept.
    pub(super) fn noted() -> Self {
        Self(fs::read_to_string(SWITCH).ok())
    }
}

impl Drop for GracePeriods {
    fn drop(&mut self) {
        if let Some(setting) = &self.0 {
            // As good as it gets: the kernel works either way.
            fs::write(SWITCH, setting.trim()).ok();
        }
    }
}
