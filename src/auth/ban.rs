//! Who is kept out of every endpoint, and clients that connect too often.

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use weir_declare::config::{Ban, BanEntry, Flapping};

/// All ban documents together. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bans {
    documents: Arc<[Arc<Ban>]>,
}

/// Who is asked about. A condition on something that is not known does not hold.
#[derive(Debug, Clone, Copy)]
pub struct Suspect<'a> {
    pub client_id: &'a str,
    /// As proven by authentication; `None` before it.
    pub username: Option<&'a str>,
    pub address: Option<IpAddr>,
}

impl Bans {
    /// Takes the documents together.
    pub fn new(documents: impl IntoIterator<Item = Arc<Ban>>) -> Self {
        Self { documents: documents.into_iter().collect() }
    }

    /// The ban that keeps `suspect` out at `now`, the wall clock's.
    pub fn strikes(&self, suspect: Suspect<'_>, now: OffsetDateTime) -> Option<&BanEntry> {
        let mut entries = self.documents.iter().flat_map(|document| document.entries.iter());
        entries.find(|entry| entry.until.is_none_or(|until| now < until) && is_about(entry, suspect))
    }

    /// The strictest rule on flapping clients.
    pub(super) fn flapping(&self) -> Option<&Flapping> {
        self.documents.iter().filter_map(|document| document.flapping.as_ref()).min_by_key(|rule| rule.max_connects)
    }
}

/// An entry without any condition would keep out everybody: it is refused as a document, and strikes nobody here.
fn is_about(entry: &BanEntry, suspect: Suspect<'_>) -> bool {
    let conditional = entry.client_id.is_some() || entry.username.is_some() || entry.ipaddr.is_some();
    conditional
        && entry.client_id.as_ref().is_none_or(|glob| glob.matches(suspect.client_id))
        && entry.username.as_deref().is_none_or(|username| suspect.username == Some(username))
        && entry.ipaddr.as_ref().is_none_or(|range| suspect.address.is_some_and(|address| range.contains(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_strike_whom_they_name_and_only_until_they_end() {
        let bans = Bans::new([Arc::new(
            serde_yaml::from_str::<Ban>(
                r#"
name: abuse
entries:
  - {clientId: "bot-*", until: 2027-01-01T00:00:00Z, reason: flood}
  - {username: mallory}
  - {ipaddr: 192.0.2.0/24}
  - {clientId: "x*", ipaddr: 10.0.0.0/8}
  - {reason: names nobody}
"#,
            )
            .unwrap(),
        )]);
        let (before, after) =
            (time::macros::datetime!(2026-12-31 23:59:59 UTC), time::macros::datetime!(2027-01-01 0:00 UTC));
        let cases = [
            ("bot-1", None, "10.0.0.1", before, true),
            ("bot-1", None, "10.0.0.1", after, false),
            ("robot-1", None, "10.0.0.1", before, false),
            ("a", Some("mallory"), "10.0.0.1", after, true),
            ("mallory", None, "10.0.0.1", after, false),
            ("a", None, "192.0.2.77", after, true),
            ("a", None, "::ffff:192.0.2.77", after, true),
            ("x1", None, "10.1.1.1", after, true),
            ("x1", None, "11.1.1.1", after, false),
            ("a", None, "11.1.1.1", before, false),
        ];
        for (client_id, username, address, now, expected) in cases {
            let suspect = Suspect { client_id, username, address: address.parse().ok() };
            assert_eq!(bans.strikes(suspect, now).is_some(), expected, "{client_id} {username:?} {address} {now}");
        }
        // On a Unix socket there is no address that a ban could be about.
        assert!(bans.strikes(Suspect { client_id: "a", username: None, address: None }, before).is_none());
    }
}
