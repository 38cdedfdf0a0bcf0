//! Reading a pod's capture counters.

use std::path::Path;

use aya::maps::{Map, MapData, PerCpuArray};
use mesh_common::maps::{Counter, names};

use super::BpfError;

/// All counters of the pod whose maps are pinned in `pins`, by name, summed over the CPUs.
pub fn read(pins: &Path) -> Result<Vec<(&'static str, u64)>, BpfError> {
    let fail = |cause| BpfError::Map { name: names::COUNTERS, cause };
    let data = MapData::from_pin(pins.join(names::COUNTERS)).map_err(fail)?;
    let map: PerCpuArray<_, u64> = PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(fail)?;
    let read = |(counter, name): (Counter, &'static str)| match map.get(&(counter as u32), 0) {
        Ok(per_cpu) => Ok((name, per_cpu.iter().sum())),
        Err(cause) => Err(fail(cause)),
    };
    Counter::ALL.into_iter().map(read).collect()
}
