//! What tells, without reading it, that a file is still the one that was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Two writes within so short a time may leave the same time of change, on a file system that keeps parts of a second.
const TICK: Duration = Duration::from_millis(20);
/// The same on one that keeps whole seconds, or even ones.
const COARSE_TICK: Duration = Duration::from_secs(3);

/// Since the epoch, by the clock that the kernel takes times of change from: what is written to after this has a later one,
/// or an equal one where the file system rounds.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    since_epoch(now.tv_sec, now.tv_nsec)
}

fn since_epoch(seconds: i64, nanoseconds: i64) -> Duration {
    Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0))
}

/// Which file it is and when it was last written to. Nobody can set the time of change: every write, truncation, rename
/// over it and change of its permissions moves it on.
///
/// It tells nothing of a write through a memory mapping whose page was written to before; only reading does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file as it is now.
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Of a file that was read after [`now`]. `None`: it was written to so shortly before that a further write could leave
    /// the same stamp.
    pub(super) fn settled(meta: &Metadata, now: Duration) -> Option<Self> {
        let stamp = Self::of(meta);
        let changed = since_epoch(stamp.changed.0, stamp.changed.1);
        let tick = if changed.subsec_nanos() == 0 { COARSE_TICK } else { TICK };
        // A time of change to come: another machine's clock, or ours was set back.
        let age = now.checked_sub(changed)?;
        (age > tick).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_stamp_counts_only_once_no_write_can_leave_the_same() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a.yaml");
        fs::write(&path, "a").unwrap();
        let meta = fs::metadata(&path).unwrap();
        let changed = since_epoch(meta.ctime(), meta.ctime_nsec());
        let settled_after = |age| Stamp::settled(&meta, changed + age).is_some();
        assert!(!settled_after(Duration::ZERO));
        assert!(!settled_after(TICK));
        assert!(settled_after(COARSE_TICK + TICK));
        assert!(Stamp::settled(&meta, changed - TICK).is_none(), "from the future");
    }
}
