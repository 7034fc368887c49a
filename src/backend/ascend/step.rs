//! From the inputs of a step to those of a compiled graph: one staging buffer, filled by role.
//!
//! ```text
//! staging   | ids ....  | positions .. | slots as pairs .. | tables .. | lengths .. |
//!             64-aligned regions, each with 32 spare bytes; copied to the device in one piece
//! ```
//!
//! Everything that the device would not check is checked here: a block or a length out of range
//! would have a kernel read foreign memory.
//!
//! What this module deliberately does not do: it touches no device.

use super::artifact::{InputSpec, IoTable, Role, StepLayout, tensor_bytes};
use crate::backend::{BackendError, Step};

/// Kernels may read to the next multiple of 32 bytes.
const SPARE_BYTES: usize = 32;
const ALIGNMENT: usize = 64;

/// Where the inputs of a step lie in the staging buffer, and how they are filled.
#[derive(Clone, Debug)]
pub(super) struct StepPlan {
    regions: Vec<Region>,
    len: usize,
    layout: StepLayout,
    num_tokens: usize,
    query_ends: Option<usize>,
    seq_lens: Option<usize>,
}

/// One input's place.
#[derive(Clone, Debug)]
pub(super) struct Region {
    /// Index of the input in the table.
    pub(super) index: usize,
    /// Where it begins in the staging buffer.
    pub(super) offset: usize,
    /// Its length in bytes.
    pub(super) len: usize,
    spec: InputSpec,
}

impl StepPlan {
    /// The plan for a table.
    ///
    /// # Errors
    /// [`BackendError::BadArtifact`] when the table contradicts itself.
    pub(super) fn new(io: &IoTable) -> Result<Self, BackendError> {
        let mut regions = Vec::new();
        let mut len = 0_usize;
        let mut seq_lens = None;
        for (index, spec) in io.inputs.iter().enumerate() {
            if let Role::KvLengths { input } = spec.role {
                seq_lens = Some(input as usize);
            }
            if !is_filled(spec.role) {
                continue;
            }
            let bytes = spec_bytes(spec).ok_or_else(|| bad(spec, "too large"))?;
            let end = len.checked_add(bytes + SPARE_BYTES).ok_or_else(|| bad(spec, "too large"))?;
            regions.push(Region { index, offset: len, len: bytes, spec: spec.clone() });
            len = end.next_multiple_of(ALIGNMENT);
        }
        Ok(Self {
            regions,
            len,
            layout: io.layout,
            num_tokens: usize::try_from(io.num_tokens).unwrap_or(usize::MAX),
            query_ends: io.query_ends.map(|input| input as usize),
            seq_lens,
        })
    }

    /// Bytes of the staging buffer.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where the inputs lie.
    pub(super) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Writes a step into the staging buffer, which is [`len`](Self::len) bytes long.
    ///
    /// # Errors
    /// [`BackendError::BadInput`] when the step does not fit the graph.
    pub(super) fn fill(&self, step: &Step<'_>, staging: &mut [u8]) -> Result<(), BackendError> {
        self.check_queries(step)?;
        for region in &self.regions {
            let out = &mut staging[region.offset..][..region.len];
            self.fill_region(region, step, out)?;
        }
        Ok(())
    }

    fn fill_region(
        &self,
        region: &Region,
        step: &Step<'_>,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        let spec = &region.spec;
        match spec.role {
            Role::Plain { input } => {
                let values = input_of(step, input as usize)?;
                expect_len(spec, values.len(), out.len() / size_of::<i32>())?;
                write_i32s(out, values.iter().copied());
            }
            Role::Ids { input, num_rows } => {
                let ids = input_of(step, input as usize)?;
                expect_len(spec, ids.len(), out.len() / size_of::<i32>())?;
                check_ids(spec, ids, num_rows)?;
                write_i32s(out, ids.iter().copied());
            }
            Role::Slots { input, block_size, dump_block } => {
                let slots = input_of(step, input as usize)?;
                expect_len(spec, slots.len(), out.len() / (2 * size_of::<i32>()))?;
                fill_slots(spec, slots, block_size, dump_block, out)?;
            }
            Role::BlockTables { input, block_size, dump_block } => {
                let tables = input_of(step, input as usize)?;
                self.fill_block_tables(spec, tables, [block_size, dump_block], step, out)?;
            }
            Role::QueryLengths { input } => {
                let ends = input_of(step, input as usize)?;
                let last = (self.layout == StepLayout::Packed).then_some(self.num_tokens as i64);
                let lengths = ends.iter().map(|&end| i64::from(end)).chain(last);
                write_i64s(spec, out, lengths)?;
            }
            Role::KvLengths { input } => {
                let lens = input_of(step, input as usize)?;
                write_i64s(spec, out, self.kv_lengths(lens, step)?)?;
            }
            Role::CausalMask | Role::Weight { .. } | Role::State { .. } => {}
        }
        Ok(())
    }

    /// Tokens of each sequence in the KV cache. A sequence that is padding has one in the dump
    /// block where each must have a query; packed, the dummy sequence has as many as it has queries.
    fn kv_lengths<'a>(
        &self,
        lens: &'a [i32],
        step: &Step<'_>,
    ) -> Result<Box<dyn Iterator<Item = i64> + 'a>, BackendError> {
        let lens_i64 = lens.iter().map(|&len| i64::from(len));
        Ok(match self.layout {
            StepLayout::Packed => {
                let ends = self.query_ends_of(step)?;
                let used = ends.last().copied().map_or(0, i64::from);
                Box::new(lens_i64.chain([self.num_tokens as i64 - used]))
            }
            StepLayout::Free | StepLayout::Decode | StepLayout::Prefill => {
                Box::new(lens_i64.map(|len| len.max(1)))
            }
        })
    }

    fn fill_block_tables(
        &self,
        spec: &InputSpec,
        tables: &[i32],
        [block_size, dump_block]: [u64; 2],
        step: &Step<'_>,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        let seq_lens = input_of(step, self.seq_lens.unwrap_or(usize::MAX))?;
        let dump = i32::try_from(dump_block).map_err(|_| bad(spec, "a dump block of 31 bits"))?;
        let width = tables.len() / seq_lens.len().max(1);
        let out_width = spec.shape.last().map_or(0, |&width| width as usize);
        let rows = out.len() / size_of::<i32>() / out_width.max(1);
        let expected_rows = seq_lens.len() + usize::from(self.layout == StepLayout::Packed);
        if width * seq_lens.len() != tables.len() || width > out_width || rows != expected_rows {
            return Err(BackendError::BadInput(format!(
                "{}: expected block tables of {rows} rows and up to {out_width} columns, got {} \
                 numbers for {} sequences",
                spec.name,
                tables.len(),
                seq_lens.len()
            )));
        }
        let mut rows = out.chunks_exact_mut(out_width.max(1) * size_of::<i32>());
        for (row, (&len, out)) in seq_lens.iter().zip(&mut rows).enumerate() {
            let num_blocks = u64::try_from(len).ok().map(|len| len.div_ceil(block_size.max(1)));
            let num_blocks = num_blocks.and_then(|num_blocks| usize::try_from(num_blocks).ok());
            let table = num_blocks.and_then(|used| tables[row * width..][..width].get(..used));
            let table = table.ok_or_else(|| {
                BackendError::BadInput(format!(
                    "{}: sequence {row} has {len} tokens, expected 0 to {}, in {width} blocks",
                    spec.name,
                    block_size.saturating_mul(width as u64)
                ))
            })?;
            if let Some(&block) = table.iter().find(|&&block| block < 0 || block >= dump) {
                return Err(BackendError::BadInput(format!(
                    "{}: sequence {row} has block {block}, expected 0 to {}",
                    spec.name,
                    i64::from(dump) - 1
                )));
            }
            let spare = std::iter::repeat_n(dump, out_width - table.len());
            write_i32s(out, table.iter().copied().chain(spare));
        }
        for out in rows {
            write_i32s(out, std::iter::repeat_n(dump, out_width));
        }
        Ok(())
    }

    fn query_ends_of<'a>(&self, step: &Step<'a>) -> Result<&'a [i32], BackendError> {
        input_of(step, self.query_ends.unwrap_or(usize::MAX))
    }

    /// Lengths within what the tables hold, and queries as the layout has them.
    fn check_queries(&self, step: &Step<'_>) -> Result<(), BackendError> {
        let (Some(_), Some(seq_lens)) = (self.query_ends, self.seq_lens) else { return Ok(()) };
        let ends = self.query_ends_of(step)?;
        let lens = input_of(step, seq_lens)?;
        if ends.len() != lens.len() {
            return Err(BackendError::BadInput(format!(
                "{} ends of queries for {} sequences",
                ends.len(),
                lens.len()
            )));
        }
        let capacity = self.kv_capacity();
        let (mut start, mut is_padding) = (0, false);
        for (row, (&end, &len)) in ends.iter().zip(lens).enumerate() {
            let queries = i64::from(end) - i64::from(start);
            let fits = match self.layout {
                // A padded sequence has a row of its own, which goes to the dump block. The query of
                // one that follows would not be in its row.
                StepLayout::Decode => {
                    is_padding |= queries == 0;
                    if is_padding { queries == 0 && len == 0 } else { queries == 1 }
                }
                StepLayout::Prefill | StepLayout::Packed | StepLayout::Free => {
                    (0..=self.num_tokens as i64).contains(&queries)
                        && end as usize <= self.num_tokens
                }
            };
            if !fits || i64::from(len) < queries || i64::from(len) > capacity {
                return Err(BackendError::BadInput(format!(
                    "sequence {row} has {queries} queries and {len} tokens, which a graph of \
                     {} tokens in the {:?} layout with {capacity} tokens for each cannot run",
                    self.num_tokens, self.layout
                )));
            }
            start = end;
        }
        Ok(())
    }

    /// Tokens that a row of the block tables holds.
    fn kv_capacity(&self) -> i64 {
        let of_table = |region: &Region| match region.spec.role {
            Role::BlockTables { block_size, .. } => {
                let width = region.spec.shape.last().copied().unwrap_or(0);
                Some(i64::try_from(block_size.saturating_mul(width)).unwrap_or(i64::MAX))
            }
            _ => None,
        };
        self.regions.iter().filter_map(of_table).min().unwrap_or(0)
    }
}

fn check_ids(spec: &InputSpec, ids: &[i32], num_rows: u64) -> Result<(), BackendError> {
    let is_outside = |id: i32| u64::try_from(id).map_or(true, |id| id >= num_rows);
    match ids.iter().position(|&id| is_outside(id)) {
        None => Ok(()),
        Some(idx) => Err(BackendError::BadInput(format!(
            "{}: number {idx} picks row {}, expected less than {num_rows}",
            spec.name, ids[idx]
        ))),
    }
}

fn fill_slots(
    spec: &InputSpec,
    slots: &[i32],
    block_size: u64,
    dump_block: u64,
    out: &mut [u8],
) -> Result<(), BackendError> {
    let (Ok(size), Ok(dump)) = (i32::try_from(block_size), i32::try_from(dump_block)) else {
        return Err(bad(spec, "blocks of 31 bits"));
    };
    for (idx, (&slot, out)) in slots.iter().zip(out.chunks_exact_mut(8)).enumerate() {
        let pair = if slot < 0 { [dump, 0] } else { [slot / size.max(1), slot % size.max(1)] };
        if slot >= 0 && pair[0] >= dump {
            return Err(BackendError::BadInput(format!(
                "{}: token {idx} goes to slot {slot}, expected less than {}",
                spec.name,
                i64::from(size) * i64::from(dump)
            )));
        }
        write_i32s(out, pair);
    }
    Ok(())
}

const fn is_filled(role: Role) -> bool {
    match role {
        Role::Plain { .. }
        | Role::Ids { .. }
        | Role::Slots { .. }
        | Role::BlockTables { .. }
        | Role::QueryLengths { .. }
        | Role::KvLengths { .. } => true,
        Role::CausalMask | Role::Weight { .. } | Role::State { .. } => false,
    }
}

/// Bytes of an input as its table says.
pub(super) fn spec_bytes(spec: &InputSpec) -> Option<usize> {
    tensor_bytes(spec.dtype, &spec.shape)
}

fn input_of<'a>(step: &Step<'a>, input: usize) -> Result<&'a [i32], BackendError> {
    step.inputs.get(input).copied().ok_or_else(|| {
        BackendError::BadInput(format!(
            "the graph reads its input {input}, but the step has {}",
            step.inputs.len()
        ))
    })
}

fn expect_len(spec: &InputSpec, got: usize, expected: usize) -> Result<(), BackendError> {
    if got == expected {
        return Ok(());
    }
    Err(BackendError::BadInput(format!("{}: expected {expected} numbers, got {got}", spec.name)))
}

fn write_i32s(out: &mut [u8], values: impl IntoIterator<Item = i32>) {
    for (out, value) in out.chunks_exact_mut(4).zip(values) {
        out.copy_from_slice(&value.to_le_bytes());
    }
}

fn write_i64s(
    spec: &InputSpec,
    out: &mut [u8],
    values: impl Iterator<Item = i64>,
) -> Result<(), BackendError> {
    let expected = out.len() / 8;
    let mut slots = out.chunks_exact_mut(8);
    let mut got = 0;
    for value in values {
        got += 1;
        if let Some(slot) = slots.next() {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }
    expect_len(spec, got, expected)
}

fn bad(spec: &InputSpec, what: &str) -> BackendError {
    let what = format!("its table says of `{}`: {what}", spec.name);
    BackendError::BadArtifact { backend: super::NAME, what }
}

#[cfg(test)]
mod tests {
    use super::super::artifact::Role;
    use super::super::dtype::GeDType;
    use super::*;

    fn spec(dtype: GeDType, shape: &[u64], role: Role) -> InputSpec {
        InputSpec { name: "input".to_owned(), dtype, shape: shape.to_vec(), role }
    }

    /// Inputs: 0 ids, 1 slots, 2 block tables (width 2), 3 query ends, 4 lengths; blocks of 4, 9 of
    /// them, block 9 is the dump.
    fn table(layout: StepLayout, num_tokens: u64, num_seqs: u64, width: u64) -> IoTable {
        let mut inputs = vec![
            spec(GeDType::I32, &[num_tokens], Role::Ids { input: 0, num_rows: 10 }),
            spec(
                GeDType::I32,
                &[num_tokens, 2],
                Role::Slots { input: 1, block_size: 4, dump_block: 9 },
            ),
            spec(
                GeDType::I32,
                &[num_seqs, width],
                Role::BlockTables { input: 2, block_size: 4, dump_block: 9 },
            ),
            spec(GeDType::I64, &[num_seqs], Role::KvLengths { input: 4 }),
        ];
        if layout != StepLayout::Decode {
            inputs.push(spec(GeDType::I64, &[num_seqs], Role::QueryLengths { input: 3 }));
        }
        inputs.push(spec(GeDType::F32, &[3, 3], Role::Weight { index: 0 }));
        IoTable { layout, num_tokens, query_ends: Some(3), inputs, outputs: Vec::new() }
    }

    fn filled(table: &IoTable, inputs: &[&[i32]]) -> Result<Vec<Vec<i64>>, BackendError> {
        let plan = StepPlan::new(table).unwrap();
        let mut staging = vec![0xee; plan.len()];
        plan.fill(&Step { symbols: &[], inputs }, &mut staging)?;
        let numbers = |region: &Region| {
            let bytes = &staging[region.offset..][..region.len];
            match region.spec.dtype.size() {
                4 => bytes
                    .chunks_exact(4)
                    .map(|b| i64::from(i32::from_le_bytes(b.try_into().unwrap())))
                    .collect(),
                _ => bytes
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
            }
        };
        Ok(plan.regions().iter().map(numbers).collect())
    }

    #[test]
    fn a_decode_step_sends_padding_to_the_dump_block() {
        let table = table(StepLayout::Decode, 3, 3, 2);
        let inputs: [&[i32]; 5] =
            [&[7, 8, 0], &[13, 2, -1], &[3, 1, 0, 0, 0, 0], &[1, 2, 2], &[6, 3, 0]];
        let got = filled(&table, &inputs).unwrap();
        assert_eq!(
            got,
            [vec![7, 8, 0], vec![3, 1, 0, 2, 9, 0], vec![3, 1, 0, 9, 9, 9], vec![6, 3, 1]]
        );
    }

    #[test]
    fn a_prefill_step_says_how_many_queries_are_real() {
        let table = table(StepLayout::Prefill, 4, 1, 2);
        let inputs: [&[i32]; 5] = [&[7, 8, 9, 0], &[4, 5, 6, -1], &[0, 1], &[3], &[7]];
        let got = filled(&table, &inputs).unwrap();
        assert_eq!(got[1], [1, 0, 1, 1, 1, 2, 9, 0]);
        assert_eq!(got[3..], [vec![7], vec![3]]);
    }

    #[test]
    fn a_packed_step_has_a_dummy_sequence_for_the_padding() {
        let table = table(StepLayout::Packed, 6, 3, 3);
        let inputs: [&[i32]; 5] =
            [&[1, 2, 3, 4, 0, 0], &[0, 1, 2, 8, -1, -1], &[0, 0, 2, 1], &[3, 4], &[3, 5]];
        let got = filled(&table, &inputs).unwrap();
        assert_eq!(got[2], [0, 9, 9, 2, 1, 9, 9, 9, 9]);
        assert_eq!(got[3..], [vec![3, 5, 2], vec![3, 4, 6]]);
    }

    #[test]
    fn what_a_sequence_does_not_use_may_be_anything() {
        let table = table(StepLayout::Decode, 2, 2, 3);
        let inputs: [&[i32]; 5] =
            [&[7, 8], &[13, i32::MIN], &[3, 1, -1, i32::MAX, 9, 9], &[1, 1], &[5, 0]];
        assert_eq!(filled(&table, &inputs).unwrap()[2], [3, 1, 9, 9, 9, 9]);
    }

    #[test]
    fn a_decode_step_has_padding_at_its_end_only() {
        let table = table(StepLayout::Decode, 3, 3, 2);
        let mut inputs: [&[i32]; 5] =
            [&[7, 8, 0], &[13, 2, -1], &[3, 1, 2, 0, 0, 0], &[1, 2, 2], &[6, 3, 0]];
        assert!(filled(&table, &inputs).is_ok());
        // The second query is that of the third sequence.
        (inputs[3], inputs[4]) = (&[1, 1, 2], &[6, 0, 3]);
        assert!(matches!(filled(&table, &inputs), Err(BackendError::BadInput(_))));
    }

    #[test]
    fn what_the_device_would_not_check_is_refused() {
        let table = table(StepLayout::Decode, 2, 2, 2);
        let good: [&[i32]; 5] = [&[7, 8], &[13, 2], &[3, 1, 0, 0], &[1, 2], &[6, 3]];
        assert!(filled(&table, &good).is_ok());
        for (which, bad) in [
            (0, &[7][..]),
            (0, &[7, 10]),
            (0, &[-1, 8]),
            (1, &[36, 2]),
            (1, &[1, 2, 3]),
            (2, &[9, 1, 0, 0]),
            (2, &[-1, 1, 0, 0]),
            (2, &[3, 1, 0]),
            (3, &[2, 2]),
            (3, &[1]),
            (4, &[9, 3]),
            (4, &[0, 3]),
            (4, &[-1, 3]),
        ] {
            let mut inputs = good;
            inputs[which] = bad;
            let error = filled(&table, &inputs).unwrap_err();
            assert!(matches!(error, BackendError::BadInput(_)), "{which} {bad:?}: {error}");
        }
        assert!(matches!(filled(&table, &good[..4]), Err(BackendError::BadInput(_))));
    }
}
