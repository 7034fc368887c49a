//! What can be told of an offline model (OM) without loading it: whether it is whole, whether its
//! shapes are static, and how much memory it wants.
//!
//! ```text
//! header, 256 bytes | partition table | partitions, one after the other, in the table's order
//!
//! offset  header                              table, when model_length is not 0   else
//! 0       magic u32, "IMOD"                   num u32, padding u32                num u32
//! 4       headsize u32, 256                   num times                           num times
//! 8       version u32                           type u32, padding u32               type u32
//! 76      length u32, of older writers          offset u64, not looked at           offset u32
//! 80      is_encrypt u8                         size u64                            size u32
//! 82      modeltype u8, 0
//! 156     model_num u32                       partition MODEL_DEF (type 0): a ge.proto.ModelDef
//! 184     model_length u64                    whose attributes memory_size and
//! 193     is_unknow_model u8                  zero_copy_memory_size are integers
//! ```
//!
//! All numbers are little-endian. `model_length`, or `length` where that is 0, is what follows the
//! header. The fields are those of GE's `ModelFileHeader` and `ModelPartitionTable`.
//!
//! What this module deliberately does not do: it does not judge whether a device can run the model;
//! loading it does.

use std::collections::BTreeMap;

use prost::Message as _;

const HEADER_BYTES: usize = 256;
const MAGIC: u32 = 0x444F_4D49;
/// The version that has `model_num` and `is_unknow_model`; CANN 8.1 and later write it.
const VERSION: u32 = 0x2000_0000;
/// The loader takes no more.
const MAX_PARTITIONS: u32 = 8;
const MODEL_DEF: u32 = 0;

/// What an offline model says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OmInfo {
    /// Bytes that the model works in, inputs and outputs included.
    pub memory_size: Option<u64>,
    /// How many of them are inputs and outputs that are used where they lie.
    pub zero_copy_memory_size: Option<u64>,
}

impl OmInfo {
    /// Bytes of the workspace that a caller has to bring who gives inputs and outputs their own
    /// memory. `None` where the model does not say.
    pub fn workspace_size(&self) -> Option<u64> {
        self.memory_size?.checked_sub(self.zero_copy_memory_size?)
    }
}

/// Why bytes are no offline model that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OmError {
    /// There is not even a header.
    #[error("{bytes} bytes are too few for an offline model, whose header has 256")]
    TooShort {
        /// How many there are.
        bytes: usize,
    },
    /// A field of the header has a value that no offline model of ours has.
    #[error("the offline model's {field} is {found:#x}, expected {expected}")]
    Header {
        /// The field, as GE calls it.
        field: &'static str,
        /// What was expected.
        expected: &'static str,
        /// What is there.
        found: u64,
    },
    /// It was cut, or something was appended.
    #[error("the offline model says that {expected} bytes follow its header, but {found} do")]
    Length {
        /// What the header says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// It is compiled for shapes that vary: it would run through the slow executor that plans each
    /// operator on the host.
    #[error(
        "graph became dynamic (model_num {model_num}, is_unknow_model {is_unknow_model}): an \
         operator takes values that only a run knows, and this CANN cannot plan it on the device"
    )]
    Dynamic {
        /// How many models the file holds.
        model_num: u32,
        /// 1: not all shapes are known.
        is_unknow_model: u8,
    },
}

/// Checks the header and reads the sizes.
///
/// # Errors
/// [`OmError`] when the bytes are not one whole, static offline model. Sizes that cannot be found
/// are no error.
pub fn check(om: &[u8]) -> Result<OmInfo, OmError> {
    let (header, body) =
        om.split_at_checked(HEADER_BYTES).ok_or(OmError::TooShort { bytes: om.len() })?;
    let header = Header::read(header).ok_or(OmError::TooShort { bytes: om.len() })?;
    header.check(body.len() as u64)?;
    Ok(sizes(body, header.model_length != 0).unwrap_or_default())
}

/// The fields that matter here.
#[derive(Debug)]
struct Header {
    magic: u32,
    head_size: u32,
    version: u32,
    length: u32,
    is_encrypt: u8,
    model_type: u8,
    model_num: u32,
    model_length: u64,
    is_unknow_model: u8,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            magic: u32_at(bytes, 0)?,
            head_size: u32_at(bytes, 4)?,
            version: u32_at(bytes, 8)?,
            length: u32_at(bytes, 76)?,
            is_encrypt: *bytes.get(80)?,
            model_type: *bytes.get(82)?,
            model_num: u32_at(bytes, 156)?,
            model_length: u64_at(bytes, 184)?,
            is_unknow_model: *bytes.get(193)?,
        })
    }

    fn check(&self, body_bytes: u64) -> Result<(), OmError> {
        let field = |is_good: bool, field, expected, found: u64| {
            if is_good { Ok(()) } else { Err(OmError::Header { field, expected, found }) }
        };
        field(self.magic == MAGIC, "magic", "0x444f4d49", self.magic.into())?;
        field(self.head_size == 256, "headsize", "0x100", self.head_size.into())?;
        field(self.version >= VERSION, "version", "at least 0x20000000", self.version.into())?;
        field(self.is_encrypt == 0, "is_encrypt", "0", self.is_encrypt.into())?;
        field(self.model_type == 0, "modeltype", "0", self.model_type.into())?;
        let expected = match self.model_length {
            0 => self.length.into(),
            length => length,
        };
        if expected != body_bytes {
            return Err(OmError::Length { expected, found: body_bytes });
        }
        // As the loader decides which executor it takes.
        if self.model_num > 1 || self.is_unknow_model != 0 {
            let &Self { model_num, is_unknow_model, .. } = self;
            return Err(OmError::Dynamic { model_num, is_unknow_model });
        }
        Ok(())
    }
}

/// The attributes of a `ge.proto.ModelDef`, and of them only integers: the graph, which is nearly
/// all of it, is passed over.
#[derive(Clone, PartialEq, prost::Message)]
struct ModelAttributes {
    #[prost(btree_map = "string, message", tag = "11")]
    attr: BTreeMap<String, IntAttribute>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IntAttribute {
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
}

fn sizes(body: &[u8], is_wide: bool) -> Option<OmInfo> {
    let model = ModelAttributes::decode(model_def(body, is_wide)?).ok()?;
    let size = |name: &str| u64::try_from(model.attr.get(name)?.i?).ok();
    Some(OmInfo {
        memory_size: size("memory_size"),
        zero_copy_memory_size: size("zero_copy_memory_size"),
    })
}

/// The partition with the graph. Like the loader, this adds up the sizes of the partitions before
/// it instead of believing the table's offsets.
fn model_def(body: &[u8], is_wide: bool) -> Option<&[u8]> {
    let (head_bytes, entry_bytes) = if is_wide { (8, 24) } else { (4, 12) };
    let num_partitions = u32_at(body, 0)?;
    if num_partitions > MAX_PARTITIONS {
        return None;
    }
    let table_bytes = head_bytes + entry_bytes * num_partitions as usize;
    let (table, mut rest) = body.split_at_checked(table_bytes)?;
    for entry in table.get(head_bytes..)?.chunks_exact(entry_bytes) {
        let size = if is_wide { u64_at(entry, 16)? } else { u32_at(entry, 8)?.into() };
        let (partition, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
        if u32_at(entry, 0)? == MODEL_DEF {
            return Some(partition);
        }
        rest = after;
    }
    None
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const WEIGHTS: u32 = 1;

    /// A whole, static offline model with these attributes.
    pub(in super::super) fn om(attributes: &[(&str, i64)], is_wide: bool) -> Vec<u8> {
        let attr = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), IntAttribute { i: Some(*value) }))
            .collect();
        // A graph in field 7, which the decoder passes over.
        let mut model = vec![(7 << 3) | 2, 3, 1, 2, 3];
        model.extend(ModelAttributes { attr }.encode_to_vec());
        let partitions = [(WEIGHTS, b"weights".as_slice()), (MODEL_DEF, model.as_slice())];

        let mut body = (partitions.len() as u32).to_le_bytes().to_vec();
        body.resize(if is_wide { 8 } else { 4 }, 0);
        for (kind, partition) in partitions {
            let size = partition.len() as u32;
            let words = if is_wide { vec![kind, 0, 7, 0, size, 0] } else { vec![kind, 7, size] };
            body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        body.extend(partitions.iter().flat_map(|(_, partition)| *partition));
        with_header(&body, is_wide)
    }

    fn with_header(body: &[u8], is_wide: bool) -> Vec<u8> {
        let mut om = vec![0; HEADER_BYTES];
        om[0..4].copy_from_slice(b"IMOD");
        om[4..8].copy_from_slice(&256_u32.to_le_bytes());
        om[8..12].copy_from_slice(&VERSION.to_le_bytes());
        om[156..160].copy_from_slice(&1_u32.to_le_bytes());
        if is_wide {
            om[184..192].copy_from_slice(&(body.len() as u64).to_le_bytes());
        } else {
            om[76..80].copy_from_slice(&(body.len() as u32).to_le_bytes());
        }
        om.extend_from_slice(body);
        om
    }

    #[test]
    fn the_sizes_are_found_in_both_forms_of_the_table() {
        for is_wide in [true, false] {
            let om =
                om(&[("memory_size", 6_322_176), ("zero_copy_memory_size", 6_321_664)], is_wide);
            let info = check(&om).unwrap();
            assert_eq!(info.memory_size, Some(6_322_176));
            assert_eq!(info.zero_copy_memory_size, Some(6_321_664));
            assert_eq!(info.workspace_size(), Some(512));
        }
    }

    #[test]
    fn sizes_that_are_not_there_are_no_error() {
        for (body, what) in [
            (vec![], "no table"),
            (9_u32.to_le_bytes().to_vec(), "more partitions than the loader takes"),
            ([1, 0, 0, 0, 0, 0, 0, 0].to_vec(), "a table that is cut"),
            ([[1_u8, 0, 0, 0, 0, 0, 0, 0], [0; 8], [0; 8], [255; 8]].concat(), "a huge partition"),
        ] {
            // An empty body has no length to be given in the wide form.
            assert_eq!(
                check(&with_header(&body, !body.is_empty())),
                Ok(OmInfo::default()),
                "{what}"
            );
        }
        let negative = om(&[("memory_size", -1)], true);
        assert_eq!(check(&negative), Ok(OmInfo::default()));
        let more_io_than_all = om(&[("memory_size", 1), ("zero_copy_memory_size", 2)], true);
        assert_eq!(check(&more_io_than_all).unwrap().workspace_size(), None);
    }

    #[test]
    fn a_dynamic_model_says_why() {
        let mut om = om(&[], true);
        om[193] = 1;
        let error = check(&om).unwrap_err();
        assert!(error.to_string().starts_with("graph became dynamic"), "{error}");
        om[193] = 0;
        om[156] = 3;
        assert_eq!(check(&om), Err(OmError::Dynamic { model_num: 3, is_unknow_model: 0 }));
    }

    #[test]
    fn every_field_of_the_header_is_checked() {
        let good = om(&[("memory_size", 64)], true);
        let with = |offset: usize, byte: u8| {
            let mut om = good.clone();
            om[offset] = byte;
            check(&om).unwrap_err().to_string()
        };
        assert_eq!(with(0, b'X'), "the offline model's magic is 0x444f4d58, expected 0x444f4d49");
        assert!(with(5, 2).contains("headsize is 0x200"));
        assert!(with(11, 0x10).contains("version is 0x10000000, expected at least 0x20000000"));
        assert!(with(80, 1).contains("is_encrypt is 0x1"));
        assert!(with(82, 3).contains("modeltype is 0x3"));
        assert!(with(186, 1).contains("bytes follow its header, but"));
    }

    #[test]
    fn a_cut_model_is_refused_at_every_length() {
        let om = om(&[("memory_size", 64)], true);
        for len in 0..om.len() {
            assert!(check(&om[..len]).is_err(), "accepted {len} of {} bytes", om.len());
        }
        assert_eq!(check(&[om.as_slice(), b"x"].concat()).map_err(|error| error.to_string()), {
            let body = om.len() - HEADER_BYTES;
            Err(format!(
                "the offline model says that {body} bytes follow its header, but {} do",
                body + 1
            ))
        });
    }

    #[test]
    fn no_flipped_bit_makes_it_panic() {
        for is_wide in [true, false] {
            let good = om(&[("memory_size", 1 << 40), ("zero_copy_memory_size", 7)], is_wide);
            for bit in 0..good.len() * 8 {
                let mut om = good.clone();
                om[bit / 8] ^= 1 << (bit % 8);
                let _ = check(&om);
            }
        }
    }

    #[test]
    fn no_bytes_after_a_good_header_make_it_panic() {
        // A small generator, so that a failure can be repeated.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        for round in 0..2000 {
            let body: Vec<u8> = (0..round % 97).map(|_| next() % 9).collect();
            let _ = check(&with_header(&body, round % 2 == 0));
        }
    }
}
