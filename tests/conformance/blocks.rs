//! Blocks of the KV pool: what a sequence finds in its cache does not depend on which blocks hold
//! it, and blocks go to the host and back unchanged, bit for bit.

use cairn::backend::{BackendError, Memory};
use cairn::ir::DType;

use super::backends::{Configuration, configurations};
use super::case::{CaseStep, Loaded, bucket};
use super::cases::attention::Attention;

/// The input of [`Attention`]'s graph that holds the block tables.
const TABLES: usize = 3;

/// A batch whose keys and values are in the cache.
struct Filled {
    loaded: Loaded,
    /// Attends to what is there and writes nothing.
    step: CaseStep,
    /// The bits that it gives.
    expected: Vec<u32>,
    num_blocks: u32,
}

impl Filled {
    fn new(configuration: &Configuration, batch: &Attention) -> Self {
        let (case, step) = (batch.case(), batch.step(false));
        let graph = bucket(&case.graph, &step.symbols);
        let backend = configuration.backend.as_ref();
        let mut loaded = Loaded::new(backend, &graph, &case.tensors, &step.symbols).unwrap();
        let writes = &case.steps[0];
        loaded.run(&writes.symbols, &writes.inputs).unwrap();
        let num_blocks = step.symbols[4] as u32;
        let mut filled = Self { loaded, step, expected: Vec::new(), num_blocks };
        filled.expected = filled.bits();
        filled
    }

    /// What the step gives, but for padding.
    fn bits(&mut self) -> Vec<u32> {
        let output = self.loaded.run(&self.step.symbols, &self.step.inputs).unwrap();
        let num_checked = output.len() - self.step.num_padding;
        output[..num_checked].iter().map(|value| value.to_bits()).collect()
    }

    fn memory(&mut self) -> &mut dyn Memory {
        self.loaded.memory()
    }

    fn read(&mut self, block: u32) -> Vec<u8> {
        let mut bytes = vec![0xee; self.memory().block_bytes()];
        self.memory().read_block(block, &mut bytes).unwrap();
        bytes
    }

    /// The blocks that no sequence has.
    fn free(&self) -> Vec<u32> {
        let is_free = |block: &u32| !self.step.inputs[TABLES].contains(&(*block as i32));
        (0..self.num_blocks).filter(is_free).collect()
    }

    /// Tells the step that what was in each block is now in another.
    fn rename(&mut self, new: impl Fn(u32) -> u32) {
        self.step.inputs[TABLES].iter_mut().for_each(|block| *block = new(*block as u32) as i32);
    }
}

/// On every backend that has blocks, with batches that it takes.
fn on_every_backend(check: impl Fn(&str, &mut Filled)) {
    for configuration in configurations().iter().filter(|of| !of.computes_nothing) {
        let batches = if configuration.leaves_padding {
            // Heads of 8 are filled up to 16 on the device.
            let lens = [130, 17, 1, 260, 0];
            vec![
                Attention::on_device(DType::F16, (4, 2), 64).decode(&lens),
                Attention::on_device(DType::BF16, (3, 1), 8).decode(&lens),
            ]
        } else {
            vec![Attention::default()]
        };
        for batch in batches {
            check(configuration.name, &mut Filled::new(configuration, &batch));
        }
    }
}

fn is_bad_input<T>(result: &Result<T, BackendError>) -> bool {
    matches!(result, Err(BackendError::BadInput(message)) if !message.is_empty())
}

#[test]
fn a_sequence_finds_its_tokens_wherever_its_blocks_were_copied_to() {
    on_every_backend(|name, filled| {
        let mut free = filled.free()[0];
        for block in 0..filled.num_blocks {
            filled.memory().copy_blocks(&[(block, free)]).unwrap();
            // Nobody needs the old one any more.
            let noise = vec![0x3c; filled.memory().block_bytes()];
            filled.memory().write_block(block, &noise).unwrap();
            let copy = free;
            filled.rename(|old| if old == block { copy } else { old });
            free = block;
            assert!(filled.bits() == filled.expected, "{name}: block {block}");
        }
    });
}

#[test]
fn copies_are_done_one_after_the_other() {
    on_every_backend(|name, filled| {
        let spare = filled.free()[0];
        let used = filled.step.inputs[TABLES].clone();
        let (a, b) = (used[0] as u32, used[1] as u32);
        assert_ne!(a, b);
        let before = [a, b].map(|block| filled.read(block));
        // Swapped over a third one; a block onto itself is no copy.
        filled.memory().copy_blocks(&[(a, spare), (b, a), (b, b), (spare, b)]).unwrap();
        assert_eq!([b, a].map(|block| filled.read(block)), before, "{name}");
        filled.rename(|old| {
            if old == a {
                b
            } else if old == b {
                a
            } else {
                old
            }
        });
        assert!(filled.bits() == filled.expected, "{name}");
        filled.memory().copy_blocks(&[]).unwrap();
    });
}

#[test]
fn blocks_go_to_the_host_and_back_unchanged() {
    on_every_backend(|name, filled| {
        let len = filled.memory().block_bytes();
        assert!(len > 0, "{name}");
        let blocks: Vec<Vec<u8>> = (0..filled.num_blocks).map(|block| filled.read(block)).collect();
        for block in 0..filled.num_blocks {
            filled.memory().write_block(block, &vec![0; len]).unwrap();
            assert!(filled.read(block).iter().all(|&byte| byte == 0), "{name}");
        }
        assert!(filled.bits() != filled.expected, "{name}: an empty cache gives the same");
        for (block, bytes) in (0..).zip(&blocks) {
            filled.memory().write_block(block, bytes).unwrap();
            assert!(filled.read(block) == *bytes, "{name}: block {block}");
        }
        assert!(filled.bits() == filled.expected, "{name}");
    });
}

#[test]
fn blocks_that_are_not_there_and_buffers_of_another_length_change_nothing() {
    on_every_backend(|name, filled| {
        let (len, after) = (filled.memory().block_bytes(), filled.num_blocks);
        for copies in [[(0, 1), (1, after)], [(0, 1), (after, 1)], [(0, 1), (u32::MAX, 0)]] {
            let result = filled.memory().copy_blocks(&copies);
            assert!(is_bad_input(&result), "{name}: {result:?}");
        }
        for (block, len) in [(after, len), (u32::MAX, len), (0, len - 1), (0, len + 1), (0, 0)] {
            let mut bytes = vec![0; len];
            let read = filled.memory().read_block(block, &mut bytes);
            let written = filled.memory().write_block(block, &bytes);
            assert!(is_bad_input(&read) && is_bad_input(&written), "{name}: {read:?} {written:?}");
        }
        assert!(filled.bits() == filled.expected, "{name}");
    });
}

#[test]
fn a_memory_without_states_has_no_blocks() {
    for configuration in configurations().iter().filter(|of| !of.computes_nothing) {
        let mut memory = configuration.backend.place(Vec::new(), &[]).unwrap();
        assert_eq!(memory.block_bytes(), 0);
        memory.copy_blocks(&[]).unwrap();
        assert!(is_bad_input(&memory.copy_blocks(&[(0, 0)])), "{}", configuration.name);
        assert!(is_bad_input(&memory.read_block(0, &mut [])), "{}", configuration.name);
    }
}
