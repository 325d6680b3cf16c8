//! Finds the process that holds an address, through /proc.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::SocketKey;

/// Processes examined at most: the result is only used for a message.
const PROCESSES_MAX: usize = 20_000;
/// TCP_LISTEN in /proc/net/tcp.
const STATE_LISTEN: &str = "0A";

/// `process 4711 (nginx)`, where a process can be found that listens where `key` wants to.
pub(super) fn describe(key: &SocketKey) -> Option<String> {
    let SocketKey::Tcp(_) = key else { return None };
    let inodes = listening_at(key);
    if inodes.is_empty() {
        return None;
    }
    let own = std::process::id();
    for entry in fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = |fd: fs::DirEntry| {
            fs::read_link(fd.path()).is_ok_and(|target| target.to_str().is_some_and(|text| inodes.contains(text)))
        };
        if descriptors.flatten().any(holds) {
            if pid == own {
                return Some("this broker itself".to_owned());
            }
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", name.trim_end()));
        }
    }
    // It may have closed the socket meanwhile.
    (!inodes.is_disjoint(&listening_at(key))).then(|| "a process of another user".to_owned())
}

/// The sockets that listen where `key` wants to, as /proc/PID/fd names them.
fn listening_at(key: &SocketKey) -> BTreeSet<String> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listeners(&table))
        .filter(|(address, _)| SocketKey::Tcp(*address).overlaps(key))
        .map(|(_, inode)| format!("socket:[{inode}]"))
        .collect()
}

/// Listening sockets and their inodes: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
fn listeners(table: &str) -> Vec<(SocketAddr, String)> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (*state == STATE_LISTEN).then_some(())?;
        Some((SocketAddr::new(ip_of(ip)?, port), (*inode).to_owned()))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Groups of four bytes, each in the machine's own byte order.
fn ip_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0u8; 16];
            for (at, chunk) in bytes.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at * 8)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_listener_is_found() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(host) else { continue };
            let address = listener.local_addr().unwrap();
            assert_eq!(describe(&SocketKey::Tcp(address)).as_deref(), Some("this broker itself"), "{host}");
        }
    }
}
