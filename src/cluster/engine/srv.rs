//! DNS SRV records (RFC 2782), from the name servers of the system.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Where the system names its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long one name server may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of an answer over UDP at most: the system's limit of a datagram.
const DATAGRAM_MAX: usize = 65_535;

/// One record: where a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    priority: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

/// The targets of `name`, those of the lowest priority number first. `name_servers`: instead of the system's.
///
/// # Errors
/// No name server has such records.
pub(super) async fn lookup(name: &str, name_servers: &[SocketAddr]) -> Result<Vec<Target>, String> {
    let system;
    let name_servers = if name_servers.is_empty() {
        system = of_system(Path::new(RESOLV_CONF)).await?;
        &system[..]
    } else {
        name_servers
    };
    let mut failures = Vec::new();
    for server in name_servers {
        match timeout(ANSWER_WITHIN, ask(*server, name)).await {
            Ok(Ok(targets)) => return Ok(targets),
            Ok(Err(reason)) => failures.push(format!("{server}: {reason}")),
            Err(_) => failures.push(format!("{server}: no answer in {} s", ANSWER_WITHIN.as_secs())),
        }
    }
    Err(failures.join("; "))
}

async fn of_system(path: &Path) -> Result<Vec<SocketAddr>, String> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    let servers = name_servers(&text);
    if servers.is_empty() {
        return Err(format!("{} names no name server", path.display()));
    }
    Ok(servers)
}

fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let values = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    values.filter_map(|value| value.trim().parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect()
}

async fn ask(server: SocketAddr, name: &str) -> Result<Vec<Target>, String> {
    let number = crate::random::number().map_err(|error| error.to_string())?;
    let id = (number & u64::from(u16::MAX)) as u16;
    let question = question(id, name)?;
    let words = |error: std::io::Error| error.to_string();
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(local).await.map_err(words)?;
    socket.connect(server).await.map_err(words)?;
    socket.send(&question).await.map_err(words)?;
    let mut answer = vec![0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut answer).await.map_err(words)?;
        match parse(&answer[..length], id, name) {
            Parsed::NotForUs => {}
            Parsed::Truncated => return over_tcp(server, &question, id, name).await,
            Parsed::Answer(targets) => return targets,
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8], id: u16, name: &str) -> Result<Vec<Target>, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        // A question is far below 64 KiB.
        stream.write_all(&u16::try_from(question.len()).unwrap_or_default().to_be_bytes()).await?;
        stream.write_all(question).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match parse(&exchange.await.map_err(|error| error.to_string())?, id, name) {
        Parsed::Answer(targets) => targets,
        Parsed::NotForUs | Parsed::Truncated => Err("the answer over TCP is not complete".to_owned()),
    }
}

fn question(id: u16, name: &str) -> Result<Vec<u8>, String> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let owner = Name::new(name.trim_end_matches('.')).map_err(|error| format!("`{name}`: {error}"))?;
    packet.questions.push(Question::new(owner, QTYPE::TYPE(TYPE::SRV), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

enum Parsed {
    /// Another question's answer, or no DNS message.
    NotForUs,
    Truncated,
    Answer(Result<Vec<Target>, String>),
}

fn parse(bytes: &[u8], id: u16, name: &str) -> Parsed {
    let Ok(packet) = Packet::parse(bytes) else { return Parsed::NotForUs };
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return Parsed::NotForUs;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Parsed::Truncated;
    }
    let mut targets: Vec<Target> = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::SRV(srv) => Some(Target { priority: srv.priority, host: srv.target.to_string(), port: srv.port }),
            _ => None,
        })
        // A single dot: the service is decidedly not there.
        .filter(|target| !target.host.is_empty() && target.host != ".")
        .collect();
    targets.sort();
    Parsed::Answer(match (packet.rcode(), targets.is_empty()) {
        (_, false) => Ok(targets),
        (RCODE::NoError | RCODE::NameError, true) => Err(format!("{name} has no SRV records")),
        (code, true) => Err(format!("{code:?}")),
    })
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::SRV;

    use super::*;

    const NAME: &str = "_nats._tcp.example.org";

    fn answer_to(question: &[u8], truncated: bool) -> Vec<u8> {
        let asked = Packet::parse(question).unwrap();
        assert_eq!(asked.questions[0].qname.to_string(), NAME);
        let mut packet = Packet::new_reply(asked.id());
        if truncated {
            packet.set_flags(PacketFlag::TRUNCATION);
        } else {
            for (priority, port, target) in
                [(20, 1, "far.example.org"), (10, 4222, "b.example.org"), (10, 4222, "a.example.org")]
            {
                let srv = SRV { priority, weight: 0, port, target: Name::new_unchecked(target) };
                packet.answers.push(ResourceRecord::new(Name::new_unchecked(NAME), CLASS::IN, 1, RData::SRV(srv)));
            }
        }
        packet.build_bytes_vec().unwrap()
    }

    fn shown(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| format!("{}:{}", target.host, target.port)).collect()
    }

    #[tokio::test]
    async fn records_come_by_priority_also_over_tcp_when_the_datagram_is_too_small() {
        for truncated in [false, true] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let socket = UdpSocket::bind(address).await.unwrap();
            tokio::spawn(async move {
                let mut question = [0; 512];
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                // Noise before the answer is skipped.
                socket.send_to(b"noise", from).await.unwrap();
                socket.send_to(&answer_to(&question[..length], truncated), from).await.unwrap();
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut question).await.unwrap();
                let answer = answer_to(&question, false);
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            });
            let targets = lookup(NAME, &[address]).await.unwrap();
            assert_eq!(shown(&targets), ["a.example.org:4222", "b.example.org:4222", "far.example.org:1"]);
        }
    }

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let text = "# c\nsearch example.org\nnameserver 10.0.0.1\n nameserver ::1 \nnameserver x\n";
        assert_eq!(name_servers(text), ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }

    #[test]
    fn a_name_without_records_and_garbage_are_no_targets() {
        let reply = |code| {
            let mut packet = Packet::new_reply(7);
            *packet.rcode_mut() = code;
            packet.build_bytes_vec().unwrap()
        };
        let reason = |bytes: &[u8]| match parse(bytes, 7, NAME) {
            Parsed::Answer(Err(reason)) => reason,
            _ => panic!("no refusal"),
        };
        assert!(reason(&reply(RCODE::NameError)).contains("has no SRV records"));
        assert!(reason(&reply(RCODE::NoError)).contains("has no SRV records"));
        assert_eq!(reason(&reply(RCODE::ServerFailure)), "ServerFailure");
        assert!(matches!(parse(&reply(RCODE::NoError), 8, NAME), Parsed::NotForUs));
        assert!(matches!(parse(b"garbage", 7, NAME), Parsed::NotForUs));
    }
}
