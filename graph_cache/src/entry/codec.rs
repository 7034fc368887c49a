//! `record.bin` as bytes: the only file that knows the serialisation library.
//!
//! ```text
//! offset  0   magic            8 bytes   "CairnGC" and a zero
//!         8   format number    u32       little-endian, like every integer of this header
//!        12   payload length   u32
//!        16   digest           32 bytes  SHA-256 of the 16 bytes above and of the payload
//!        48   payload                    the record, to the end of the file
//! ```
//!
//! The header is that of every format to come, so that a whole record of a newer format can be told
//! from a damaged one. It is read by hand and its digest checked before the payload is decoded, so
//! the library sees only bytes that this crate wrote. The decoder has a size limit all the same.

use bincode::config::{self, Config};
use sha2::{Digest as _, Sha256};

use super::record::Record;

/// Number of the format that this version reads and writes.
pub(crate) const FORMAT: u32 = 2;
/// No record is longer than this.
pub(crate) const MAX_RECORD_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"CairnGC\0";
const HEADER_BYTES: usize = 48;

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DecodeError {
    #[error("record of {got} bytes, expected {HEADER_BYTES} to {MAX_RECORD_BYTES}")]
    Size { got: usize },
    #[error("record does not begin with the magic number")]
    Magic,
    #[error("record format {got}, but this version reads format {FORMAT}")]
    Format { got: u32 },
    #[error("record holds {got} bytes of payload, but its header says {expected}")]
    Length { expected: u32, got: usize },
    #[error("record of format {format} does not match its own digest")]
    Digest { format: u32 },
    #[error("record has a right digest, but cannot be decoded: {0}")]
    Payload(String),
}

pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let payload = bincode::serde::encode_to_vec(record, config())
        .expect("invariant: a record is a few fixed-size values, which always encode");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(digest(&bytes, &payload));
    bytes.extend(payload);
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let too_short = DecodeError::Size { got: bytes.len() };
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(too_short);
    }
    let (head, rest) = bytes.split_first_chunk::<16>().ok_or(too_short.clone())?;
    let (expected_digest, payload) = rest.split_first_chunk::<32>().ok_or(too_short)?;
    if head[..8] != MAGIC {
        return Err(DecodeError::Magic);
    }
    let format = u32_at(head, 8);
    let length = u32_at(head, 12);
    if length as usize != payload.len() {
        return Err(DecodeError::Length { expected: length, got: payload.len() });
    }
    if digest(head, payload) != *expected_digest {
        return Err(DecodeError::Digest { format });
    }
    if format != FORMAT {
        return Err(DecodeError::Format { got: format });
    }
    let (record, used) = bincode::serde::decode_from_slice(payload, config())
        .map_err(|error| DecodeError::Payload(error.to_string()))?;
    if used != payload.len() {
        return Err(DecodeError::Payload(format!("{used} of {} bytes used", payload.len())));
    }
    Ok(record)
}

fn config() -> impl Config {
    config::standard().with_limit::<MAX_RECORD_BYTES>()
}

fn digest(head: &[u8], payload: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(head).chain_update(payload).finalize().into()
}

fn u32_at(head: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::record::FileDigest;

    fn record() -> Record {
        Record { key: [7; 32], manifest: FileDigest::of(b"manifest"), artifact_bytes: 8 }
    }

    #[test]
    fn a_record_round_trips() {
        assert_eq!(decode(&encode(&record())), Ok(record()));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_noticed() {
        let good = encode(&record());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(decode(&bad).is_err(), "bit {bit} of byte {at}");
            }
            assert!(decode(&good[..at]).is_err(), "cut to {at} bytes");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(decode(&longer).is_err());
    }

    #[test]
    fn another_format_is_named() {
        let mut newer = encode(&record());
        newer[8] = 9;
        assert_eq!(decode(&newer), Err(DecodeError::Digest { format: 9 }));
        let (head, rest) = newer.split_first_chunk_mut::<16>().unwrap();
        let (its_digest, payload) = rest.split_first_chunk_mut::<32>().unwrap();
        *its_digest = digest(head, payload);
        let error = decode(&newer).unwrap_err();
        assert_eq!(error, DecodeError::Format { got: 9 });
        assert_eq!(error.to_string(), "record format 9, but this version reads format 2");
    }

    #[test]
    fn a_payload_that_is_no_record_is_an_error_even_with_a_right_digest() {
        for payload in [&[][..], &[0xff; 40], &[0; 200]] {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(FORMAT.to_le_bytes());
            bytes.extend((payload.len() as u32).to_le_bytes());
            bytes.extend(digest(&bytes, payload));
            bytes.extend(payload);
            assert!(matches!(decode(&bytes), Err(DecodeError::Payload(_))));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
