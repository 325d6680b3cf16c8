//! Listening sockets: binding them, sharing a port for the moment of a hand-over, what is alive of them.

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

/// What a listening socket is known by: the address it is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketKey {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl SocketKey {
    /// Whether the two cannot be bound beside each other: same port, and an address that covers the other's.
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
    /// Connections that wait to be accepted; the system's `somaxconn` caps it.
    pub backlog: u32,
    /// SO_REUSEPORT, for good: other processes of the same user may bind the port too.
    pub reuse_port: bool,
    pub receive_buffer_bytes: Option<u32>,
    pub send_buffer_bytes: Option<u32>,
    /// TCP_DEFER_ACCEPT: a connection is accepted once its first bytes are there.
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

/// A socket that is bound and listens, and that nobody accepts from yet: the prepared half of a
/// [`super::ListenerChange::Add`]. Dropping it gives the address back.
pub struct BoundSocket {
    pub(super) key: SocketKey,
    pub(super) socket: Arc<ListeningSocket>,
}

impl BoundSocket {
    /// The address it is really bound to: the port that port 0 became.
    pub fn key(&self) -> &SocketKey {
        &self.key
    }
}

/// One listening socket. The file of a Unix socket is removed with it.
pub(super) struct ListeningSocket {
    pub(super) socket: Socket,
    options: SocketOptions,
    file: Option<SocketFile>,
}

/// A Unix socket's place in the file system: the file is ours for as long as it is the same file.
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
            tracing::warn!(path = %self.path.display(), %error, "the file of a closed Unix socket stays behind");
        }
    }
}

fn device_inode(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// What is known of a listening socket, read from the socket itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    pub key: SocketKey,
    /// Whether the kernel says that it listens at that address (for a Unix socket: that its file is there, too).
    pub alive: bool,
    /// Why, where it is not alive.
    pub error: Option<String>,
}

impl ListeningSocket {
    fn status(&self, key: &SocketKey) -> ListenerStatus {
        let error = self.check(key).err().map(|error| error.to_string());
        ListenerStatus { key: key.clone(), alive: error.is_none(), error }
    }

    fn check(&self, key: &SocketKey) -> io::Result<()> {
        if !self.socket.is_listener()? {
            return Err(io::Error::other("the socket does not listen"));
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
                    return Err(io::Error::other(format!("{} is gone or was replaced", path.display())));
                }
            }
        }
        Ok(())
    }

    /// Takes no new connection from now on; handshakes under way go on and end in the queue. A new connection meets
    /// whoever else listens at the address.
    ///
    /// The kernel looks for a listener when a SYN comes, and passes over one that is bound to another interface; what
    /// follows the SYN belongs to the handshake, wherever its listener is bound by then.
    pub(super) fn yield_port(&self) -> io::Result<()> {
        self.socket.bind_device_by_index_v4(NO_INTERFACE[0])
    }

    /// Sets what accepted sockets inherit.
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
            // What the peer has no room for stays with us, where it is bounded and counted: the kernel would take
            // megabytes for each peer that does not read, and ten thousand of them bring all sockets of the machine to
            // the end of its TCP memory, where segments of everybody are dropped.
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

/// Bytes that the kernel holds for a peer that has no room for them, above which it takes no more; up to one segment of
/// 64 KiB may come on top.
const UNSENT_MAX_BYTES: u32 = 32 << 10;

/// Indices of network interfaces that no machine has: the kernel counts from 1. What is bound to one gets no packet.
const NO_INTERFACE: [Option<NonZeroU32>; 2] = [NonZeroU32::new(0x7FFF_FFFF), NonZeroU32::new(0x7FFF_FFFE)];

/// Every listening socket the acceptor holds, for those who bind beside them and for the status.
#[derive(Default)]
pub(super) struct SocketPool {
    sockets: Mutex<HashMap<SocketKey, Arc<ListeningSocket>>>,
    /// Sockets that gave way to others and still finish handshakes.
    draining: Mutex<Vec<(SocketKey, Arc<ListeningSocket>)>>,
    /// Ports that were bound beside themselves, and that the kernel still takes for shared.
    shared_ports: Mutex<HashSet<u16>>,
}

impl SocketPool {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketKey, Arc<ListeningSocket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, key: SocketKey, socket: Arc<ListeningSocket>) {
        self.lock().insert(key, socket);
    }

    /// Removes `socket`, unless another has taken its place under the key.
    pub(super) fn remove(&self, key: &SocketKey, socket: &Arc<ListeningSocket>) {
        let mut sockets = self.lock();
        if sockets.get(key).is_some_and(|held| Arc::ptr_eq(held, socket)) {
            sockets.remove(key);
        }
    }

    /// Keeps a removed socket in mind for those who bind beside it, until [`SocketPool::forget_draining`].
    pub(super) fn note_leaving(&self, key: &SocketKey, socket: &Arc<ListeningSocket>) {
        self.lock_draining().push((key.clone(), Arc::clone(socket)));
    }

    pub(super) fn forget_draining(&self, socket: &Arc<ListeningSocket>) {
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

    /// Binds `key`. Where sockets of this pool overlap it, they and the new one share the port (SO_REUSEPORT) for the
    /// moment of the bind only: a second process never finds it open.
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

    /// Makes the kernel forget that ports were shared. Clearing SO_REUSEPORT is not enough: the port itself remembers
    /// that its last socket was bound with it, and admits the next one that has it without looking at the others. A bind
    /// of the same port without the option ends that, to an address that is nobody's.
    ///
    /// Where a wildcard of each family (or `::`, which is both) is bound, there is no such address, and the port stays
    /// open to other processes of the same user that set SO_REUSEPORT, until it is bound anew.
    pub(super) fn close_shared_ports(&self) {
        let mut shared = self.shared_ports.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|port| {
            let sockets = self.lock();
            let declared = sockets.iter().any(|(key, socket)| {
                matches!(key, SocketKey::Tcp(address) if address.port() == *port) && socket.options.reuse_port
            });
            !declared && bind_to_nobody(*port).is_err()
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
        // `::` means every address, IPv4's too; any other address has one family only.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Before listen: the window scale is fixed by the buffer's size then.
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

/// Binds a port for a moment, at an address of the ranges for documentation.
fn bind_to_nobody(port: u16) -> io::Result<()> {
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
        // A wildcard that gave way is bound to another interface, and so is not in the way of this.
        .or_else(|_| bind(v4, NO_INTERFACE[1]))
}

fn bind_unix(path: &Path, options: &SocketOptions) -> io::Result<BoundSocket> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // From here on the file is ours, and goes with `file` where a later step fails.
    let file = SocketFile { path: path.to_owned(), device_inode: device_inode(path)? };
    if let Some(mode) = options.unix_mode {
        // Nobody can connect before listen, so there is no moment with wider permissions.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(backlog(options))?;
    let socket = ListeningSocket { socket, options: options.clone(), file: Some(file) };
    Ok(BoundSocket { key: SocketKey::Unix(path.to_owned()), socket: Arc::new(socket) })
}

fn backlog(options: &SocketOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

/// Removes the file of a socket whose process is gone: one that refuses a connection. Anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file_type = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file_type.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{} exists and is no socket; remove it or choose another path", path.display()),
        ));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Connected, or its backlog is full: somebody lives there.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn set_defer_accept(socket: &Socket, seconds: u32) -> io::Result<()> {
    let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the pointer and length are those of one
    // live `c_int`. No safe wrapper knows this option.
    #[expect(unsafe_code, reason = "see SAFETY")]
    let result = unsafe {
        let value = std::ptr::from_ref(&seconds).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
