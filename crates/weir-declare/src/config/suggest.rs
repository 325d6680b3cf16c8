//! Suggestions for misspelt words.

/// The candidate that is most similar to `word`; `None`: none is similar enough.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Bounds the cost of a hostile word.
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
            // `maxConn` for `maxConnectionSize`: abbreviated, not misspelt.
            let cut = plain.len() >= 4 && normalized.starts_with(&plain);
            let distance = if cut { 1 } else { distance };
            (distance <= allowed).then_some((distance, candidate.len(), candidate))
        })
        .min()
        .map(|(_, _, candidate)| candidate)
}

/// Lower case without separators: `max_connection-size` equals `maxConnectionSize`.
fn normalize(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn a_similar_candidate_is_suggested_and_no_other() {
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
