//! The defaults of an endpoint, on the real program, in seconds.

use std::io::Write;
use std::net::TcpStream;

use crate::net::client::{Client, connect_with};
use crate::net::floods::{is_closed_by_broker, tcp_from};
use crate::support::weir::Weir;
use crate::support::{ports, stream};

/// `maxPendingPerAddress` and `maxConnectBytes` by default.
const PENDING_PER_ADDRESS: usize = 256;
const CONNECT_BYTES: usize = 16 << 10;

#[test]
fn by_default_what_an_address_can_have_pending_is_bounded() {
    let address = ports::free_address();
    let port = address.port();
    let documents = format!(
        "auth: {{name: default, chain: [{{anonymous: {{}}}}]}}\n---\n\
         endpoint: {{name: main, host: 127.0.0.1, port: {port}, enableAcl: false}}\n"
    );
    let mut weir = Weir::new().with_shards(2).with_files(&[("documents.yaml", &documents)]);
    weir.run_until_accepting(&[address]);
    // Each has begun a CONNECT that is as long as it may be.
    let connect = connect_with(5, "c", &[], Some(("u", &"p".repeat(CONNECT_BYTES - 30))));
    let begin = |_| {
        let mut stream = stream::tcp(address);
        let _ = stream.write_all(&connect[..connect.len() - 1]);
        stream
    };
    let mut silent: Vec<TcpStream> = (0..PENDING_PER_ADDRESS + 50).map(begin).collect();
    weir.until("those above the bound are closed", || {
        silent.iter_mut().filter_map(|stream| is_closed_by_broker(stream).then_some(())).count() >= 50
    });
    Client::enter(tcp_from(2, address), 4, "another address").ping();
    let mut large = Client::new(tcp_from(2, address), 5);
    let _ = large.try_send(&connect_with(5, "c", &[], Some(("u", &"p".repeat(CONNECT_BYTES)))));
    assert_eq!(large.receive().map(|(_, body)| body[1]), Some(0x95), "packet too large");
}
