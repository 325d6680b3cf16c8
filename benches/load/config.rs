//! Equal configurations: every client is admitted, nothing is dropped for want of a queue, nothing is logged or stored.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::brokers::{Kind, Spec, free_port};
use crate::tls::Certificates;
use crate::transport::Listener;

/// What the report says about each broker's configuration.
pub fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Weir { shards } => format!(
            "`--shards {shards} --log-level warn`; one endpoint with `enableAuth` (anonymous), `enableAcl` (allow all) and no limits; status server and reconciler running"
        ),
        Kind::Mosquitto => "`allow_anonymous true`, `persistence false`, `max_inflight_messages 0`, \
             `max_queued_messages 0`, `max_queued_bytes 0`, `set_tcp_nodelay true`, `log_type none`"
            .to_owned(),
        Kind::Rumqttd => {
            "one v4 server, 20,001 connections, `max_inflight_count 65535`, segments of 100 MiB".to_owned()
        }
        Kind::Rmqttd => {
            "one tcp listener, anonymous, `max_inflight 65535`, `max_mqueue_len 1000000`, rate unlimited".to_owned()
        }
        Kind::Nats => "three servers with JetStream and `mqtt`, as in a cluster of Weir".to_owned(),
        Kind::Nginx | Kind::Haproxy => "measured with many listeners alone".to_owned(),
        Kind::Template(command) => format!("`{command}`"),
    }
}

/// Writes the configuration into `dir` and gives the command that starts the broker with it.
pub fn prepare(spec: &Spec, listener: Listener, port: u16, dir: &Path, tls: &Certificates) -> Result<Command> {
    let mut command = Command::new(&spec.program);
    match &spec.kind {
        Kind::Weir { shards } => {
            let endpoints = dir.join("endpoints.d");
            fs::create_dir(&endpoints).context("endpoints.d")?;
            fs::write(endpoints.join("bench.yaml"), weir_documents(listener, port, tls)).context("bench.yaml")?;
            weir_arguments(&mut command, &endpoints, dir, *shards)?;
        }
        Kind::Mosquitto => {
            let path = dir.join("mosquitto.conf");
            fs::write(&path, mosquitto_conf(listener, port, free_port()?, tls)).context("mosquitto.conf")?;
            command.arg("-c").arg(path);
        }
        Kind::Rumqttd => {
            let path = dir.join("rumqttd.toml");
            fs::write(&path, rumqttd_toml(port)).context("rumqttd.toml")?;
            command.arg("-c").arg(path);
        }
        Kind::Rmqttd => {
            let path = dir.join("rmqtt.toml");
            fs::write(&path, rmqttd_toml(port, free_port()?, free_port()?, dir)).context("rmqtt.toml")?;
            command.arg("-f").arg(path).current_dir(dir);
        }
        Kind::Nginx | Kind::Haproxy | Kind::Nats => bail!("{} is not measured by itself", spec.name),
        Kind::Template(template) => {
            let line = template.replace("{port}", &port.to_string()).replace("{dir}", &dir.display().to_string());
            let mut words = line.split_whitespace();
            let Some(program) = words.next() else { bail!("--peer {}: no command", spec.name) };
            command = Command::new(program);
            command.args(words);
        }
    }
    Ok(command)
}

/// The arguments every weir of the bench runs with.
pub fn weir_arguments(command: &mut Command, endpoints: &Path, dir: &Path, shards: u16) -> Result<()> {
    command.arg("run").arg("--endpoints").arg(endpoints);
    command.arg("--status-addr").arg(format!("127.0.0.1:{}", free_port()?));
    command.arg("--data-dir").arg(dir.join("data"));
    command.args(["--shards", &shards.to_string(), "--log-level", "warn"]);
    // The certificates of the bench lie in a directory of their own. Builds without --allow-files pass over the variable.
    command.env("WEIR_ALLOW_FILES", "/");
    Ok(())
}

/// The documents every weir of the bench has.
pub fn weir_documents(listener: Listener, port: u16, tls: &Certificates) -> String {
    let transport = match listener {
        Listener::Plain => String::new(),
        Listener::WebSocket => "  useWebsocket: true\n  path: /mqtt\n".to_owned(),
        Listener::Tls => {
            format!("  sslConfig: {{certFile: {}, keyFile: {}}}\n", tls.certificate.display(), tls.key.display())
        }
    };
    format!(
        "endpoint:\n  name: bench\n  port: {port}\n  host: 127.0.0.1\n  maxConnectionSize: 65535\n{transport}\
         ---\nauth: {{name: default, chain: [{{anonymous: {{}}}}]}}\n\
         ---\nacl: {{name: default, noMatch: deny, rules: [{{permission: allow, action: all, topics: [\"#\"]}}]}}\n"
    )
}

fn mosquitto_conf(listener: Listener, port: u16, spare_port: u16, tls: &Certificates) -> String {
    let transport = match listener {
        Listener::Plain => String::new(),
        Listener::WebSocket => "protocol websockets\n".to_owned(),
        Listener::Tls => format!("certfile {}\nkeyfile {}\n", tls.certificate.display(), tls.key.display()),
    };
    // 2.0.11 ends at once where no listener but WebSocket ones is declared.
    let beside = match listener {
        Listener::WebSocket => format!("listener {spare_port} 127.0.0.1\n"),
        Listener::Plain | Listener::Tls => String::new(),
    };
    // As root it would change to a user that cannot read the certificates' directory.
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    format!(
        "user {user}\npersistence false\nlog_type none\nmax_inflight_messages 0\nmax_queued_messages 0\n\
         max_queued_bytes 0\nset_tcp_nodelay true\n{beside}listener {port} 127.0.0.1\n{transport}allow_anonymous true\n"
    )
}

/// With what it needs to keep sessions over a restart.
pub fn mosquitto_persistent(port: u16, dir: &Path, persists: bool) -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    format!(
        "user {user}\npersistence {persists}\npersistence_location {}/\nlog_type none\nmax_inflight_messages 0\n\
         max_queued_messages 0\nmax_queued_bytes 0\nset_tcp_nodelay true\nlistener {port} 127.0.0.1\n\
         allow_anonymous true\n",
        dir.display()
    )
}

fn rumqttd_toml(port: u16) -> String {
    format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 20001\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = \"v4-1\"\n\
         listen = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n[v4.1.connections]\n\
         connection_timeout_ms = 60000\nmax_payload_size = 1048576\nmax_inflight_count = 65535\n\
         dynamic_filters = true\n"
    )
}

fn rmqttd_toml(port: u16, rpc: u16, http: u16, dir: &Path) -> String {
    format!(
        "[node]\nid = 1\n[plugins]\ndir = \"{}\"\n[log]\nto = \"off\"\nlevel = \"error\"\n[rpc]\n\
         server_addr = \"127.0.0.1:{rpc}\"\n[http]\nport = {http}\n[listener.tcp.external]\n\
         addr = \"127.0.0.1:{port}\"\nallow_anonymous = true\nmax_connections = 65535\nmax_handshaking_limit = 65535\n\
         max_inflight = 65535\nmax_mqueue_len = 1000000\nmqueue_rate_limit = \"4000000/1s\"\n\
         max_packet_size = \"1m\"\nmax_subscriptions = 0\n",
        dir.join("plugins").display()
    )
}
