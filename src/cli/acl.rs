//! `weir acl explain`

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use super::Exit;
use super::input::read_all;
use super::print::{Format, print};
use super::render::valid;
use crate::auth::{AclRequest, RuleSet};
use weir_broker::Subject;
use weir_declare::config::{Acl, Name, Permission, Snapshot, check_filter, check_topic, rule_position};
use weir_mqtt::{QoS, SharedFilter};

/// Show what acl documents permit
///
/// Exits with 0 where it is allowed, with 1 where it is not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    Explain(Explain),
}

/// Show whether a client may publish or subscribe, and which rule decides
///
/// Exits with 0 if it may, with 1 if it may not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir acl explain --client-id c1 --topic sensor/1/temp endpoints.d\n  \
    weir acl explain --client-id c1 --username ada --topic 'sensor/#' --subscribe endpoints.d")]
struct Explain {
    #[arg(long, value_name = "ID")]
    client_id: String,
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Topic name, or the filter of a subscription
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// May it publish? (the default)
    #[arg(long, conflicts_with = "subscribe")]
    publish: bool,
    /// May it subscribe?
    #[arg(long)]
    subscribe: bool,
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// With the retain flag
    #[arg(long, conflicts_with = "subscribe")]
    retain: bool,
    /// The acl document
    #[arg(long, value_name = "NAME", default_value = "default")]
    acl: String,
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Directories, files, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let Question::Explain(asked) = args.question;
    let snapshot = read_all(&asked.paths)?;
    let declared = valid(&snapshot)?;
    let name = Name::parse(&asked.acl).map_err(anyhow::Error::msg)?;
    let acl = declared.acls.get(&name).with_context(|| format!("no acl document named `{name}`"))?;
    let subject = Subject { client_id: &asked.client_id, username: asked.username.as_deref(), address: asked.address };
    let verdict = RuleSet::compile(acl).evaluate(subject, request(&asked)?);
    let word = match verdict.permission {
        Permission::Allow => "allowed",
        Permission::Deny => "denied",
    };
    let why = match verdict.rule {
        Some(rule) => format!("by rule {} of acl {name}, {}", rule + 1, place(&snapshot, acl, rule)),
        None => format!("by noMatch of acl {name}, {}: no rule matches", shown(acl)),
    };
    print(&match asked.format {
        Format::Human => format!("{word} {why}\n"),
        Format::Json => {
            let place = verdict.rule.map_or_else(|| shown(acl), |rule| place(&snapshot, acl, rule));
            let rule = verdict.rule.map(|rule| rule + 1);
            let allowed = verdict.permission == Permission::Allow;
            format!("{:#}\n", json!({"allowed": allowed, "acl": name.as_str(), "rule": rule, "place": place}))
        }
    })?;
    Ok(if verdict.permission == Permission::Allow { Exit::Success } else { Exit::Failure })
}

fn request(asked: &Explain) -> anyhow::Result<AclRequest<'_>> {
    let qos = match asked.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    if asked.subscribe {
        let shared =
            SharedFilter::parse(&asked.topic).map_err(|_| anyhow::anyhow!("no shared subscription's filter"))?;
        let filter = shared.map_or(asked.topic.as_str(), |shared| shared.filter);
        check_filter(filter).map_err(anyhow::Error::msg)?;
        return Ok(AclRequest::Subscribe { filter, qos });
    }
    if let Err(error) = check_topic(&asked.topic) {
        bail!("--topic {:?}: {error}; filters are for --subscribe", asked.topic);
    }
    Ok(AclRequest::Publish { topic: &asked.topic, qos, retain: asked.retain })
}

fn shown(acl: &Acl) -> String {
    format!("{}:{}", acl.origin.file, acl.origin.position.line)
}

/// `file:line` of a rule.
fn place(snapshot: &Snapshot, acl: &Acl, rule: usize) -> String {
    let file = snapshot.files.iter().find(|file| file.shown == acl.origin.file);
    let content = file.and_then(|file| file.content.as_ref().ok());
    let position = content.and_then(|content| rule_position(content, acl, rule));
    position.map_or_else(|| shown(acl), |position| format!("{}:{}", acl.origin.file, position.line))
}
