//! Did you mean?

/// The candidate that `word` is most likely a slip of, if any is near enough.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A hostile word must not cost time.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let plain = normalize(word);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let normalized = normalize(candidate);
            let distance = strsim::osa_distance(&plain, &normalized);
            let allowed = (plain.chars().count().max(normalized.chars().count()) / 3).clamp(1, 4);
            // `maxConn` for `maxConnectionSize`: cut off, not misspelt.
            let cut = plain.len() >= 4 && normalized.starts_with(&plain);
            let distance = if cut { 1 } else { distance };
            (distance <= allowed).then_some((distance, candidate.len(), candidate))
        })
        .min()
        .map(|(_, _, candidate)| candidate)
}

/// `max_connection-size` and `maxConnectionSize` are the same slip.
fn normalize(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let fields = ["port", "host", "path", "maxConnectionSize", "maxConnectionPerSecond", "sslConfig", "enableAuth"];
        let cases = [
            ("prot", Some("port")),
            ("max_connection_size", Some("maxConnectionSize")),
            ("maxConnectionsSize", Some("maxConnectionSize")),
            ("sslconfig", Some("sslConfig")),
            ("enableAuht", Some("enableAuth")),
            ("maxConnectionPer", Some("maxConnectionPerSecond")),
            ("zzz", None),
            ("", None),
        ];
        for (word, meant) in cases {
            assert_eq!(did_you_mean(word, fields), meant, "{word}");
        }
    }
}
