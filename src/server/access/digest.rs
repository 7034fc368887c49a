//! Keys as they are stored and compared: by the SHA-256 of their bytes.
//!
//! ```text
//! client --key--> SHA-256 --> [32 bytes] == [32 bytes of a key's entry]     every byte is looked at
//! ```
//!
//! What a guess's comparison could tell by its time is about its hash, which nobody can steer; and
//! equality looks at all bytes in any case. Fresh keys have 160 random bits, so that a fast hash is
//! enough: nobody searches that space, stolen file or not.
//!
//! What this module deliberately does not do: passwords. A key that a person made up is only as good
//! as its letters.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256:";
/// Longest key that anyone may present.
pub(crate) const MAX_KEY_BYTES: usize = 512;
const FRESH_PREFIX: &str = "sk-cairn-";
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const FRESH_LETTERS: usize = 32;

/// The hash of a key.
#[derive(Clone, Copy, Debug, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a key's bytes.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Reads `sha256:` and 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX)?.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        let difference = pairs.fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        difference == 0
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// A key that nobody had before. It is shown once and kept nowhere.
///
/// # Errors
/// The system has no random bytes to give.
pub fn fresh_key() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; FRESH_LETTERS];
    getrandom::fill(&mut bytes)?;
    let letters = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    Ok(FRESH_PREFIX.chars().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_sha256sum_says() {
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), text);
        assert_eq!(Digest::parse(text), Some(Digest::of(b"abc")));
        assert_eq!(
            Digest::parse(&text.to_uppercase().replace("SHA", "sha")),
            Some(Digest::of(b"abc"))
        );
        assert_ne!(Digest::of(b"abd"), Digest::of(b"abc"));
        for bad in ["", "abc", "sha256:", &text[..70], &format!("{text}0"), &text[7..]] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
        assert_eq!(Digest::parse(&text.replace("ba", "xy")), None);
        assert_eq!(Digest::parse(&format!("sha256:{}", "é".repeat(32))), None);
    }

    #[test]
    fn fresh_keys_differ_and_are_plain() {
        let (a, b) = (fresh_key().unwrap(), fresh_key().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), FRESH_PREFIX.len() + FRESH_LETTERS);
        assert!(a.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{a}");
    }
}
