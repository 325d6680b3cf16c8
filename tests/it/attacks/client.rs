//! A client that sends any bytes, from an address of choice. Its errors are values: a broker under attack may close.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::net::client::{connect_with, packet, string};
use crate::support::GUARD;

/// The address of attackers.
pub const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// The address of probes.
pub const PROBE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// First byte of packets from the broker.
pub const CONNACK: u8 = 0x20;
pub const SUBACK: u8 = 0x90;
pub const PINGRESP: u8 = 0xD0;

/// A TCP connection from an address of this machine.
pub fn open_from(source: Ipv4Addr, address: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GUARD))?;
    stream.set_write_timeout(Some(GUARD))?;
    Ok(stream)
}

/// An MQTT 5.0 connection of the attacker.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    /// Sends CONNECT and waits for the CONNACK with code 0.
    pub fn enter(address: SocketAddr, client_id: &str) -> Result<Client> {
        Client::enter_with(address, &connect_with(5, client_id, &[], None))
    }

    /// The same with any CONNECT.
    pub fn enter_with(address: SocketAddr, connect: &[u8]) -> Result<Client> {
        let mut client = Client { stream: open_from(ATTACKER, address)? };
        client.send(connect)?;
        match client.receive()? {
            (CONNACK, body) if body.get(1) == Some(&0) => Ok(client),
            (first, body) => {
                let code = body.get(1).copied().unwrap_or(0);
                Err(std::io::Error::other(format!("refused: packet {first:#04x}, code {code:#04x}")))
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next packet: its first byte and what follows the remaining length.
    pub fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        let (first, mut length, mut shift) = (byte[0], 0, 0);
        loop {
            self.stream.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7F) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((first, body))
    }

    /// Reads packets up to one with this first byte.
    pub fn receive_until(&mut self, wanted: u8) -> Result<Vec<u8>> {
        loop {
            let (first, body) = self.receive()?;
            match first {
                _ if first == wanted => return Ok(body),
                0xE0 => return Err(std::io::Error::other(format!("DISCONNECT {:#04x}", body.first().unwrap_or(&0)))),
                _ => {}
            }
        }
    }

    /// Subscribes with QoS 1 in packets of `per_packet` filters; how many were granted.
    pub fn subscribe(&mut self, filters: &[String], per_packet: usize) -> Result<usize> {
        let mut granted = 0;
        for filters in filters.chunks(per_packet) {
            self.send(&subscribe(filters.iter().map(String::as_str)))?;
            let suback = self.receive_until(SUBACK)?;
            granted += suback[3..].iter().filter(|code| **code < 0x80).count();
        }
        Ok(granted)
    }

    /// Waits until the broker has read everything that was sent.
    pub fn ping(&mut self) -> Result<()> {
        self.send(&[0xC0, 0])?;
        self.receive_until(PINGRESP).map(drop)
    }

    /// Reads and discards for `time`, or until the broker closes.
    pub fn discard_for(&mut self, time: Duration) -> Result<usize> {
        let end = std::time::Instant::now() + time;
        let (mut buffer, mut total) = (vec![0; 65_536], 0);
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(total);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => total += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }
}

/// SUBSCRIBE of 5.0 with QoS 1.
pub fn subscribe<'a>(filters: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut body = vec![0, 1, 0];
    for filter in filters {
        body.extend(string(filter));
        body.push(1);
    }
    packet(0x82, &body)
}

/// PUBLISH of 5.0 with QoS 0.
pub fn publish(topic: &str, payload: &[u8], retain: bool) -> Vec<u8> {
    packet(0x30 | u8::from(retain), &[&string(topic)[..], &[0], payload].concat())
}
