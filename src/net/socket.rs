//! Listening sockets: binding, sharing a port during a hand-over, status.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, fs, io};

use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::policy::ChildOptions;

/// The key of a listening socket: its bound address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketKey {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl SocketKey {
    /// Whether two addresses conflict at bind: same port, and equal or one a wildcard of the other.
    pub fn overlaps(&self, other: &SocketKey) -> bool {
        match (self, other) {
            (SocketKey::Unix(a), SocketKey::Unix(b)) => a == b,
            (SocketKey::Tcp(a), SocketKey::Tcp(b)) => {
                let covers = |wide: IpAddr, narrow: IpAddr| match wide {
                    IpAddr::V4(wide) => wide == Ipv4Addr::UNSPECIFIED && narrow.to_canonical().is_ipv4(),
                    // Bound dual-stack.
                    IpAddr::V6(wide) => wide.is_unspecified(),
                };
                a.port() == b.port()
                    && (a.ip().to_canonical() == b.ip().to_canonical()
                        || covers(a.ip(), b.ip())
                        || covers(b.ip(), a.ip()))
            }
            _ => false,
        }
    }
}

impl fmt::Display for SocketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketKey::Tcp(address) => write!(f, "{address}"),
            SocketKey::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Options of a listening socket. `None`: the system's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Length of the accept queue; the system's `somaxconn` caps it.
    pub backlog: u32,
    /// SO_REUSEPORT, permanently: other processes of the same user may bind the port too.
    pub reuse_port: bool,
    pub receive_buffer_bytes: Option<u32>,
    pub send_buffer_bytes: Option<u32>,
    /// TCP_DEFER_ACCEPT, seconds: a connection is accepted when its first bytes arrived.
    pub defer_accept_s: Option<u32>,
    /// Permission bits of a Unix socket's file.
    pub unix_mode: Option<u32>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            backlog: 1024,
            reuse_port: false,
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
            defer_accept_s: None,
            unix_mode: None,
        }
    }
}

/// A bound, listening socket that no acceptor serves yet: the input of [`super::ListenerChange::Add`]. Dropping it
/// releases the address.
pub struct BoundSocket {
    pub(super) key: SocketKey,
    pub(super) socket: Arc<ListeningSocket>,
}

impl BoundSocket {
    /// The bound address, with the port that the system chose for port 0.
    pub fn key(&self) -> &SocketKey {
        &self.key
    }
}

/// One listening socket. Dropping it removes the file of a Unix socket.
pub(super) struct ListeningSocket {
    pub(super) socket: Socket,
    options: SocketOptions,
    file: Option<SocketFile>,
}

/// The file of a Unix socket. It is removed only if it is still the file that was created (same device and inode).
struct SocketFile {
    path: PathBuf,
    device_inode: (u64, u64),
}

impl SocketFile {
    fn is_there(&self) -> bool {
        device_inode(&self.path).is_ok_and(|found| found == self.device_inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "Unix socket file not removed");
        }
    }
}

fn device_inode(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The status of a listening socket, read from the socket itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    pub key: SocketKey,
    /// Whether the socket listens at that address (for a Unix socket: and its file exists).
    pub alive: bool,
    /// Why it is not alive.
    pub error: Option<String>,
}

impl ListeningSocket {
    fn status(&self, key: &SocketKey) -> ListenerStatus {
        let error = self.check(key).err().map(|error| error.to_string());
        ListenerStatus { key: key.clone(), alive: error.is_none(), error }
    }

    fn check(&self, key: &SocketKey) -> io::Result<()> {
        if !self.socket.is_listener()? {
            return Err(io::Error::other("the socket is not listening"));
        }
        match key {
            SocketKey::Tcp(wanted) => {
                let local = self.socket.local_addr()?.as_socket();
                if local != Some(*wanted) {
                    return Err(io::Error::other(format!("the socket is bound to {local:?}")));
                }
            }
            SocketKey::Unix(path) => {
                if !self.file.as_ref().is_some_and(SocketFile::is_there) {
                    return Err(io::Error::other(format!("{} was removed or replaced", path.display())));
                }
            }
        }
        Ok(())
    }

    /// Stops taking new connections; TCP handshakes in progress complete and end in the accept queue. New connections
    /// go to another listener of the address.
    ///
    /// The kernel looks up a listener when a SYN arrives, and skips one that is bound to another interface. Later
    /// segments belong to the handshake, whatever interface its listener is bound to by then.
    pub(super) fn yield_port(&self) -> io::Result<()> {
        self.socket.bind_device_by_index_v4(NO_INTERFACE[0])
    }

    /// Sets the options that accepted sockets inherit.
    pub(super) fn set_child_options(&self, child: &ChildOptions) -> io::Result<()> {
        let socket = &self.socket;
        if self.file.is_none() {
            socket.set_tcp_nodelay(child.no_delay)?;
            socket.set_keepalive(child.keep_alive.is_some())?;
            if let Some(keep_alive) = child.keep_alive {
                let mut parameters = TcpKeepalive::new();
                if let Some(idle_s) = keep_alive.idle_s {
                    parameters = parameters.with_time(Duration::from_secs(u64::from(idle_s)));
                }
                if let Some(interval_s) = keep_alive.interval_s {
                    parameters = parameters.with_interval(Duration::from_secs(u64::from(interval_s)));
                }
                if let Some(count) = keep_alive.count {
                    parameters = parameters.with_retries(count);
                }
                socket.set_tcp_keepalive(&parameters)?;
            }
            // Bytes that the peer cannot receive yet stay in the broker, where they are bounded and counted. Otherwise
            // the kernel takes megabytes for each peer that does not read; ten thousand of them exhaust the TCP memory
            // of the machine, and the kernel drops segments of all connections.
            socket.set_tcp_notsent_lowat(UNSENT_MAX_BYTES)?;
            socket.set_tcp_user_timeout(child.user_timeout_ms.map(|ms| Duration::from_millis(u64::from(ms))))?;
        }
        if let Some(bytes) = child.send_buffer_bytes.or(self.options.send_buffer_bytes) {
            socket.set_send_buffer_size(bytes as usize)?;
        }
        if let Some(bytes) = child.receive_buffer_bytes.or(self.options.receive_buffer_bytes) {
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        Ok(())
    }
}

/// TCP_NOTSENT_LOWAT, bytes: unsent bytes per socket above which the kernel accepts no more; up to one segment of 64
/// KiB may be added.
const UNSENT_MAX_BYTES: u32 = 32 << 10;

/// Interface indices that no machine has. A socket bound to one receives no packet.
const NO_INTERFACE: [Option<NonZeroU32>; 2] = [NonZeroU32::new(0x7FFF_FFFF), NonZeroU32::new(0x7FFF_FFFE)];

/// All listening sockets of the acceptor, for overlapping binds and for the status.
#[derive(Default)]
pub(super) struct SocketPool {
    sockets: Mutex<HashMap<SocketKey, Arc<ListeningSocket>>>,
    /// Sockets of draining listeners, which still complete handshakes.
    draining: Mutex<Vec<(SocketKey, Arc<ListeningSocket>)>>,
    /// Ports that were bound twice for a hand-over, and that the kernel still treats as shared.
    shared_ports: Mutex<HashSet<u16>>,
}

impl SocketPool {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketKey, Arc<ListeningSocket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, key: SocketKey, socket: Arc<ListeningSocket>) {
        self.lock().insert(key, socket);
    }

    /// Removes `socket`, unless another socket has the key now.
    pub(super) fn remove(&self, key: &SocketKey, socket: &Arc<ListeningSocket>) {
        let mut sockets = self.lock();
        if sockets.get(key).is_some_and(|held| Arc::ptr_eq(held, socket)) {
            sockets.remove(key);
        }
    }

    /// Records a draining socket for overlapping binds, until [`SocketPool::remove_draining`].
    pub(super) fn add_draining(&self, key: &SocketKey, socket: &Arc<ListeningSocket>) {
        self.lock_draining().push((key.clone(), Arc::clone(socket)));
    }

    pub(super) fn remove_draining(&self, socket: &Arc<ListeningSocket>) {
        self.lock_draining().retain(|(_, held)| !Arc::ptr_eq(held, socket));
    }

    fn lock_draining(&self) -> MutexGuard<'_, Vec<(SocketKey, Arc<ListeningSocket>)>> {
        self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn statuses(&self) -> Vec<ListenerStatus> {
        let mut all: Vec<_> = self.lock().iter().map(|(key, socket)| socket.status(key)).collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }

    pub(super) fn status(&self, key: &SocketKey) -> Option<ListenerStatus> {
        self.lock().get(key).map(|socket| socket.status(key))
    }

    /// Binds `key`. If sockets of this pool overlap it, they and the new one share the port (SO_REUSEPORT) during the
    /// bind only, so that another process cannot join.
    pub(super) fn bind(&self, key: &SocketKey, options: &SocketOptions) -> io::Result<BoundSocket> {
        let address = match key {
            SocketKey::Unix(path) => return bind_unix(path, options),
            SocketKey::Tcp(address) => *address,
        };
        match bind_tcp(address, options, options.reuse_port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
        let mut overlapping: Vec<Arc<ListeningSocket>> =
            self.lock().iter().filter(|(held, _)| held.overlaps(key)).map(|(_, socket)| Arc::clone(socket)).collect();
        let draining = self.lock_draining();
        overlapping
            .extend(draining.iter().filter(|(held, _)| held.overlaps(key)).map(|(_, socket)| Arc::clone(socket)));
        drop(draining);
        if overlapping.is_empty() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let shared = overlapping.iter().try_for_each(|socket| socket.socket.set_reuse_port(true));
        let bound = shared.and_then(|()| bind_tcp(address, options, true));
        for socket in &overlapping {
            socket.socket.set_reuse_port(socket.options.reuse_port)?;
        }
        let bound = bound?;
        bound.socket.socket.set_reuse_port(options.reuse_port)?;
        self.shared_ports.lock().unwrap_or_else(PoisonError::into_inner).insert(address.port());
        self.close_shared_ports();
        Ok(bound)
    }

    /// Ends the sharing of ports in the kernel. Clearing SO_REUSEPORT is not enough: the port itself records that its
    /// last socket was bound with it, and admits the next socket that has the option without checking the others. A
    /// bind of the same port without the option, to an unused address, clears that record.
    ///
    /// If wildcards of both families (or `::`, which covers both) are bound, there is no unused address, and the port
    /// stays open to other processes of the same user that set SO_REUSEPORT, until it is bound anew.
    pub(super) fn close_shared_ports(&self) {
        let mut shared = self.shared_ports.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|port| {
            let sockets = self.lock();
            let declared = sockets.iter().any(|(key, socket)| {
                matches!(key, SocketKey::Tcp(address) if address.port() == *port) && socket.options.reuse_port
            });
            !declared && bind_unused_address(*port).is_err()
        });
    }
}

fn bind_tcp(address: SocketAddr, options: &SocketOptions, reuse_port: bool) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `::` is dual-stack; any other address has one family only.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Before listen, since the buffer size fixes the window scale.
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(seconds) = options.defer_accept_s {
        set_defer_accept(&socket, seconds)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(backlog(options))?;
    let local = socket.local_addr()?.as_socket().unwrap_or(address);
    let socket = ListeningSocket { socket, options: options.clone(), file: None };
    Ok(BoundSocket { key: SocketKey::Tcp(local), socket: Arc::new(socket) })
}

/// Binds a port for a moment, at an address of the documentation ranges (RFC 5737, RFC 3849).
fn bind_unused_address(port: u16) -> io::Result<()> {
    let bind = |address: IpAddr, interface: Option<NonZeroU32>| {
        let socket = Socket::new(Domain::for_address(SocketAddr::new(address, port)), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
        socket.bind_device_by_index_v4(interface)?;
        socket.bind(&SockAddr::from(SocketAddr::new(address, port)))
    };
    let v4 = Ipv4Addr::new(192, 0, 2, 1).into();
    bind(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1).into(), None)
        .or_else(|_: io::Error| bind(v4, None))
        // A draining wildcard is bound to another interface, so it does not conflict with this.
        .or_else(|_| bind(v4, NO_INTERFACE[1]))
}

fn bind_unix(path: &Path, options: &SocketOptions) -> io::Result<BoundSocket> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // From here on, dropping `file` removes the file, also if a later step fails.
    let file = SocketFile { path: path.to_owned(), device_inode: device_inode(path)? };
    if let Some(mode) = options.unix_mode {
        // No client can connect before listen, so the wider permissions are never in effect.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(backlog(options))?;
    let socket = ListeningSocket { socket, options: options.clone(), file: Some(file) };
    Ok(BoundSocket { key: SocketKey::Unix(path.to_owned()), socket: Arc::new(socket) })
}

fn backlog(options: &SocketOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

/// Removes the file of a Unix socket that refuses connections, since its process has ended. Other files are not
/// removed.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file_type = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file_type.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{} exists and is not a socket; remove it or choose another path", path.display()),
        ));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Connected, or its backlog is full: another process listens there.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn set_defer_accept(socket: &Socket, seconds: u32) -> io::Result<()> {
    let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is open while `socket` is borrowed, and the pointer and length are those of one live `c_int`.
    // No safe wrapper has this option.
    #[expect(unsafe_code, reason = "see SAFETY")]
    let result = unsafe {
        let value = std::ptr::from_ref(&seconds).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
