//! An `http` authentication service: right passwords are allowed, requests without a password are answered with 422.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::probe::PASSWORD;
use crate::support::GUARD;

/// It serves until the process ends.
pub struct HttpService {
    address: SocketAddr,
}

impl HttpService {
    pub fn start() -> HttpService {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                std::thread::spawn(move || serve(stream));
            }
        });
        HttpService { address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Answers requests with a JSON body until the broker closes the connection.
fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(GUARD)).ok()?;
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
            request.extend_from_slice(&buffer[..count]);
        }
        let request = String::from_utf8_lossy(&request);
        let (status, body) = if request.contains(PASSWORD) {
            ("200 OK", r#"{"result": "allow"}"#)
        } else {
            ("422 Unprocessable Content", r#"{"error": "a password is required"}"#)
        };
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
            .ok()?;
    }
}
