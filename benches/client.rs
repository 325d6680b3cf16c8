//! A client in the process beside one behind a loopback socket: messages of 64 bytes to one MQTT subscriber, by the CPU time that
//! they take.
//!
//! `cargo bench --bench client`. The two take turns, and a figure is the median of its rounds. CPU time is that of the publisher and
//! the broker together; the subscriber's, which only counts bytes, is left out. Both keep the same pace: QoS 0 has no
//! acknowledgement, and the broker drops what a subscriber does not take in time, so at most [`WINDOW`] messages are on the way.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::runtime::Handle;
use tokio::sync::watch;
use weirmq::client::QoS;
use weirmq::{Server, ServerHandle};

const TOPIC: &str = "bench/topic/1";
const PAYLOAD: [u8; 64] = [b'x'; 64];
const ROUNDS: usize = 5;
/// Messages that the subscriber has not received, at most. They are less than what the broker keeps for a client's socket.
const WINDOW: u64 = 8000;
/// Messages between two looks at what the subscriber has received; of QoS 0, the client behind a socket writes them at once.
const BATCH: u64 = 2000;
/// Unacknowledged messages of QoS 1: one of each of so many tasks in the process, all of one write behind a socket.
const UNACKNOWLEDGED: u64 = 64;
/// A wait that takes longer is for messages that were lost.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The name of the threads whose CPU time does not count, as the kernel shows it.
const SUBSCRIBER: &str = "subscriber";
const ENDPOINT: &str = "endpoint: {name: bench, port: 0, enableAuth: false, enableAcl: false}";

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    println!("CPU time of publisher and broker for a message of 64 B to 1 subscriber, at most {WINDOW} on the way");
    println!("{:<36} {:>13} {:>10} {:>6} {:>17}", "", "in process ns", "socket ns", "ratio", "in process /CPU s");
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
    let workloads = [
        ("QoS 0".to_owned(), QoS::AtMostOnce, 2_000_000),
        (format!("QoS 1, {UNACKNOWLEDGED} in flight"), QoS::AtLeastOnce, 512_000),
    ];
    for (name, qos, messages) in workloads {
        let (mut in_process, mut socket) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            in_process.push(publish_in_process(&server, address, qos, messages).await?);
            let runtime = Handle::current();
            let round = move || publish_over_tcp(&runtime, address, qos, messages);
            socket.push(tokio::task::spawn_blocking(round).await??);
        }
        let (in_process, socket) = (median(in_process), median(socket));
        let (name, ratio, per_second) = (format!("{name}, {runtime}"), in_process / socket, 1e9 / in_process);
        println!("{name:<36} {in_process:>13.0} {socket:>10.0} {ratio:>6.2} {per_second:>17.0}");
    }
    server.shutdown().await?;
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// CPU time of a message, nanoseconds. QoS 0 is published by one task.
async fn publish_in_process(server: &ServerHandle, address: SocketAddr, qos: QoS, messages: u64) -> Result<f64> {
    let mut subscriber = Subscriber::start(address)?;
    let (client, _messages) = server.client("publisher").connect().await?;
    let before = cpu_ns()?;
    let tasks = if qos == QoS::AtMostOnce { 1 } else { UNACKNOWLEDGED };
    let publish = |_| {
        let (client, mut received) = (client.clone(), subscriber.received.clone());
        tokio::spawn(async move {
            for number in 0..messages / tasks {
                if number % (BATCH / tasks) == 0 {
                    make_room(&mut received, number * tasks).await?;
                }
                client.publish(TOPIC, PAYLOAD, qos).await?;
            }
            anyhow::Ok(())
        })
    };
    for task in (0..tasks).map(publish).collect::<Vec<_>>() {
        task.await??;
    }
    wait_for(&mut subscriber.received, messages).await?;
    let spent = cpu_ns()? - before;
    client.disconnect().await;
    subscriber.end()?;
    Ok(spent as f64 / messages as f64)
}

/// The same for a publisher that writes packets to a TCP socket, many at a time.
fn publish_over_tcp(runtime: &Handle, address: SocketAddr, qos: QoS, messages: u64) -> Result<f64> {
    let mut subscriber = Subscriber::start(address)?;
    let mut stream = connect(address, "remote")?;
    let before = cpu_ns()?;
    let at_once = if qos == QoS::AtMostOnce { BATCH } else { UNACKNOWLEDGED };
    let (mut batch, mut acknowledgements) = (Vec::new(), [0; 4 * UNACKNOWLEDGED as usize]);
    for sent in (0..messages).step_by(at_once as usize) {
        runtime.block_on(make_room(&mut subscriber.received, sent))?;
        batch.clear();
        for id in 1..=at_once as u16 {
            push_publish(&mut batch, qos, id);
        }
        stream.write_all(&batch)?;
        if qos != QoS::AtMostOnce {
            stream.read_exact(&mut acknowledgements)?;
        }
    }
    runtime.block_on(wait_for(&mut subscriber.received, messages))?;
    let spent = cpu_ns()? - before;
    subscriber.end()?;
    Ok(spent as f64 / messages as f64)
}

fn push_publish(batch: &mut Vec<u8>, qos: QoS, id: u16) {
    let id = id.to_be_bytes();
    let id: &[u8] = if qos == QoS::AtMostOnce { &[] } else { &id };
    let length = 2 + TOPIC.len() + id.len() + PAYLOAD.len();
    batch.extend_from_slice(&[0x30 | (qos as u8) << 1, length as u8, 0, TOPIC.len() as u8]);
    batch.extend_from_slice(TOPIC.as_bytes());
    batch.extend_from_slice(id);
    batch.extend_from_slice(&PAYLOAD);
}

/// Waits until a batch may be sent after so many messages.
async fn make_room(received: &mut watch::Receiver<u64>, sent: u64) -> Result<()> {
    wait_for(received, sent.saturating_sub(WINDOW - BATCH)).await
}

/// Waits until the subscriber has received so many messages.
async fn wait_for(received: &mut watch::Receiver<u64>, messages: u64) -> Result<()> {
    let wait = received.wait_for(|received| *received >= messages);
    tokio::time::timeout(WAIT_MAX, wait).await.context("messages were lost")??;
    Ok(())
}

/// A subscriber that counts what it gets, on a thread of its own.
struct Subscriber {
    /// Messages.
    received: watch::Receiver<u64>,
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
        let (count, received) = watch::channel(0);
        let mut reader = stream.try_clone()?;
        let read = move || {
            let message_bytes = (4 + TOPIC.len() + PAYLOAD.len()) as u64;
            let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                bytes += read as u64;
                count.send_replace(bytes / message_bytes);
            }
        };
        let thread = std::thread::Builder::new().name(SUBSCRIBER.to_owned()).spawn(read)?;
        Ok(Self { received, stream, thread })
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
