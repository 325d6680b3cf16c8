//! Scripts over real sockets.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::script::{Patience, Transport, TransportEvent};
use crate::support::GUARD;

/// How long to wait for what must not happen.
const MOMENT: Duration = Duration::from_millis(30);

/// Connections to the endpoints of one broker.
pub struct TcpTransport {
    endpoints: HashMap<String, SocketAddr>,
    links: Vec<TcpStream>,
    client_prefix: String,
}

impl TcpTransport {
    /// `client_prefix` keeps the client ids of scripts that share the broker apart.
    pub fn new(endpoints: HashMap<String, SocketAddr>, client_prefix: &str) -> TcpTransport {
        TcpTransport { endpoints, links: Vec::new(), client_prefix: client_prefix.to_owned() }
    }
}

impl Transport for TcpTransport {
    fn open(&mut self, endpoint: &str) -> Result<usize, String> {
        let address = self.endpoints.get(endpoint).ok_or_else(|| format!("no endpoint is named {endpoint:?}"))?;
        let stream = TcpStream::connect_timeout(address, GUARD).map_err(|error| format!("{address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        self.links.push(stream);
        Ok(self.links.len() - 1)
    }

    fn send(&mut self, link: usize, bytes: &[u8]) {
        // A broker that refuses a packet may close before all of it is sent: what it answered is judged, not this.
        let _ = self.links[link].write_all(bytes);
    }

    fn poll(&mut self, link: usize, patience: Patience) -> TransportEvent {
        let timeout = if patience == Patience::Guard { GUARD } else { MOMENT };
        let stream = &mut self.links[link];
        stream.set_read_timeout(Some(timeout)).expect("a timeout above zero");
        let mut buffer = vec![0; 65_536];
        match stream.read(&mut buffer) {
            Ok(0) => TransportEvent::Closed,
            Ok(count) => {
                buffer.truncate(count);
                TransportEvent::Bytes(buffer)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                TransportEvent::Nothing
            }
            // A reset: the broker closed while bytes of ours were unread.
            Err(_) => TransportEvent::Closed,
        }
    }

    fn close(&mut self, link: usize) {
        let stream = &mut self.links[link];
        if stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        stream.set_read_timeout(Some(GUARD)).expect("a timeout above zero");
        let mut buffer = vec![0; 65_536];
        while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
    }

    fn advance(&mut self, millis: u64) {
        std::thread::sleep(Duration::from_millis(millis));
    }

    fn settle(&mut self) {
        std::thread::sleep(MOMENT);
    }

    fn is_synchronous(&self) -> bool {
        false
    }

    fn client_id(&mut self, id: &str) -> String {
        format!("{}{id}", self.client_prefix)
    }
}
