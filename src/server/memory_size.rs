//! How much memory the broker's parts may take together: what is configured, or a part of what there is.

use std::str::FromStr;

use crate::kernel::{address_space_bytes, memory_limit_bytes};

/// The part of the memory there is where nothing is configured, percent. The rest is for code, stacks, the control plane, and
/// what the allocator does not give back at once.
const DEFAULT_PERCENT: u8 = 75;
/// The least that is worth beginning with.
const LEAST_BYTES: u64 = 16 << 20;

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySize {
    /// So many bytes.
    Bytes(u64),
    /// 1 to 100, of what there is.
    Percent(u8),
}

impl FromStr for MemorySize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent));
            return percent.map(Self::Percent).ok_or("a part of the memory is 1% to 100%");
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err("an amount of memory is bytes, as 536870912 or 512MiB, or a part, as 60%"),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        let bytes = bytes.ok_or("an amount of memory is bytes, as 536870912 or 512MiB, or a part, as 60%")?;
        if bytes < LEAST_BYTES { Err("the least is 16MiB") } else { Ok(Self::Bytes(bytes)) }
    }
}

/// The bytes that a size means here; `None`: the memory there is cannot be found out.
pub(super) fn resolve(size: Option<MemorySize>) -> Option<usize> {
    let there_is = || there_is(memory_limit_bytes(), address_space_bytes());
    let bytes = match size {
        Some(MemorySize::Bytes(bytes)) => bytes,
        Some(MemorySize::Percent(percent)) => there_is()? / 100 * u64::from(percent),
        None => there_is()? / 100 * u64::from(DEFAULT_PERCENT),
    };
    usize::try_from(bytes.max(LEAST_BYTES)).ok()
}

/// Half of an address space is stacks, arenas and what was freed in pieces.
fn there_is(memory: Option<u64>, address_space: Option<u64>) -> Option<u64> {
    memory.into_iter().chain(address_space.map(|bytes| bytes / 2)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_bytes_or_a_part() {
        assert_eq!("60%".parse(), Ok(MemorySize::Percent(60)));
        assert_eq!("536870912".parse(), Ok(MemorySize::Bytes(512 << 20)));
        assert_eq!("512MiB".parse(), Ok(MemorySize::Bytes(512 << 20)));
        for wrong in ["", "0%", "101%", "-1", "1MiB", "5 GB", "20000000000GiB"] {
            assert!(wrong.parse::<MemorySize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_least_of_all_limits_counts() {
        assert_eq!(there_is(Some(1000), None), Some(1000));
        assert_eq!(there_is(Some(1000), Some(1000)), Some(500));
        assert_eq!(there_is(None, None), None);
    }
}
