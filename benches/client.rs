//! The client in the process, beside one behind a socket: messages of 64 bytes to one MQTT subscriber, by the CPU time that they take.
//!
//! `cargo bench --bench client`. A row is the median of its rounds. CPU time is that of the publisher and the broker together; the
//! subscriber's, which only counts bytes, is left out.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weirmq::client::QoS;
use weirmq::{Server, ServerHandle};

const TOPIC: &str = "bench/topic/1";
const PAYLOAD: [u8; 64] = [b'x'; 64];
const ROUNDS: usize = 5;
/// A round that takes longer has lost messages.
const ROUND_MAX: Duration = Duration::from_secs(120);
/// The name of the threads whose CPU time does not count, as the kernel shows it.
const SUBSCRIBER: &str = "subscriber";
const ENDPOINT: &str = "endpoint: {name: bench, port: 0, enableAuth: false, enableAcl: false}";

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    println!("{:<44} {:>16} {:>14}", "publisher, 64 B, 1 subscriber", "messages/CPU s", "ns CPU/message");
    let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    one_thread.block_on(rows("one thread"))?;
    drop(one_thread);
    let two_threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // On a worker, as tasks of a program are.
    two_threads.block_on(async { tokio::spawn(rows("two threads")).await? })
}

/// Measures on the present runtime.
async fn rows(runtime: &str) -> Result<()> {
    let server = Server::builder().shards(1).documents([("bench.yaml", ENDPOINT)]).start().await?;
    let address = server.address("bench").context("the endpoint does not listen")?;
    let workloads = [("QoS 0", QoS::AtMostOnce, 2_000_000), ("QoS 1, 64 tasks", QoS::AtLeastOnce, 500_000)];
    for (name, qos, messages) in workloads {
        let mut figures = Vec::new();
        for _ in 0..ROUNDS {
            figures.push(in_process(&server, address, qos, messages).await?);
        }
        report(&format!("client.publish, {name}, {runtime}"), figures);
    }
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        figures.push(tokio::task::spawn_blocking(move || over_tcp(address, 2_000_000)).await??);
    }
    report("packets written to a TCP socket, QoS 0", figures);
    server.shutdown().await?;
    Ok(())
}

fn report(name: &str, mut figures: Vec<f64>) {
    figures.sort_by(f64::total_cmp);
    let ns = figures[figures.len() / 2];
    println!("{name:<44} {:>16.0} {ns:>14.0}", 1e9 / ns);
}

/// CPU time of a message, nanoseconds.
async fn in_process(server: &ServerHandle, address: SocketAddr, qos: QoS, messages: u64) -> Result<f64> {
    let subscriber = Subscriber::start(address)?;
    let (client, _messages) = server.client("publisher").connect().await?;
    let before = cpu_ns()?;
    if qos == QoS::AtMostOnce {
        for _ in 0..messages {
            client.publish(TOPIC, PAYLOAD, qos).await?;
        }
    } else {
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    for _ in 0..messages / 64 {
                        client.publish(TOPIC, PAYLOAD, qos).await?;
                    }
                    Ok::<(), weirmq::client::ClientError>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
    }
    let messages = if qos == QoS::AtMostOnce { messages } else { messages / 64 * 64 };
    while !subscriber.has_received(messages)? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let spent = cpu_ns()? - before;
    client.disconnect().await;
    subscriber.end()?;
    Ok(spent as f64 / messages as f64)
}

/// The same for a publisher that writes packets to a TCP socket, many at a time.
fn over_tcp(address: SocketAddr, messages: u64) -> Result<f64> {
    let subscriber = Subscriber::start(address)?;
    let mut stream = connect(address, "remote")?;
    let before = cpu_ns()?;
    let mut batch = Vec::new();
    for sent in 1..=messages {
        batch.extend_from_slice(&[0x30, (2 + TOPIC.len() + PAYLOAD.len()) as u8, 0, TOPIC.len() as u8]);
        batch.extend_from_slice(TOPIC.as_bytes());
        batch.extend_from_slice(&PAYLOAD);
        if batch.len() >= 256 << 10 || sent == messages {
            stream.write_all(&batch)?;
            batch.clear();
        }
    }
    while !subscriber.has_received(messages)? {
        sleep(Duration::from_millis(1));
    }
    let spent = cpu_ns()? - before;
    subscriber.end()?;
    Ok(spent as f64 / messages as f64)
}

/// A subscriber that counts what it gets, on a thread of its own.
struct Subscriber {
    bytes: Arc<AtomicU64>,
    message_bytes: u64,
    started: Instant,
    stream: TcpStream,
    thread: JoinHandle<()>,
}

impl Subscriber {
    fn start(address: SocketAddr) -> Result<Self> {
        let mut stream = connect(address, SUBSCRIBER)?;
        let mut subscribe = vec![0x82, 5 + TOPIC.len() as u8, 0, 1, 0, TOPIC.len() as u8];
        subscribe.extend_from_slice(TOPIC.as_bytes());
        // It subscribes with QoS 0 always: it does not acknowledge.
        subscribe.push(0);
        stream.write_all(&subscribe)?;
        stream.read_exact(&mut [0; 5])?;
        let bytes = Arc::new(AtomicU64::new(0));
        let (counted, mut reader) = (Arc::clone(&bytes), stream.try_clone()?);
        let read = move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                counted.fetch_add(read as u64, Ordering::Relaxed);
            }
        };
        let thread = std::thread::Builder::new().name(SUBSCRIBER.to_owned()).spawn(read)?;
        let message_bytes = (4 + TOPIC.len() + PAYLOAD.len()) as u64;
        Ok(Self { bytes, message_bytes, started: Instant::now(), stream, thread })
    }

    /// Whether it has received so many messages.
    fn has_received(&self, messages: u64) -> Result<bool> {
        ensure!(self.started.elapsed() < ROUND_MAX, "messages were lost");
        Ok(self.bytes.load(Ordering::Relaxed) / self.message_bytes >= messages)
    }

    fn end(self) -> Result<()> {
        self.stream.shutdown(std::net::Shutdown::Both)?;
        ensure!(self.thread.join().is_ok(), "the subscriber panicked");
        Ok(())
    }
}

/// A connection of MQTT 3.1.1.
fn connect(address: SocketAddr, client_id: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let length = client_id.len() as u8;
    let mut connect = vec![0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, length];
    connect.extend_from_slice(client_id.as_bytes());
    stream.write_all(&connect)?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    ensure!(connack[3] == 0, "the broker refused {client_id}");
    Ok(stream)
}

/// CPU time of all threads but the subscribers', nanoseconds.
fn cpu_ns() -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        let (Ok(name), Ok(text)) = (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue; // it has ended
        };
        if name.trim() != SUBSCRIBER {
            let on_cpu = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            sum += on_cpu.context("schedstat has no number")?;
        }
    }
    Ok(sum)
}
