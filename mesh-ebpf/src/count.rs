//! Per-CPU counters of what the capture did.

use aya_ebpf::maps::PerCpuArray;
use mesh_common::maps::Counter;

/// Adds one. The slot belongs to this CPU, and the program is not preempted while it runs.
#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, counter: Counter) {
    if let Some(slot) = counters.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is into this CPU's slot and was checked; nobody else writes it while we run.
        unsafe { *slot += 1 };
    }
}
