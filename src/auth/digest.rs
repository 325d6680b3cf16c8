//! Short digests: versions of records, keys of caches. Not for passwords.

use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256};

/// 128 bits of SHA-256 over `parts`, hexadecimal. Each part is preceded by its length: `ab`, `c` is not `a`, `bc`.
pub(super) fn version_of(parts: &[&[u8]]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    HEXLOWER.encode(digest.as_ref().get(..16).unwrap_or_default())
}
