//! The first 256 bytes of an offline model.
//!
//! | At | Field |
//! | --- | --- |
//! | 0 | magic `0x444F4D49` |
//! | 4 | size of the header, 256 |
//! | 8 | version `0x2000_0000` |
//! | 12 | checksum, 64 bytes |
//! | 76 | length, u32: 0 when `model_length` is set |
//! | 82 | type of the model, u8: 0 |
//! | 84 | name, 32 bytes |
//! | 156 | `model_num`, u32 |
//! | 184 | `model_length`, u64: bytes after the header |
//! | 192 | `need_check_os_cpu_info`, u8 |
//! | 193 | `is_unknow_model`, u8 (so spelled) |

use super::{DATA_SIZE_INVALID, LOAD_MODEL, OmError};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 256;

const MAGIC: u32 = 0x444F_4D49;
const VERSION: u32 = 0x2000_0000;
const NAME_BYTES: usize = 32;
/// A dynamic model has a part for each operator at most.
const MAX_MODELS: u32 = 4096;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of everything after the header, in hexadecimal.
    pub checksum: [u8; 64],
    /// Cut to 31 bytes.
    pub name: String,
    /// Parts.
    pub model_num: u32,
    /// Bytes after the header.
    pub model_length: u64,
    /// `is_unknow_model`.
    pub is_dynamic: bool,
    /// Whether the model runs on the operating system and processor of its compiler only.
    pub needs_os_cpu: bool,
}

impl Header {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(4, &(HEADER_BYTES as u32).to_le_bytes());
        put(8, &VERSION.to_le_bytes());
        put(12, &self.checksum);
        let name = self.name.as_bytes();
        put(84, &name[..name.len().min(NAME_BYTES - 1)]);
        put(156, &self.model_num.to_le_bytes());
        put(184, &self.model_length.to_le_bytes());
        put(192, &[u8::from(self.needs_os_cpu), u8::from(self.is_dynamic)]);
        bytes
    }

    /// The header and what follows it.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), OmError> {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| {
            let message =
                format!("{} bytes are fewer than the header's {HEADER_BYTES}", bytes.len());
            OmError::new(DATA_SIZE_INVALID, message)
        })?;
        let u32_at = |at: usize| u32::from_le_bytes(array(header, at));
        let (magic, headsize, version) = (u32_at(0), u32_at(4), u32_at(8));
        if magic != MAGIC {
            let message = format!("the magic number is {magic:#x}, not {MAGIC:#x}");
            return Err(OmError::new(DATA_SIZE_INVALID, message));
        }
        let model_length = match u64::from_le_bytes(array(header, 184)) {
            0 => u64::from(u32_at(76)),
            length => length,
        };
        if model_length != body.len() as u64 {
            let message = format!("the header says {model_length} bytes, {} follow", body.len());
            return Err(OmError::new(DATA_SIZE_INVALID, message));
        }
        if headsize as usize != HEADER_BYTES || version != VERSION {
            let message = format!("header of {headsize} bytes, version {version:#x}");
            return Err(OmError::new(LOAD_MODEL, message));
        }
        let (is_encrypt, modeltype) = (header[80], header[82]);
        if is_encrypt != 0 || modeltype != 0 {
            let message = format!("is_encrypt {is_encrypt}, modeltype {modeltype}: expected 0, 0");
            return Err(OmError::new(LOAD_MODEL, message));
        }
        let model_num = u32_at(156);
        if !(1..=MAX_MODELS).contains(&model_num) {
            return Err(OmError::new(LOAD_MODEL, format!("model_num is {model_num}")));
        }
        let name: [u8; NAME_BYTES] = array(header, 84);
        let name_end = name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
        let decoded = Self {
            checksum: array(header, 12),
            name: String::from_utf8_lossy(&name[..name_end]).into_owned(),
            model_num,
            model_length,
            is_dynamic: header[193] == 1,
            needs_os_cpu: header[192] == 1,
        };
        Ok((decoded, body))
    }
}

fn array<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    header[at..at + N].try_into().expect("invariant: every field lies inside the header")
}
