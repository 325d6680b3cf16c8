//! The start of the shards, with the stored state.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use mio::{Events, Poll, Waker};

use super::partial::PartialBytes;
use super::random::ClientIds;
use super::table::Table;
use super::{BUFFER_BYTES, DurableStore, EVENTS, Shard, ShardContext, ShardEvent, WAKE_TIMER, WAKER};
use crate::net::acceptor::{Acceptor, AcceptorConfig};
use crate::net::drain::PastDrains;
use crate::net::mailbox::{CloseOnEnd, Mailbox};
use crate::net::plane::DataPlaneConfig;
use crate::net::threads::Threads;
use crate::net::wake_timer::WakeTimer;
use weir_broker::{
    Core, CoreConfig, MemoryKind, Millis, Output, Recording, RestoredCounts, Scope, ShardId, StoreAck, WorkBudget,
};

/// Starts the threads; with a store, its state is restored first.
pub(in crate::net) fn start(
    config: &DataPlaneConfig,
    shared: &Arc<ShardContext>,
    acceptor: AcceptorConfig,
    durable_store: Option<(DurableStore, u64)>,
    threads: &Threads,
) -> io::Result<Vec<Arc<Mailbox<ShardEvent>>>> {
    let polls: Vec<Poll> = (0..config.shards.max(1)).map(|_| Poll::new()).collect::<io::Result<_>>()?;
    let peers: Vec<Arc<Mailbox<ShardEvent>>> = polls
        .iter()
        .map(|poll| Ok(Arc::new(Mailbox::new(Waker::new(poll.registry(), WAKER)?))))
        .collect::<io::Result<_>>()?;
    let mut acceptor_config = Some(acceptor);
    let mut shards = Vec::new();
    for (poll, id) in polls.into_iter().zip(0..) {
        let wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER)?;
        let registry = poll.registry().try_clone()?;
        let acceptor = acceptor_config.take().map(|config| Acceptor::new(config, registry));
        shards.push(Shard::new(ShardId(id), config, Arc::clone(shared), poll, wake_timer, acceptor, peers.clone())?);
    }
    if let Some((durable_store, epoch_unix_ms)) = durable_store {
        let mailboxes = peers.clone();
        durable_store.sink.on_ack(Box::new(move |shard, ack| match ack {
            StoreAck::UpTo(_) => {
                if let Some(mailbox) = mailboxes.get(usize::from(shard.0)) {
                    mailbox.send(ShardEvent::StoreAck(ack));
                }
            }
            // A shard without own records may wait for records of other shards.
            StoreAck::Full(_) => mailboxes.iter().for_each(|mailbox| mailbox.send(ShardEvent::StoreAck(ack))),
        }));
        restore(&mut shards, &durable_store, epoch_unix_ms)?;
    }
    for mut shard in shards {
        threads.spawn(&format!("weir-shard-{}", shard.id.0), move || {
            let _closes = CloseOnEnd(Arc::clone(&shard.mailbox));
            let mut events = Events::with_capacity(EVENTS);
            while !shard.stopped {
                shard.turn(&mut events);
            }
        })?;
    }
    Ok(peers)
}

/// Restores each core's part of the stored state, and exchanges link messages until all cores are settled.
fn restore(shards: &mut [Shard], durable_store: &DurableStore, epoch_unix_ms: u64) -> io::Result<()> {
    let mut restored = RestoredCounts::default();
    let recording = Recording { next_id: durable_store.stored.next_id(), epoch_unix_ms };
    let backlog_bytes = durable_store.sink.backlog_bytes() / shards.len() as u64;
    for shard in &mut *shards {
        shard.sink = Some(Arc::clone(&durable_store.sink));
        shard.core.start_recording(recording);
        shard.core.bound_records(backlog_bytes);
        let part = shard.core.restore(&durable_store.stored, 0);
        restored.add(part.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
    }
    let mut quiet = false;
    while !std::mem::replace(&mut quiet, true) {
        for from in 0..shards.len() {
            let id = shards[from].id;
            while let Some(output) = shards[from].core.poll(Scope::All) {
                quiet = false;
                match output {
                    Output::Batch(to, batch) => match shards.get_mut(usize::from(to.0)) {
                        Some(shard) => shard.core.deliver_batch(id, batch, 0),
                        None => shards[from].send_to_gateway(batch),
                    },
                    Output::Records(records) => durable_store.sink.append(id, records),
                    // There are no connections yet.
                    _ => {}
                }
            }
        }
    }
    let RestoredCounts { sessions, subscriptions, deliveries, retained } = restored;
    tracing::info!(sessions, subscriptions, messages = deliveries, retained, "durable state restored");
    Ok(())
}

impl Shard {
    fn new(
        id: ShardId,
        config: &DataPlaneConfig,
        shared: Arc<ShardContext>,
        poll: Poll,
        wake_timer: WakeTimer,
        acceptor: Option<Acceptor>,
        peers: Vec<Arc<Mailbox<ShardEvent>>>,
    ) -> io::Result<Self> {
        let mut core = Core::new(CoreConfig {
            shard: id,
            shards: peers.len() as u16,
            hash_seed: crate::random::number().map_err(io::Error::other)?,
            work: WorkBudget::default(),
        });
        if config.gateway.is_some() {
            core.join_cluster();
        }
        core.share_memory(config.memory.clone());
        core.share_counts(shared.offline_sessions.clone(), shared.total_rates.clone(), shared.retained.clone());
        core.share_events(shared.events.core_mask());
        let instant = shared.epoch;
        Ok(Self {
            wake_timer,
            id,
            shared,
            core,
            sink: None,
            poll,
            acceptor,
            next_shard: 0,
            mailbox: Arc::clone(&peers[usize::from(id.0)]),
            outgoing: peers.iter().map(|_| Vec::new()).collect(),
            peers,
            gateway: config.gateway.clone(),
            table: Table::default(),
            buffer: vec![0; BUFFER_BYTES],
            plain: Vec::new(),
            instant,
            now: 0,
            turns: 0,
            ready: Vec::new(),
            deferred: VecDeque::new(),
            deferred_until: None,
            bulk_ahead: 0,
            scope: Scope::All,
            bulk_until: None,
            bulk_flushes: 0,
            pending: Vec::new(),
            closing: Vec::new(),
            max_pending: config.max_pending_connections,
            partial_bytes: PartialBytes::new(config.memory.clone()),
            partial_max_bytes: config.memory.limit(MemoryKind::Handshakes) / usize::from(config.shards.max(1)),
            next_sweep: Millis::MAX,
            unflushed_bytes: 0,
            client_ids: ClientIds::default(),
            policies: HashMap::new(),
            past_drains: PastDrains::default(),
            drains: Vec::new(),
            shutdown: None,
            tracers: Vec::new(),
            published: HashMap::new(),
            next_publish: Millis::MAX,
            stopped: false,
        })
    }
}
