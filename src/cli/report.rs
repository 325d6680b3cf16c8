//! `weir report`

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::{Value, json};

use super::print::{Format, print};
use super::{Exit, broker};
use crate::state::wall_clock;
use weir_declare::config::{mask_text, mask_value};

/// Write a support bundle.
///
/// A tar archive with the broker's status (versions, declaration with secrets as references, conditions, plan, history,
/// metrics, slowest sessions, cluster), the end of its log, and the limits of the machine. It contains no secret and no
/// payload, but names of clients, endpoints and topic filters of acl documents: check it before you send it.
///
/// Exits with 0, with 2 if a part is missing (errors.txt in the archive lists it).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir report\n  weir report --log /var/log/weir.log --output /tmp/weir.tar")]
pub(super) struct Args {
    /// The broker's status address.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "WEIR_STATUS", value_name = "URL", value_parser = broker::status_url)]
    status: String,
    /// Where to write [default: weir-report-TIME.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The broker's log file [default: the unit's journal]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The systemd unit
    #[arg(long, value_name = "NAME", default_value = "weir")]
    unit: String,
    /// `json`: `{"archive": ..., "files": [...], "missing": [...]}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// The broker's paths, and their names in the archive.
const ASKED: &[(&str, &str)] = &[
    ("/api/system/health", "health.json"),
    ("/api/system/resources", "resources.json"),
    ("/api/source", "source.json"),
    ("/api/plan", "plan.json"),
    ("/api/declared", "declared.json"),
    ("/api/endpoints/get", "endpoints.json"),
    ("/api/endpoints/metrics", "endpoint-metrics.json"),
    ("/api/endpoints/history?limit=200", "history.json"),
    ("/api/clients/slowest?limit=50", "slowest.json"),
    ("/api/cluster/nodes", "cluster.json"),
    ("/metrics", "metrics.txt"),
];
/// This machine's files; on the broker's own machine, its limits.
const READ: &[(&str, &str)] = &[
    ("/etc/os-release", "machine/os-release"),
    ("/proc/version", "machine/kernel"),
    ("/proc/meminfo", "machine/meminfo"),
    ("/proc/loadavg", "machine/loadavg"),
    ("/proc/cpuinfo", "machine/cpuinfo"),
    ("/proc/sys/fs/file-max", "machine/file-max"),
    ("/proc/sys/net/core/somaxconn", "machine/somaxconn"),
    ("/proc/sys/net/ipv4/ip_local_port_range", "machine/ip_local_port_range"),
    ("/proc/net/sockstat", "machine/sockstat"),
    ("/proc/net/netstat", "machine/netstat"),
];
const LOG_LINES: &str = "5000";
const LOG_BYTES_MAX: u64 = 4 << 20;

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let now = wall_clock().to_string();
    let path = args.output.unwrap_or_else(|| format!("weir-report-{}.tar", now.replace(':', "")).into());
    let mut files = vec![("version.txt".to_owned(), format!("weir {} at {now}\n", env!("CARGO_PKG_VERSION")))];
    let mut errors = Vec::new();
    let mut take = |name: &str, found: anyhow::Result<String>| match found {
        Ok(text) => files.push((name.to_owned(), redacted(&text))),
        Err(error) => errors.push(format!("{name}: {error:#}")),
    };
    for (path, name) in ASKED {
        take(name, answered(&args.status, path));
    }
    for (path, name) in READ {
        take(name, std::fs::read_to_string(path).map_err(Into::into));
    }
    take("log.txt", args.log.as_deref().map_or_else(|| journal(&args.unit), tail));
    if !errors.is_empty() {
        files.push(("errors.txt".to_owned(), redacted(&format!("{}\n", errors.join("\n")))));
    }
    let mut options = File::options();
    // It names clients: for its owner only.
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.write(true).create_new(true).open(&path).with_context(|| path.display().to_string())?;
    if let Err(error) = write_tar(file, &files) {
        // An incomplete archive is useless. The first error is the one to report.
        let _left = std::fs::remove_file(&path);
        return Err(error).with_context(|| path.display().to_string());
    }
    print(&match args.format {
        Format::Human => {
            let missing: String = errors.iter().map(|error| format!("  not in it: {error}\n")).collect();
            format!("{}: {} files\n{missing}", path.display(), files.len())
        }
        Format::Json => {
            let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
            let answer = json!({"archive": path.display().to_string(), "files": names, "missing": errors});
            format!("{answer:#}\n")
        }
    })?;
    Ok(if errors.is_empty() { Exit::Success } else { Exit::Reserved })
}

fn answered(base: &str, path: &str) -> anyhow::Result<String> {
    let (good, text) = broker::text(base, path)?;
    anyhow::ensure!(good, "{}", text.trim());
    Ok(text)
}

fn journal(unit: &str) -> anyhow::Result<String> {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--output=short-iso", "--lines", LOG_LINES, "--unit", unit]);
    let output = command.stdin(Stdio::null()).output().context("journalctl (or give --log FILE)")?;
    anyhow::ensure!(output.status.success(), "journalctl: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tail(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Masks the places where an operator may have put a secret into a declaration or a log line: user information and
/// queries of URLs, and values of headers.
fn redacted(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut answer) => {
            mask_value(&mut answer);
            mask_strings(&mut answer);
            format!("{answer:#}\n")
        }
        Err(_) => mask_text(text),
    }
}

/// Texts within an answer may hold documents, too: diffs, changed values.
fn mask_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = mask_text(text),
        Value::Array(items) => items.iter_mut().for_each(mask_strings),
        Value::Object(fields) => fields.values_mut().for_each(mask_strings),
        _ => {}
    }
}

/// The plainest tar (ustar, POSIX.1-1988): regular files, no owner, no time.
fn write_tar(mut file: impl Write, files: &[(String, String)]) -> std::io::Result<()> {
    const BLOCK: usize = 512;
    for (name, text) in files {
        let mut header = [0_u8; BLOCK];
        let mut field = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        field(0, format!("weir-report/{name}").as_bytes());
        field(100, b"0000600\0");
        field(108, b"0000000\0");
        field(116, b"0000000\0");
        field(124, format!("{:011o}\0", text.len()).as_bytes());
        field(136, b"00000000000\0");
        field(148, b"        ");
        field(156, b"0");
        field(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        file.write_all(&header)?;
        file.write_all(text.as_bytes())?;
        file.write_all(&vec![0; text.len().next_multiple_of(BLOCK) - text.len()])?;
    }
    file.write_all(&[0; 2 * BLOCK])?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_and_headers_are_masked() {
        let answer = json!({"diff": "+    headers:\n+      x-key: hunter2\n+    url: http://a/?k=hunter2\n",
            "after": "{\"http\":{\"headers\":{\"x-key\":\"hunter2\"}}}", "data": {"headers": {"x-key": "hunter2"}}});
        for text in [answer.to_string(), "log: http://ada:hunter2@a/?k=hunter2 x\n".to_owned()] {
            let clean = redacted(&text);
            assert!(!clean.contains("hunter2") && clean.contains("***"), "{clean}");
        }
        assert_eq!(redacted("metric 1\n"), "metric 1\n");
    }

    #[test]
    fn tar_reads_the_archive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.tar");
        let files = [("a.txt".to_owned(), "x".repeat(600)), ("machine/b".to_owned(), String::new())];
        write_tar(File::create(&path).unwrap(), &files).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "weir-report/a.txt\nweir-report/machine/b\n");
        let read = Command::new("tar").args(["-xOf"]).arg(&path).arg("weir-report/a.txt").output().unwrap();
        assert_eq!(read.stdout, "x".repeat(600).as_bytes());
    }
}
