//! What goes wrong, and how it ends.

use super::super::client::Role;
use super::super::history::Published;
use super::World;

/// What may go wrong in a run.
pub(super) struct Troubles {
    pub(super) link_cuts: bool,
    pub(super) pauses: bool,
    pub(super) elections: bool,
    pub(super) engine_cuts: bool,
    pub(super) crashes: bool,
    /// Nodes leave, join and are evacuated.
    pub(super) planned: bool,
}

impl World {
    pub(super) fn trouble(&mut self) {
        let node = self.rng.below(self.hosts.len());
        let other = self.rng.below(self.hosts.len());
        let until = self.now + self.rng.below(6000) as u64;
        match self.rng.below(11) {
            0 | 1 if self.troubles.link_cuts => {
                self.engine.network.cut[node][other] = until;
                if self.rng.one_in(2) {
                    self.engine.network.cut[other][node] = until;
                }
                self.note(|| format!("link n{node} to n{other} is cut until {until}"));
            }
            2 | 3 if self.troubles.pauses => {
                self.hosts[node].paused_until = until;
                self.note(|| format!("n{node} is paused until {until}"));
            }
            4 if self.troubles.elections => {
                let end = self.now + 4000 + self.rng.below(5000) as u64;
                let which = self.rng.below(3);
                if self.rng.one_in(2) {
                    self.engine.slots.elections.begin(end);
                }
                if which != 0 {
                    self.engine.members.elections.begin(end);
                }
                if which != 1 {
                    self.engine.log.elections.begin(end);
                }
                self.note(|| format!("election {which} until {end}"));
            }
            5 if self.troubles.engine_cuts => self.cut_from_engine(node, until),
            6 | 7 if self.troubles.crashes => self.crash(node),
            8 | 9 if self.troubles.planned => self.leave(node),
            10 if self.troubles.planned => self.evacuate(node),
            _ => {}
        }
    }

    fn cut_from_engine(&mut self, node: usize, until: u64) {
        let what = self.rng.below(8);
        if what & 1 == 0 {
            self.engine.members.appends_cut[node] = until;
            self.engine.log.appends_cut[node] = until;
            self.engine.slots.appends_cut[node] = until;
        }
        if what & 2 == 0 {
            self.engine.members.answers_cut[node] = until;
            self.engine.log.answers_cut[node] = until;
            self.engine.slots.answers_cut[node] = until;
        }
        if what & 4 == 0 {
            self.engine.members.reads_cut[node] = until;
            self.engine.log.reads_cut[node] = until;
            self.engine.slots.reads_cut[node] = until;
        }
        self.note(|| format!("n{node} is cut from the engine ({what}) until {until}"));
    }

    pub(super) fn heal(&mut self) {
        self.note(|| "faults end".to_owned());
        self.engine.network.cut.iter_mut().flatten().for_each(|until| *until = 0);
        self.engine.network.loss = 1_000_000;
        (self.engine.members.is_calm, self.engine.log.is_calm, self.engine.slots.is_calm) = (true, true, true);
        for host in &mut self.hosts {
            host.paused_until = 0;
        }
        let now = self.now;
        for cut in [
            &mut self.engine.members.appends_cut,
            &mut self.engine.members.answers_cut,
            &mut self.engine.members.reads_cut,
            &mut self.engine.log.appends_cut,
            &mut self.engine.slots.appends_cut,
            &mut self.engine.log.answers_cut,
            &mut self.engine.slots.answers_cut,
            &mut self.engine.log.reads_cut,
            &mut self.engine.slots.reads_cut,
        ] {
            cut.iter_mut().for_each(|until| *until = now.min(*until));
        }
        self.troubles = Troubles {
            link_cuts: false,
            pauses: false,
            elections: false,
            engine_cuts: false,
            crashes: false,
            planned: false,
        };
    }

    /// A connection ends in another way than by DISCONNECT. Whether its will `must_come` is not known where its node fails, too,
    /// or was taken for dead.
    pub(super) fn will_is_due(&mut self, number: usize, must_come: bool) {
        let client = &self.clients[number];
        if client.role != Role::Testator || !client.is_connected {
            return;
        }
        self.wills.push((self.history.published.len(), must_come));
        self.history.published.push(Published {
            publisher: number,
            host: client.host,
            session: 0,
            topic: format!("t/{}", client.name),
            payload: format!("{}:{}", client.name, client.wills),
            qos: 1,
            is_retained: false,
            at: self.now,
            acked_at: None,
            is_repeated: false,
        });
    }

    pub(super) fn crash(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let Some(process) = host.process.take() else { return };
        host.restart_at = self.now + self.rng.below(6000) as u64;
        (host.paused_until, host.leaves_until, host.ends_at, host.evacuated_until) = (0, None, None, 0);
        let restart_at = host.restart_at;
        self.engine.forget(number, process.incarnation);
        for client in 0..self.clients.len() {
            if self.clients[client].host == number {
                self.will_is_due(client, false);
                self.clients[client].disconnected();
            }
        }
        self.note(|| format!("n{number} crashes, and restarts at {restart_at}"));
        self.hosts[number].observe(self.now);
    }
}
