//! The load generator's loop: one epoll thread, large buffers, no allocation per message.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};

use crate::transport::{Listener, Transport};
use crate::wire::{self, Frame, Version};

/// Bytes taken from a socket at once.
const READ_BYTES: usize = 256 * 1024;
/// Connections being opened at once: fewer than the shortest backlog of the brokers (100).
const OPENING_AT_ONCE: usize = 64;
/// How long a broker may take over a connection or a subscription.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the clients connect, and how.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub listener: Listener,
    pub tls: Option<Arc<ClientConfig>>,
    /// A client far away with little memory: small segments, a small receive buffer. What it does not read soon
    /// waits in the broker, not in the kernel.
    pub slow: bool,
}

/// What a row does with what arrives.
pub trait Handler {
    /// A whole packet arrived on connection `conn`. Answers go out with [`Clients::push`].
    fn frame(&mut self, conn: usize, frame: Frame<'_>, clients: &mut Clients) -> Result<()>;

    /// All that was ready has been read: the moment to publish what the windows allow.
    fn end_of_turn(&mut self, _clients: &mut Clients) -> Result<()> {
        Ok(())
    }
}

struct Client {
    stream: TcpStream,
    transport: Transport,
    /// A packet whose end has not come yet.
    partial: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    dirty: bool,
}

/// The connections' sending side.
pub struct Clients {
    clients: Vec<Client>,
    dirty: Vec<usize>,
}

impl Clients {
    /// Queues one packet; it leaves at the end of the loop's turn, with all others queued for the connection.
    pub fn push(&mut self, conn: usize, packet: &[u8]) {
        let client = &mut self.clients[conn];
        client.transport.push(packet, &mut client.out);
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(conn);
        }
    }

    fn flush(&mut self) -> Result<()> {
        for conn in self.dirty.drain(..) {
            let client = &mut self.clients[conn];
            client.dirty = false;
            client.flush()?;
        }
        Ok(())
    }
}

impl Client {
    fn flush(&mut self) -> Result<()> {
        self.sent = self.transport.write(&mut self.stream, &self.out, self.sent)?;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        Ok(())
    }
}

/// The loop.
pub struct Engine {
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    /// Connections that had more to read than one turn takes.
    again: Vec<usize>,
    /// Connections to read in the present turn.
    ready: Vec<usize>,
    pub clients: Clients,
}

impl Engine {
    pub fn new() -> Result<Engine> {
        Ok(Engine {
            poll: Poll::new().context("epoll")?,
            events: Events::with_capacity(1024),
            scratch: vec![0; READ_BYTES],
            again: Vec::new(),
            ready: Vec::new(),
            clients: Clients { clients: Vec::new(), dirty: Vec::new() },
        })
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.clients.clients.len()
    }

    /// A second handle on a connection's socket (plain TCP only), for a thread that paces what it sends.
    pub fn second_handle(&self, conn: usize) -> Result<std::net::TcpStream> {
        let stream = &self.clients.clients[conn].stream;
        Ok(stream.as_fd().try_clone_to_owned().context("a second handle on a socket")?.into())
    }

    /// One turn: waits for readiness, reads, hands frames to `handler`, writes what was queued.
    pub fn turn(&mut self, timeout: Duration, handler: &mut dyn Handler) -> Result<()> {
        let timeout = if self.again.is_empty() { timeout } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => other.context("epoll_wait")?,
        }
        self.ready.clear();
        self.ready.append(&mut self.again);
        for event in &self.events {
            let conn = event.token().0;
            if event.is_writable() {
                self.clients.clients[conn].flush()?;
            }
            if event.is_readable() || event.is_read_closed() {
                self.ready.push(conn);
            }
        }
        for index in 0..self.ready.len() {
            let conn = self.ready[index];
            self.read(conn, handler).with_context(|| format!("connection {conn}"))?;
        }
        handler.end_of_turn(&mut self.clients)?;
        self.clients.flush()
    }

    /// Turns until `done` or `deadline`; whether it was done.
    pub fn run<H: Handler>(&mut self, handler: &mut H, deadline: Instant, done: fn(&H) -> bool) -> Result<bool> {
        while !done(handler) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.turn(left.min(Duration::from_millis(100)), handler)?;
        }
        Ok(true)
    }

    fn read(&mut self, conn: usize, handler: &mut dyn Handler) -> Result<()> {
        let client = &mut self.clients.clients[conn];
        let (count, drained) = client.transport.read(&mut client.stream, &mut self.scratch)?;
        if !drained {
            self.again.push(conn);
        }
        if client.sent < client.out.len() || !client.transport.is_open() {
            client.flush()?;
        }
        if count == 0 {
            return Ok(());
        }
        let fresh = &self.scratch[..count];
        if client.partial.is_empty() {
            let used = frames(conn, fresh, handler, &mut self.clients)?;
            self.clients.clients[conn].partial.extend_from_slice(&fresh[used..]);
        } else {
            let mut partial = std::mem::take(&mut client.partial);
            partial.extend_from_slice(fresh);
            let used = frames(conn, &partial, handler, &mut self.clients)?;
            partial.drain(..used);
            self.clients.clients[conn].partial = partial;
        }
        Ok(())
    }

    /// Opens `count` connections, each with its CONNECT; returns when every CONNACK has come.
    pub fn connect(&mut self, target: &Target, version: Version, prefix: &str, count: usize) -> Result<()> {
        let first = self.len();
        let mut opening = Opening { welcomed: 0, awaiting: first, upgrades: Vec::new() };
        let deadline = Instant::now() + PATIENCE + Duration::from_millis(5) * count as u32;
        while opening.welcomed < count {
            ensure!(Instant::now() < deadline, "the broker welcomed only {} of {count} clients", opening.welcomed);
            while self.len() < first + count && self.len() - first - opening.welcomed < OPENING_AT_ONCE {
                self.open(target)?;
                let conn = self.len() - 1;
                let packet = wire::connect(version, &format!("{prefix}-{}", conn - first));
                if target.listener == Listener::WebSocket {
                    opening.upgrades.push((conn, packet));
                } else {
                    self.clients.push(conn, &packet);
                }
            }
            self.clients.flush()?;
            self.turn(Duration::from_millis(100), &mut opening)?;
            let clients = &mut self.clients;
            opening.upgrades.retain(|(conn, packet)| {
                let open = clients.clients[*conn].transport.is_open();
                if open {
                    clients.push(*conn, packet);
                }
                !open
            });
        }
        Ok(())
    }

    /// Opens a connection; what it says first is the caller's to push.
    pub fn open(&mut self, target: &Target) -> Result<()> {
        let mut stream = dial(target).with_context(|| format!("connecting to {}", target.address))?;
        let conn = self.len();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(conn), interest).context("epoll_ctl")?;
        let transport = Transport::new(target.listener, target.tls.as_ref())?;
        let out = transport.opening();
        // The first writable event, when the connection stands, sends what waits.
        self.clients.clients.push(Client { stream, transport, partial: Vec::new(), out, sent: 0, dirty: false });
        Ok(())
    }

    /// Sends `packets` (connection, SUBSCRIBE or UNSUBSCRIBE), a few at a time, until each is acknowledged and granted.
    pub fn acknowledged(
        &mut self,
        version: Version,
        packets: &mut dyn Iterator<Item = (usize, Vec<u8>)>,
    ) -> Result<()> {
        let mut granting = Granting { version, answered: 0, refused: 0 };
        let (mut asked, mut more) = (0, true);
        let mut deadline = Instant::now() + PATIENCE;
        while more || granting.answered < asked {
            while more && asked - granting.answered < OPENING_AT_ONCE {
                match packets.next() {
                    Some((conn, packet)) => self.clients.push(conn, &packet),
                    None => more = false,
                }
                asked += usize::from(more);
            }
            self.clients.flush()?;
            let before = granting.answered;
            self.turn(Duration::from_millis(100), &mut granting)?;
            if granting.answered > before {
                deadline = Instant::now() + PATIENCE;
            }
            ensure!(Instant::now() < deadline, "the broker answered only {} of {asked} requests", granting.answered);
            ensure!(granting.refused == 0, "the broker refused {} subscriptions", granting.refused);
        }
        Ok(())
    }
}

fn dial(target: &Target) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target.address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if target.slow {
        socket.set_recv_buffer_size(16 * 1024)?;
        socket.set_tcp_mss(1400)?;
    }
    match socket.connect(&target.address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn frames(conn: usize, buf: &[u8], handler: &mut dyn Handler, clients: &mut Clients) -> Result<usize> {
    let mut used = 0;
    while let Some((frame, length)) = wire::split_frame(&buf[used..])? {
        handler.frame(conn, frame, clients)?;
        used += length;
    }
    Ok(used)
}

struct Opening {
    welcomed: usize,
    awaiting: usize,
    upgrades: Vec<(usize, Vec<u8>)>,
}

impl Handler for Opening {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        ensure!(conn >= self.awaiting, "an open connection got a packet of type {} while others connect", frame.kind());
        match wire::connack_code(frame)? {
            0 => self.welcomed += 1,
            code => bail!("the broker refused a client with code {code:#04x}"),
        }
        Ok(())
    }
}

struct Granting {
    version: Version,
    answered: usize,
    refused: usize,
}

impl Handler for Granting {
    fn frame(&mut self, _conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::SUBACK => self.refused += usize::from(!wire::suback_granted(self.version, frame)),
            wire::UNSUBACK => {}
            kind => bail!("expected SUBACK, the broker sent a packet of type {kind}"),
        }
        self.answered += 1;
        Ok(())
    }
}
