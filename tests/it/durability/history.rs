//! What clients sent and received, and which of it violates the guarantees.

use std::collections::{BTreeMap, BTreeSet};

/// What is published, numbered by its publisher from 1 on, topic by topic.
pub type Sequence = u64;

#[derive(Debug, Default, Clone)]
struct Topic {
    qos: u8,
    sent: BTreeSet<Sequence>,
    acknowledged: BTreeSet<Sequence>,
    /// By subscriber, in the order the application saw them.
    seen: BTreeMap<String, Vec<Sequence>>,
}

#[derive(Debug, Default, Clone)]
pub struct History {
    topics: BTreeMap<String, Topic>,
    subscribers: BTreeSet<String>,
    /// Groups of shared subscriptions, by the QoS they asked for: what their members see counts together.
    groups: BTreeMap<String, u8>,
    findings: Vec<String>,
}

impl History {
    /// A subscriber's SUBACK has come: from now on it is owed everything.
    pub fn subscribed(&mut self, subscriber: &str) {
        self.subscribers.insert(subscriber.to_owned());
    }

    /// The first of a group's members that stay has its SUBACK.
    pub fn group_subscribed(&mut self, group: &str, qos: u8) {
        self.subscribed(group);
        self.groups.insert(group.to_owned(), qos);
    }

    pub fn sent(&mut self, topic: &str, qos: u8, sequence: Sequence) {
        let entry = self.topics.entry(topic.to_owned()).or_default();
        entry.qos = qos;
        entry.sent.insert(sequence);
    }

    /// PUBACK or PUBREC has come: the broker is responsible.
    pub fn acknowledged(&mut self, topic: &str, sequence: Sequence) {
        self.topics.entry(topic.to_owned()).or_default().acknowledged.insert(sequence);
    }

    /// A subscriber's application was given a message (of QoS 2: what its packet identifier did not acknowledge as known).
    pub fn seen(&mut self, subscriber: &str, topic: &str, sequence: Sequence) {
        let entry = self.topics.entry(topic.to_owned()).or_default();
        entry.seen.entry(subscriber.to_owned()).or_default().push(sequence);
    }

    /// A violation that a client found.
    pub fn finding(&mut self, what: String) {
        self.findings.push(what);
    }

    /// How many messages are acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        self.topics.values().map(|topic| topic.acknowledged.len()).sum()
    }

    /// Whether every subscriber has a message.
    pub fn is_delivered(&self, topic: &str, sequence: Sequence) -> bool {
        let Some(topic) = self.topics.get(topic) else { return false };
        let has_it = |who: &String| topic.seen.get(who).is_some_and(|seen| seen.contains(&sequence));
        self.subscribers.iter().all(has_it)
    }

    /// Whether every subscriber has everything that was acknowledged.
    pub fn is_complete(&self) -> bool {
        self.subscribers
            .iter()
            .all(|subscriber| self.topics.values().all(|topic| missing(topic, subscriber).is_empty()))
    }

    /// All violations.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = self.findings.clone();
        for (name, topic) in &self.topics {
            for subscriber in &self.subscribers {
                let lost = missing(topic, subscriber);
                if !lost.is_empty() {
                    findings.push(format!("{subscriber} was not given {name} {lost:?}, which were acknowledged"));
                }
                check_seen(&mut findings, name, topic, subscriber, self.groups.get(subscriber).copied());
            }
        }
        findings
    }
}

fn missing(topic: &Topic, subscriber: &str) -> Vec<Sequence> {
    if topic.qos == 0 {
        return Vec::new();
    }
    let seen: BTreeSet<Sequence> = topic.seen.get(subscriber).into_iter().flatten().copied().collect();
    topic.acknowledged.difference(&seen).copied().collect()
}

/// `group_qos`: of a group, whose members may overtake each other.
fn check_seen(findings: &mut Vec<String>, name: &str, topic: &Topic, subscriber: &str, group_qos: Option<u8>) {
    let mut known = BTreeSet::new();
    let mut newest = 0;
    for &sequence in topic.seen.get(subscriber).into_iter().flatten() {
        if !topic.sent.contains(&sequence) {
            findings.push(format!("{subscriber} was given {name} {sequence}, which was never sent"));
        }
        if !known.insert(sequence) {
            if topic.qos.min(group_qos.unwrap_or(2)) == 2 {
                findings.push(format!("{subscriber} was given {name} {sequence} twice, of QoS 2"));
            }
            // QoS 1 may come again, and then after newer ones.
            continue;
        }
        if sequence < newest && group_qos.is_none() {
            findings.push(format!("{subscriber} was given {name} {sequence} after {newest}"));
        }
        newest = newest.max(sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three messages of `qos`, acknowledged, and what one subscriber saw of them.
    fn findings(qos: u8, seen: &[Sequence]) -> Vec<String> {
        let mut history = History::default();
        history.subscribed("s");
        for sequence in 1..=3 {
            history.sent("t", qos, sequence);
            history.acknowledged("t", sequence);
        }
        seen.iter().for_each(|sequence| history.seen("s", "t", *sequence));
        assert_eq!(history.is_complete(), (1..=3).all(|sequence| seen.contains(&sequence)));
        history.findings()
    }

    #[test]
    fn an_allowed_history_has_no_findings() {
        assert_eq!(findings(1, &[1, 2, 3]), [""; 0]);
        assert_eq!(findings(1, &[1, 2, 1, 2, 3]), [""; 0], "QoS 1 may come again");
        assert_eq!(findings(2, &[1, 2, 3]), [""; 0]);
    }

    #[test]
    fn a_planted_loss_is_found() {
        assert_eq!(findings(1, &[1, 3]), ["s was not given t [2], which were acknowledged"]);
    }

    #[test]
    fn a_planted_duplicate_is_found() {
        assert_eq!(findings(2, &[1, 2, 2, 3]), ["s was given t 2 twice, of QoS 2"]);
    }

    #[test]
    fn a_planted_reorder_is_found() {
        assert_eq!(findings(1, &[1, 3, 2]), ["s was given t 2 after 3"]);
        assert_eq!(findings(2, &[2, 1, 3]), ["s was given t 1 after 2"]);
    }

    #[test]
    fn a_message_that_was_never_sent_is_found() {
        assert_eq!(findings(1, &[1, 2, 3, 4]), ["s was given t 4, which was never sent"]);
    }
}
