//! Ban documents: which clients may connect to no endpoint, and the rule on clients that connect too often.

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use weir_declare::config::{Ban, BanEntry, Flapping};

/// All ban documents together. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::auth) struct Bans {
    documents: Arc<[Arc<Ban>]>,
}

/// The client that bans are matched against. A condition on something unknown does not match.
#[derive(Debug, Clone, Copy)]
pub(super) struct BanSubject<'a> {
    pub(super) client_id: &'a str,
    /// As authenticated; `None` before authentication.
    pub(super) username: Option<&'a str>,
    pub(super) address: Option<IpAddr>,
}

impl Bans {
    /// All documents together.
    pub(in crate::auth) fn new(documents: impl IntoIterator<Item = Arc<Ban>>) -> Self {
        Self { documents: documents.into_iter().collect() }
    }

    /// The ban that applies to `subject` at `now`, the wall clock's time.
    pub(super) fn find(&self, subject: BanSubject<'_>, now: OffsetDateTime) -> Option<&BanEntry> {
        let mut entries = self.documents.iter().flat_map(|document| document.entries.iter());
        entries.find(|entry| entry.until.is_none_or(|until| now < until) && matches(entry, subject))
    }

    /// The strictest rule on flapping clients.
    pub(super) fn flapping(&self) -> Option<&Flapping> {
        self.documents.iter().filter_map(|document| document.flapping.as_ref()).min_by_key(|rule| rule.max_connects)
    }
}

/// An entry without a condition would ban every client: the document is refused, and here it matches none.
fn matches(entry: &BanEntry, subject: BanSubject<'_>) -> bool {
    let conditional = entry.client_id.is_some() || entry.username.is_some() || entry.ipaddr.is_some();
    conditional
        && entry.client_id.as_ref().is_none_or(|glob| glob.matches(subject.client_id))
        && entry.username.as_deref().is_none_or(|username| subject.username == Some(username))
        && entry.ipaddr.as_ref().is_none_or(|range| subject.address.is_some_and(|address| range.contains(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_match_the_named_clients_until_they_end() {
        let bans = Bans::new([Arc::new(
            serde_yaml::from_str::<Ban>(
                r#"
name: abuse
entries:
  - {clientId: "bot-*", until: 2027-01-01T00:00:00Z, reason: flood}
  - {username: mallory}
  - {ipaddr: 192.0.2.0/24}
  - {clientId: "x*", ipaddr: 10.0.0.0/8}
  - {reason: without a condition}
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
            let subject = BanSubject { client_id, username, address: address.parse().ok() };
            assert_eq!(bans.find(subject, now).is_some(), expected, "{client_id} {username:?} {address} {now}");
        }
        // On a Unix socket there is no address that a ban could be about.
        assert!(bans.find(BanSubject { client_id: "a", username: None, address: None }, before).is_none());
    }
}
