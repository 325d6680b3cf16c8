//! A program with many listeners: how each is configured alike, started, given a change, and what it costs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::probe::Answer;
use crate::brokers::{Kind, Spec};
use crate::config::weir_arguments;
use crate::process::CpuReading;

/// What the report says about each program's configuration.
pub fn describe(kind: &Kind) -> &'static str {
    match kind {
        Kind::Weir { .. } => {
            "a file for each endpoint, with `enableAuth` (anonymous), `enableAcl` (allow all) and limits; `--data-dir`, \
             status server and history on"
        }
        Kind::Nginx => "`stream`, a `server` with `return` for each listener, one worker; SIGHUP",
        Kind::Haproxy => "`-W`, a `frontend` with `http-request return` for each listener, `nbthread 1`; SIGUSR2",
        Kind::Mosquitto => {
            "`per_listener_settings true`, a `listener` for each, `persistence false`; SIGTERM and a start"
        }
        _ => "not measured",
    }
}

/// One listener. What it answers follows its name, not its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub port: u32,
    pub answers: Answer,
}

impl Listener {
    pub fn new(name: impl Into<String>, port: u16, answers: Answer) -> Listener {
        Listener { name: name.into(), port: u32::from(port), answers }
    }
}

/// A started program and its configuration.
pub struct Fleet<'a> {
    spec: &'a Spec,
    child: Child,
    started_at: Instant,
    dir: TempDir,
    /// Where clients are held: through it to `sink`, where the program is none to hold them itself.
    held_port: u16,
    sink: u16,
}

impl<'a> Fleet<'a> {
    /// Writes the configuration of `listeners` and starts the program.
    pub fn start(spec: &'a Spec, listeners: &[Listener], held_port: u16, sink: u16) -> Result<Fleet<'a>> {
        let dir = TempDir::with_prefix("weir-bench-").context("a directory for the program")?;
        if matches!(spec.kind, Kind::Weir { .. }) {
            let endpoints = endpoints(dir.path());
            fs::create_dir(&endpoints)?;
            fs::write(endpoints.join("policy.yaml"), WEIR_POLICY)?;
            for listener in listeners {
                fs::write(endpoints.join(format!("{}.yaml", listener.name)), weir_document(listener))?;
            }
            // As files mostly are, these are older than the program that reads them.
            std::thread::sleep(Duration::from_millis(100));
        } else {
            fs::write(dir.path().join(CONFIGURATION), configuration(spec, listeners, held_port, sink, dir.path())?)?;
        }
        let started_at = Instant::now();
        let child = spawn(spec, dir.path())?;
        Ok(Fleet { spec, child, started_at, dir, held_port, sink })
    }

    /// Declares `to` where `from` was declared, and notifies the program in the way that it documents.
    pub fn change(&mut self, from: &[Listener], to: &[Listener]) -> Result<()> {
        if matches!(self.spec.kind, Kind::Weir { .. }) {
            return self.change_files(from, to);
        }
        let new = self.dir.path().join("new");
        fs::write(&new, configuration(self.spec, to, self.held_port, self.sink, self.dir.path())?)?;
        fs::rename(&new, self.dir.path().join(CONFIGURATION))?;
        match self.spec.kind {
            Kind::Nginx => self.signal(Signal::HUP),
            Kind::Haproxy => self.signal(Signal::USR2),
            _ => self.restart(),
        }
    }

    /// Weir watches its directory: files are renamed into place.
    fn change_files(&self, from: &[Listener], to: &[Listener]) -> Result<()> {
        let endpoints = endpoints(self.dir.path());
        for listener in to.iter().filter(|listener| !from.contains(listener)) {
            let new = endpoints.join(".new");
            fs::write(&new, weir_document(listener))?;
            fs::rename(&new, endpoints.join(format!("{}.yaml", listener.name)))?;
        }
        for gone in from.iter().filter(|gone| to.iter().all(|listener| listener.name != gone.name)) {
            fs::remove_file(endpoints.join(format!("{}.yaml", gone.name)))?;
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        if self.is_running()? {
            self.signal(Signal::TERM)?;
        }
        self.child.wait()?;
        self.child = spawn(self.spec, self.dir.path())?;
        Ok(())
    }

    /// When the process was started, its configuration being there.
    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(pid(self.child.id())?, signal).context("a signal")
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// In which line of which file a listener is declared.
    pub fn place_of(&self, listener: &Listener) -> Result<String> {
        let wanted = listener.port.to_string();
        let (name, path) = if matches!(self.spec.kind, Kind::Weir { .. }) {
            let name = format!("{}.yaml", listener.name);
            (name.clone(), endpoints(self.dir.path()).join(name))
        } else {
            (CONFIGURATION.to_owned(), self.dir.path().join(CONFIGURATION))
        };
        let text = fs::read_to_string(path)?;
        let line = text.lines().position(|line| line.contains(&wanted)).context("it is not declared")?;
        Ok(format!("{name}:{}", line + 1))
    }

    /// CPU time of the program's processes so far.
    pub fn cpu(&self) -> Result<TreeCpu> {
        TreeCpu::sample(self.child.id())
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        // Workers outlive a master that is killed, so it is asked first.
        let all = tree(self.child.id()).unwrap_or_default();
        let _gone_already = self.signal(Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2) && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        for process in all {
            let _gone_already = pid(process).map(|pid| kill_process(pid, Signal::KILL));
        }
        let _reaped = self.child.wait();
    }
}

/// CPU time of a process and of all below it.
pub struct TreeCpu(HashMap<u32, CpuReading>);

impl TreeCpu {
    fn sample(root: u32) -> Result<TreeCpu> {
        // One may end between the listing and the reading.
        let read = |process| Some((process, CpuReading::sample(process).ok()?));
        Ok(TreeCpu(tree(root)?.into_iter().filter_map(read).collect()))
    }

    /// Milliseconds spent so far.
    pub fn total_ms(&self) -> f64 {
        self.0.values().map(CpuReading::total_s).sum::<f64>() * 1e3
    }

    /// Milliseconds spent since `earlier`, by the processes that are still there; new ones count whole.
    pub fn ms_since(&self, earlier: &TreeCpu) -> f64 {
        let spent = |(process, now): (&u32, &CpuReading)| match earlier.0.get(process) {
            Some(before) => now.since(before),
            None => now.total_s(),
        };
        self.0.iter().map(spent).sum::<f64>() * 1e3
    }
}

fn pid(process: u32) -> Result<Pid> {
    i32::try_from(process).ok().and_then(Pid::from_raw).context("no process id")
}

/// A process and all below it.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(process) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.extend(parent.map(|parent: u32| (process, parent)));
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        at += 1;
    }
    Ok(found)
}

const CONFIGURATION: &str = "configuration";

const WEIR_POLICY: &str = "auth: {name: default, chain: [{anonymous: {}}]}\n---\n\
     acl: {name: default, noMatch: deny, rules: [{permission: allow, action: all, topics: [\"#\"]}]}\n";

fn endpoints(dir: &Path) -> PathBuf {
    dir.join("endpoints.d")
}

fn spawn(spec: &Spec, dir: &Path) -> Result<Child> {
    let path = dir.join(CONFIGURATION);
    let mut command = Command::new(&spec.program);
    match &spec.kind {
        Kind::Weir { shards } => weir_arguments(&mut command, &endpoints(dir), dir, *shards)?,
        Kind::Nginx => drop(command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(path)),
        Kind::Haproxy => drop(command.arg("-W").arg("-f").arg(path)),
        Kind::Mosquitto => drop(command.arg("-c").arg(path)),
        other => bail!("no configuration of many listeners for {other:?}"),
    }
    let output = File::options().create(true).append(true).open(dir.join("log"))?;
    let command = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().with_context(|| format!("starting {}", spec.program.display()))
}

fn weir_document(listener: &Listener) -> String {
    // A client that is refused for a wrong password too often is refused everywhere, so the second kind refuses a version.
    let versions = if listener.answers == Answer::Second { "  protocolVersions: [\"5.0\"]\n" } else { "" };
    format!(
        "endpoint:\n  name: {}\n  port: {}\n  host: 127.0.0.1\n  messageMaxSize: 65536\n  maxConnectionSize: 500\n  \
         maxSessionSize: 200\n{versions}",
        listener.name, listener.port
    )
}

fn configuration(spec: &Spec, listeners: &[Listener], held: u16, sink: u16, dir: &Path) -> Result<String> {
    match spec.kind {
        Kind::Nginx => Ok(nginx(listeners, held, sink, dir)),
        Kind::Haproxy => Ok(haproxy(listeners, held, sink, dir)),
        Kind::Mosquitto => Ok(mosquitto(listeners, held)),
        _ => bail!("{} is not configured by one file", spec.name),
    }
}

/// Where Debian puts nginx's module for TCP.
pub const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn nginx(listeners: &[Listener], held: u16, sink: u16, dir: &Path) -> String {
    let mut text = format!(
        "load_module {NGINX_STREAM};\ndaemon off;\nworker_processes 1;\npid {}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 8192; }}\nstream {{\nserver {{ listen 127.0.0.1:{held}; proxy_pass \
         127.0.0.1:{sink}; }}\n",
        dir.display()
    );
    for Listener { port, answers, .. } in listeners {
        let _ = writeln!(text, "server {{ listen 127.0.0.1:{port}; return {}; }}", answers.word());
    }
    text + "}\n"
}

fn haproxy(listeners: &[Listener], held: u16, sink: u16, dir: &Path) -> String {
    let mut text = format!(
        "global\n  maxconn 8000\n  nbthread 1\n  stats socket {}/socket level admin expose-fd listeners\n\
         defaults\n  mode http\n  timeout client 1h\n  timeout server 1h\n  timeout connect 5s\n\
         listen held\n  mode tcp\n  bind 127.0.0.1:{held}\n  server sink 127.0.0.1:{sink}\n",
        dir.display()
    );
    for Listener { name, port, answers } in listeners {
        let word = answers.word();
        let _ = writeln!(
            text,
            "frontend {name}\n  bind 127.0.0.1:{port}\n  http-request return status 200 content-type text/plain string {word}"
        );
    }
    text
}

fn mosquitto(listeners: &[Listener], held: u16) -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let mut text = format!(
        "user {user}\nper_listener_settings true\npersistence false\nlog_dest stderr\nlog_type error\n\
         listener {held} 127.0.0.1\nallow_anonymous true\n"
    );
    for Listener { port, answers, .. } in listeners {
        let _ = writeln!(text, "listener {port} 127.0.0.1\nallow_anonymous {}", *answers == Answer::First);
    }
    text
}
