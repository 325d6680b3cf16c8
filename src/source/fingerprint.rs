//! The fingerprint of a file: tells without reading it whether it is still the file that was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Two writes within so short a time may leave the same time of change, on a file system that keeps parts of a second.
const TICK: Duration = Duration::from_millis(20);
/// The same on one that keeps whole seconds, or even ones.
const COARSE_TICK: Duration = Duration::from_secs(3);

/// Time since the epoch by the clock of file change times. A later write has a later change time, or an equal one where
/// the file system rounds.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    since_epoch(now.tv_sec, now.tv_nsec)
}

fn since_epoch(seconds: i64, nanoseconds: i64) -> Duration {
    Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0))
}

/// Identity and change time of a file. Programs cannot set the change time: every write, truncation, rename over the
/// file and change of its permissions advances it.
///
/// A write through a memory mapping to a page that was written before is not detected; only reading the file detects
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of a file as it is now.
    pub(super) fn from_metadata(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Of a file that was read after [`now`]. `None`: it was written to so shortly before that a further write could
    /// leave the same stamp.
    pub(super) fn settled(meta: &Metadata, now: Duration) -> Option<Self> {
        let fingerprint = Self::from_metadata(meta);
        let changed = since_epoch(fingerprint.changed.0, fingerprint.changed.1);
        let tick = if changed.subsec_nanos() == 0 { COARSE_TICK } else { TICK };
        // A change time in the future: another machine's clock, or this clock was set back.
        let age = now.checked_sub(changed)?;
        (age > tick).then_some(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_fingerprint_is_valid_only_once_no_write_can_leave_the_same() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a.yaml");
        fs::write(&path, "a").unwrap();
        let meta = fs::metadata(&path).unwrap();
        let changed = since_epoch(meta.ctime(), meta.ctime_nsec());
        let settled_after = |age| Fingerprint::settled(&meta, changed + age).is_some();
        assert!(!settled_after(Duration::ZERO));
        assert!(!settled_after(TICK));
        assert!(settled_after(COARSE_TICK + TICK));
        assert!(Fingerprint::settled(&meta, changed - TICK).is_none(), "from the future");
    }
}
