//! Sending at a steady rate: one thread that sleeps to the microsecond, while the loop's thread receives.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Something sent over and over.
pub struct Lane<'a> {
    pub interval: Duration,
    /// Sends the next packet; its argument is the time since the bench's epoch in nanoseconds.
    pub send: Box<dyn FnMut(u64) -> Result<()> + Send + 'a>,
}

/// Runs the lanes for `stretch`, each on its own schedule; lateness is caught up at once. How often each one sent.
pub fn pace(lanes: &mut [Lane<'_>], epoch: Instant, stretch: Duration) -> Result<Vec<u64>> {
    // The kernel rounds sleeps up by 50 us otherwise: more than one interval.
    let thread = fs::read_link("/proc/thread-self").context("/proc/thread-self")?;
    let id = thread.file_name().context("/proc/thread-self")?;
    fs::write(Path::new("/proc").join(id).join("timerslack_ns"), "1").context("setting the timer slack")?;
    let start = Instant::now();
    let mut sent = vec![0u64; lanes.len()];
    loop {
        let elapsed = start.elapsed();
        if elapsed >= stretch {
            return Ok(sent);
        }
        let mut next = stretch;
        for (lane, count) in lanes.iter_mut().zip(&mut sent) {
            let interval_ns = lane.interval.as_nanos() as u64;
            while *count * interval_ns <= elapsed.as_nanos() as u64 {
                (lane.send)(epoch.elapsed().as_nanos() as u64)?;
                *count += 1;
            }
            next = next.min(Duration::from_nanos(*count * interval_ns));
        }
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
}

/// Writes a small packet to a non-blocking socket; a broker that does not read for a second ends the row.
pub fn write_packet(mut stream: &TcpStream, packet: &[u8]) -> Result<()> {
    let (mut rest, deadline) = (packet, Instant::now() + Duration::from_secs(1));
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    bail!("the broker does not read");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("writing to the broker"),
        }
    }
    Ok(())
}
