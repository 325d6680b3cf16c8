//! The kernel's values for this process and this machine.

use std::path::Path;

/// The kernel's values for this process; `None` where the kernel has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    pub(crate) cpu_s: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) peak_resident_bytes: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    pub(crate) threads: Option<u64>,
}

impl Process {
    pub(crate) fn read() -> Self {
        let status = read("/proc/self/status");
        let limits = read("/proc/self/limits");
        Self {
            cpu_s: cpu_s(&read("/proc/self/stat")),
            resident_bytes: kib(&status, "VmRSS:"),
            peak_resident_bytes: kib(&status, "VmHWM:"),
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
            max_fds: limits
                .lines()
                .find_map(|line| line.strip_prefix("Max open files"))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok()),
            threads: field(&status, "Threads:").and_then(|value| value.parse().ok()),
        }
    }
}

/// User and system time, which the kernel counts in hundredths of a second (USER_HZ, the same on every platform).
fn cpu_s(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets, which may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / 100.0)
}

/// The kernel's values for this machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) load1: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_available_bytes: Option<u64>,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let memory = read("/proc/meminfo");
        Self {
            load1: read("/proc/loadavg").split_whitespace().next().and_then(|value| value.parse().ok()),
            memory_bytes: kib(&memory, "MemTotal:"),
            memory_available_bytes: kib(&memory, "MemAvailable:"),
        }
    }
}

/// Empty where there is no such file: other systems than Linux.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next())
}

fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Memory that this process has in use.
pub fn resident_bytes() -> Option<u64> {
    kib(&read("/proc/self/status"), "VmRSS:")
}

/// The limit of this process's address space (`ulimit -v`). `None`: there is none.
pub(crate) fn address_space_bytes() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

/// The memory limit of this process: the least of its own (`ulimit -d`), its control groups' (version 2, or 1 in a container)
/// and the machine's memory. `None`: the system does not report it.
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    let machine = kib(&read("/proc/meminfo"), "MemTotal:")?;
    let group = read("/proc/self/cgroup");
    let group = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let groups = Path::new(group).ancestors().map(|group| {
        let below = group.strip_prefix("/").unwrap_or(group);
        std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(below).join("memory.max")).unwrap_or_default()
    });
    // `max`, or no file at all: no limit there.
    let limits = groups.filter_map(|text| text.trim().parse().ok());
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory/memory.limit_in_bytes").unwrap_or_default();
    let own = rustix::process::getrlimit(rustix::process::Resource::Data).current;
    limits.chain(container.trim().parse().ok()).chain(own).chain([machine]).min()
}
