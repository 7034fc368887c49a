//! Files with damage at random: whatever comes out, it is no panic and it comes to an end.
//!
//! The files are small and everything in them is read, so that the work is bounded by their
//! length; a loop without end would run into the time limit of the test run.

use std::path::Path;

use cairn::weights::{Checkpoint, WeightsError};

use crate::files::{folder, valid_gguf, valid_safetensors, write};

/// `SplitMix64` (Steele et al. 2014): seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Opens a file and reads everything in it that can be read.
fn read_all(path: &Path) -> Result<(), WeightsError> {
    let checkpoint = Checkpoint::open(path)?;
    for name in checkpoint.names() {
        let Ok(tensor) = checkpoint.tensor(name) else {
            continue;
        };
        let is_finite = tensor.to_f32_vec().iter().all(|value| value.is_finite());
        assert_eq!(tensor.first_non_finite().is_none(), is_finite);
    }
    if let Some(metadata) = checkpoint.gguf() {
        for key in metadata.keys() {
            let _ =
                (metadata.u64(key), metadata.f32(key), metadata.bool(key), metadata.string(key));
            let _ = (metadata.strings(key), metadata.f32s(key), metadata.i32s(key));
        }
    }
    Ok(())
}

fn survives_bit_flips(name: &str, valid: &[u8]) {
    let folder = folder();
    let path = write(folder.path(), name, valid);
    read_all(&path).expect("the file is valid before it is damaged");
    let mut random = Random(0);
    for _ in 0..2_000 {
        let mut bytes = valid.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        let _ = read_all(&write(folder.path(), name, bytes));
    }
}

fn refuses_every_cut(name: &str, valid: &[u8], shortest_that_opens: usize) {
    let folder = folder();
    for len in 0..shortest_that_opens {
        let path = write(folder.path(), name, &valid[..len]);
        assert!(
            Checkpoint::open(&path).is_err(),
            "{name} was opened with {len} of {} bytes",
            valid.len()
        );
    }
}

#[test]
fn gguf_files_with_flipped_bits_never_panic() {
    survives_bit_flips("model.gguf", &valid_gguf());
}

#[test]
fn safetensors_files_with_flipped_bits_never_panic() {
    survives_bit_flips("model.safetensors", &valid_safetensors());
}

#[test]
fn files_that_are_cut_anywhere_are_refused() {
    let safetensors = valid_safetensors();
    refuses_every_cut("model.safetensors", &safetensors, safetensors.len());
    // The last tensor of the GGUF file is of a foreign type, whose length nobody here knows: it
    // begins at byte 96 of 192 of the data.
    let gguf = valid_gguf();
    refuses_every_cut("model.gguf", &gguf, gguf.len() - 96);
}
