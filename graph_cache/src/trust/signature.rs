//! Signatures over manifests: who vouches for an entry.
//!
//! | Thing | As text |
//! | --- | --- |
//! | [`PublicKey`] | `ed25519:` and 64 hexadecimal digits |
//! | [`SigningKey`], in a file of its own | `cairn-secret-ed25519:` and 64 hexadecimal digits |
//! | [`KeyRing`], the file of trusted keys | a public key per line; `# comments`, empty lines, words after a key |
//! | `manifest.sig` | lines of `ed25519 PUBLIC SIGNATURE` in hexadecimal digits, one for each who signed |
//!
//! ```text
//! signed:  "cairn graph cache manifest, format 2\n" | the bytes of manifest.json
//! ```
//!
//! The first line keeps a signature from being worth anything in another place where the same key is
//! used. A manifest names the digest of every file and the fields of its key, so a signature of it is
//! a signature of every byte of the entry.
//!
//! What this module deliberately does not do: keys do not expire and are not revoked; a key that is
//! no longer trusted is taken out of the file. It reads and writes no files.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, VerifyingKey};

use crate::digest::Digest;

/// What every signed message begins with.
const DOMAIN: &[u8] = b"cairn graph cache manifest, format 2\n";
/// The kind of line, of key and of signature that this version knows.
const KIND: &str = "ed25519";
const PUBLIC_PREFIX: &str = "ed25519:";
const SECRET_PREFIX: &str = "cairn-secret-ed25519:";

/// Why text is not a key, or not a list of keys. No message repeats what was read: it may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Something else than a public key.
    #[error("expected a public key: `{PUBLIC_PREFIX}` and 64 lowercase hexadecimal digits")]
    Public,
    /// A secret key in place of a public one.
    #[error("this is a secret key: keep it where it was made, and give its public key here")]
    Secret,
    /// 32 bytes that are nobody's public key, or one that anybody can sign for.
    #[error("these 64 digits are not a public key of ed25519; copy it again from who signs")]
    Point,
    /// Something else than a secret key.
    #[error(
        "expected one line with a secret key: `{SECRET_PREFIX}` and 64 lowercase hexadecimal digits"
    )]
    NotSecret,
    /// A line of a list of keys.
    #[error("line {line}: {source}")]
    Line {
        /// Which one, from 1.
        line: usize,
        /// What is wrong with it.
        source: Box<KeyError>,
    },
    /// A list without a key, which would trust nobody.
    #[error("no key among the trusted keys: expected at least one line `{PUBLIC_PREFIX}...`")]
    Empty,
    /// There were no random numbers for a new key.
    #[error("cannot make a key: the operating system gives no random numbers: {0}")]
    Random(String),
}

/// Whose signature it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Point)?;
        if key.is_weak() { Err(KeyError::Point) } else { Ok(Self(key)) }
    }

    fn hex(&self) -> Digest {
        Digest::from_bytes(self.0.to_bytes())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with(SECRET_PREFIX) {
            return Err(KeyError::Secret);
        }
        let digits = text.strip_prefix(PUBLIC_PREFIX).ok_or(KeyError::Public)?;
        Self::from_bytes(&bytes_of(digits).ok_or(KeyError::Public)?)
    }
}

/// What signs. It is wiped from memory when it is dropped, and never printed.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key from the operating system's random numbers.
    ///
    /// # Errors
    /// When there are none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| KeyError::Random(error.to_string()))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&secret)))
    }

    /// The key of a secret key file.
    ///
    /// # Errors
    /// When the text is anything else than [`to_text`](Self::to_text) wrote, white space around it
    /// aside.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim().strip_prefix(SECRET_PREFIX).ok_or(KeyError::NotSecret)?;
        let secret = bytes_of(digits).ok_or(KeyError::NotSecret)?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&secret)))
    }

    /// The line of a secret key file, without its end. Whoever can read it can sign.
    pub fn to_text(&self) -> String {
        format!("{SECRET_PREFIX}{}", Digest::from_bytes(self.0.to_bytes()))
    }

    /// The key that others need to check the signatures of this one.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The line of `manifest.sig` for a manifest, without its end. It is always the same one.
    pub fn sign(&self, manifest_json: &[u8]) -> String {
        let signature = self.0.sign(&message(manifest_json));
        let [r, s] =
            [signature.r_bytes(), signature.s_bytes()].map(|half| Digest::from_bytes(*half));
        format!("{KIND} {} {r}{s}", self.public().hex())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

/// The keys that are trusted; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<PublicKey>,
}

impl KeyRing {
    /// Reads a list of trusted keys.
    ///
    /// # Errors
    /// When a line is neither a key nor a comment, or when there is no key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let Some(word) = text.split_whitespace().next() else { continue };
            if word.starts_with('#') {
                continue;
            }
            let at_line = |source| KeyError::Line { line, source: Box::new(source) };
            keys.push(word.parse().map_err(at_line)?);
        }
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(Self { keys }) }
    }

    /// Whether one of these keys signed the manifest.
    ///
    /// # Errors
    /// Why it is not known that one of them did, in words.
    pub fn verify(&self, manifest_json: &[u8], signatures: &[u8]) -> Result<(), String> {
        let message = message(manifest_json);
        // The nearest miss is told: a trusted key's before a stranger's.
        let mut mismatch = None;
        let mut stranger = None;
        for (key, signature) in signatures.split(|byte| *byte == b'\n').filter_map(signature_of) {
            if !self.keys.contains(&key) {
                stranger.get_or_insert(key);
            } else if key.0.verify_strict(&message, &signature).is_ok() {
                return Ok(());
            } else {
                mismatch.get_or_insert(key);
            }
        }
        Err(match (mismatch, stranger) {
            (Some(key), _) => format!("signature of {key} does not match"),
            (None, Some(key)) => format!("signed by {key}, which is not among the trusted keys"),
            (None, None) => "nobody signed it".to_owned(),
        })
    }
}

/// What is signed of a manifest.
fn message(manifest_json: &[u8]) -> Vec<u8> {
    [DOMAIN, manifest_json].concat()
}

/// A line of `manifest.sig`, or `None` for one that this version does not know.
fn signature_of(line: &[u8]) -> Option<(PublicKey, Signature)> {
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (kind, public, signature) = (words.next()?, words.next()?, words.next()?);
    if kind != KIND || words.next().is_some() {
        return None;
    }
    let key = PublicKey::from_bytes(&bytes_of(public)?).ok()?;
    let (r, s) = signature.split_at_checked(64)?;
    Some((key, Signature::from_components(bytes_of(r)?, bytes_of(s)?)))
}

/// 64 hexadecimal digits, in the one spelling that there is.
fn bytes_of(digits: &str) -> Option<[u8; 32]> {
    digits.parse().ok().map(|digest: Digest| *digest.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANIFEST: &[u8] = b"{\"format\": 2, \"key\": \"of a small entry\"}\n";

    fn key(seed: u8) -> SigningKey {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]))
    }

    fn ring(keys: &[&SigningKey]) -> KeyRing {
        let lines: Vec<_> = keys.iter().map(|key| key.public().to_string()).collect();
        KeyRing::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn keys_round_trip_and_no_two_new_ones_are_equal() {
        let (a, b) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        assert_ne!(a.to_text(), b.to_text());
        assert_ne!(a.public(), b.public());
        let text = a.to_text();
        assert_eq!(text.lines().count(), 1);
        assert_eq!(SigningKey::from_text(&format!("{text}\n")).unwrap().to_text(), text);
        assert_eq!(a.public().to_string().parse(), Ok(a.public()));
    }

    #[test]
    fn keys_have_one_spelling_and_errors_do_not_repeat_what_may_be_secret() {
        let (secret, public) = (key(1).to_text(), key(1).public().to_string());
        assert!(secret.starts_with("cairn-secret-ed25519:01010101"));
        assert_eq!(secret.parse::<PublicKey>(), Err(KeyError::Secret));
        assert_eq!(SigningKey::from_text(&public).unwrap_err(), KeyError::NotSecret);
        for bad in ["", "ed25519:", &public[1..], &public.to_uppercase(), &format!("{public}0")] {
            assert_eq!(bad.parse::<PublicKey>(), Err(KeyError::Public), "{bad}");
        }
        for bad in ["", &secret[1..], &secret[..60], &format!("{secret} x"), &secret.repeat(2)] {
            let error = SigningKey::from_text(bad).unwrap_err();
            assert_eq!(error, KeyError::NotSecret);
            assert!(!error.to_string().contains("0101"), "{error}");
        }
        let shown = format!("{:?}", key(1));
        assert_eq!(shown, format!("SigningKey(of {public})"));
    }

    #[test]
    fn points_that_anybody_can_sign_for_are_no_keys() {
        // The neutral element, of order 1, and a y that no point has.
        for digits in [format!("01{}", "00".repeat(31)), format!("02{}", "00".repeat(31))] {
            let error = format!("ed25519:{digits}").parse::<PublicKey>();
            assert_eq!(error, Err(KeyError::Point), "{digits}");
        }
    }

    #[test]
    fn a_list_of_keys_may_have_comments_and_names_its_bad_line() {
        let (a, b) = (key(1).public(), key(2).public());
        let text = format!("# build hosts\n\n  {a} host a, since May\r\n{b}\n#{a}\n");
        assert_eq!(KeyRing::parse(&text), Ok(KeyRing { keys: vec![a, b] }));
        assert_eq!(KeyRing::parse("# none\n\n"), Err(KeyError::Empty));
        let error = KeyRing::parse(&format!("{a}\n\nssh-ed25519 AAAA me@host\n")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3: expected a public key: `ed25519:` and 64 lowercase hexadecimal digits"
        );
        let error = KeyRing::parse(&key(1).to_text()).unwrap_err();
        assert_eq!(error, KeyError::Line { line: 1, source: Box::new(KeyError::Secret) });
    }

    #[test]
    fn one_signature_of_a_trusted_key_is_enough() {
        let (a, b, c) = (key(1), key(2), key(3));
        let by = |key: &SigningKey| key.sign(MANIFEST);
        let ring = ring(&[&a, &b]);
        assert_eq!(ring.verify(MANIFEST, by(&a).as_bytes()), Ok(()));
        let forged = by(&a).replace(&a.public().hex().to_string(), &b.public().hex().to_string());
        let several = format!("# by hand\n{}\nmldsa 12 34\n{forged}\n\n{}\r\n", by(&c), by(&b));
        assert_eq!(ring.verify(MANIFEST, several.as_bytes()), Ok(()));
        let trusted_fails = format!("{}\n{forged}\n", by(&c));
        assert_eq!(
            ring.verify(MANIFEST, trusted_fails.as_bytes()),
            Err(format!("signature of {} does not match", b.public()))
        );
        assert_eq!(
            ring.verify(MANIFEST, by(&c).as_bytes()),
            Err(format!("signed by {}, which is not among the trusted keys", c.public()))
        );
        for nobody in ["", "\n\n", "ed25519", "ed25519 00 00", &format!("{} x", by(&a))] {
            assert_eq!(
                ring.verify(MANIFEST, nobody.as_bytes()),
                Err("nobody signed it".to_owned()),
                "{nobody}"
            );
        }
    }

    #[test]
    fn a_signature_is_over_the_domain_and_the_manifest_and_always_the_same() {
        use ed25519_dalek::Verifier as _;

        let line = key(1).sign(b"m");
        assert_eq!(line, key(1).sign(b"m"));
        let (public, signature) = signature_of(line.as_bytes()).unwrap();
        let message = b"cairn graph cache manifest, format 2\nm";
        assert!(public.0.verify(message, &signature).is_ok());
        assert!(public.0.verify(b"m", &signature).is_err());
    }

    #[test]
    fn every_flipped_bit_of_manifest_and_signature_is_refused() {
        let (key, line) = (key(1), key(1).sign(MANIFEST));
        let ring = ring(&[&key]);
        for at in 0..MANIFEST.len() * 8 {
            let mut bad = MANIFEST.to_vec();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(ring.verify(&bad, line.as_bytes()).is_err(), "bit {at} of the manifest");
        }
        for at in 0..line.len() * 8 {
            let mut bad = line.clone().into_bytes();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(ring.verify(MANIFEST, &bad).is_err(), "bit {at} of the signature");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,200}",
            almost in "(ed25519|cairn-secret-ed25519)[: ][0-9a-f é]{60,200}",
        ) {
            let ring = ring(&[&key(1)]);
            for text in [&text, &almost] {
                let _ = (KeyRing::parse(text), SigningKey::from_text(text), text.parse::<PublicKey>());
                prop_assert!(ring.verify(MANIFEST, text.as_bytes()).is_err());
            }
            prop_assert!(ring.verify(MANIFEST, &bytes).is_err());
        }
    }
}
