//! Addresses and address ranges in declarations.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `host`: an IP address, or `unix:/path` for a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// An address of all or one of the network interfaces.
    Ip(IpAddr),
    /// The path of a Unix socket.
    Unix(Arc<Path>),
}

impl Host {
    /// A socket address's `sun_path` holds 108 bytes, one of them the terminating NUL.
    const UNIX_PATH_MAX: usize = 107;

    /// Parses an IP address or `unix:/path`.
    ///
    /// # Errors
    /// `text` is neither.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
                return Err(AddressError::UnixPath(text.to_owned()));
            }
            if path.len() > Self::UNIX_PATH_MAX {
                return Err(AddressError::UnixPathTooLong);
            }
            return Ok(Self::Unix(Arc::from(Path::new(path))));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(Self::Ip).map_err(|_| AddressError::NotAnIpAddress(text.to_owned()))
    }
}

/// Why a text is not a [`Host`] or not a [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not an IP address.
    #[error("{0:?} is not an IP address")]
    NotAnIpAddress(String),
    /// It is not an absolute path of a file.
    #[error("{0:?} is not the absolute path of a Unix socket, like `unix:/run/weir.sock`")]
    UnixPath(String),
    /// The system allows 107 bytes.
    #[error("the path of a Unix socket has at most {} bytes", Host::UNIX_PATH_MAX)]
    UnixPathTooLong,
    /// The prefix is longer than the address.
    #[error("the prefix length must be 0 to {bits}, not {given:?}")]
    PrefixLength {
        /// Bits of the address.
        bits: u8,
        /// The given length.
        given: String,
    },
    /// Bits after the prefix are set.
    #[error("{text} has bits beyond its prefix; the network is {network}/{prefix_len}")]
    HostBits {
        /// The given text.
        text: String,
        /// The address of the network.
        network: IpAddr,
        /// The length of the prefix, bits.
        prefix_len: u8,
    },
}

impl TryFrom<String> for Host {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.to_string()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The declared address of an endpoint's listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// `host` is `None`: the node's `--host` applies.
    Tcp {
        /// `None`: the node's default.
        host: Option<IpAddr>,
        /// 0: the system picks a free one; see [`SourceFile::free_ports`](super::SourceFile::free_ports).
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: Arc<Path>,
    },
}

impl Listen {
    /// The address to bind on a node whose `--host` is `default_host`.
    pub fn bind_address(&self, default_host: IpAddr) -> BindAddress {
        match self {
            Self::Tcp { host, port } => BindAddress::Tcp(SocketAddr::new(host.unwrap_or(default_host), *port)),
            Self::Unix { path } => BindAddress::Unix(Arc::clone(path)),
        }
    }

    /// The TCP port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port, .. } => Some(*port),
            Self::Unix { .. } => None,
        }
    }
}

/// An address to bind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(Arc<Path>),
}

impl BindAddress {
    /// Whether the two addresses cannot be bound at the same time. `::` is bound for both address families; port 0 is a
    /// free one.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(a), Self::Unix(b)) => a == b,
            (Self::Tcp(a), Self::Tcp(b)) => a.port() == b.port() && a.port() != 0 && ips_overlap(a.ip(), b.ip()),
            _ => false,
        }
    }
}

fn ips_overlap(a: IpAddr, b: IpAddr) -> bool {
    match (a.to_canonical(), b.to_canonical()) {
        (IpAddr::V6(v6), _) | (_, IpAddr::V6(v6)) if v6.is_unspecified() => true,
        (IpAddr::V4(a), IpAddr::V4(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
        (a, b) => a == b,
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address range: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// Parses `address/prefix` or an address.
    ///
    /// # Errors
    /// `text` is neither, or the address has bits beyond the prefix.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| AddressError::NotAnIpAddress(address.to_owned()))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |p: &&str| !p.is_empty() && p.len() <= 3 && p.bytes().all(|b| b.is_ascii_digit());
        let prefix_len = match prefix {
            None => bits,
            Some(p) => Some(p)
                .filter(is_number)
                .and_then(|p| p.parse().ok())
                .filter(|&len| len <= bits)
                .ok_or_else(|| AddressError::PrefixLength { bits, given: p.to_owned() })?,
        };
        let network = mask(address, prefix_len);
        if network != address {
            return Err(AddressError::HostBits { text: text.to_owned(), network, prefix_len });
        }
        Ok(Self { network, prefix_len })
    }

    /// The first address of the range.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// The prefix length in bits.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether `address` is in the range. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.prefix_len) == self.network
    }

    /// Whether every address of `other` is in the range.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix_len <= other.prefix_len && self.contains(other.network)
    }
}

fn mask(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}
