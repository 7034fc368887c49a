//! What the inputs of an attention mean: which rows are queries of which sequence, where its keys
//! are, which of them a query sees. All of it is checked here, before anything is computed.

use std::borrow::Cow;
use std::ops::Range;

use super::super::call::{Call, checked_product};
use super::super::values::{Fault, Tensor, fault};

/// Size of the mask of `sparse_mode` 2 to 4, along both axes.
const MASK_SIZE: usize = 2048;
/// `pre_tokens` and `next_tokens` that hide nothing.
const NO_LIMIT: i64 = 2_147_483_647;

/// A sequence of the batch.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Its place in the batch.
    idx: usize,
    /// Row of its first query.
    pub(super) first_row: usize,
    pub(super) num_queries: usize,
    /// Rows of the keys, and of the values.
    pub(super) keys: Vec<usize>,
}

/// An attention whose inputs agree.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_size: usize,
    pub(super) scale: f32,
    pub(super) sequences: Vec<Sequence>,
    /// Rows of the query, padding included.
    pub(super) num_rows: usize,
    layout: Layout,
    sparsity: Sparsity<'a>,
}

/// How queries lie.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// `batch` sequences of at most `len` queries: BSH and BSND.
    Batch { batch: usize, len: usize },
    /// One after the other: TND.
    Packed,
}

#[derive(Debug)]
enum Sparsity<'a> {
    /// Nothing is hidden.
    None,
    /// Element `[sequence or 0, query, key]` of the mask hides.
    Mask { mask: &'a [u8], per_sequence: bool, sizes: [usize; 2] },
    /// Keys up to that of the query.
    LeftUp,
    /// Keys around the query's own, which are the last ones of the sequence.
    Band { before: i64, after: i64 },
}

impl<'a> Plan<'a> {
    pub(super) fn new(call: &Call<'a>) -> Result<Self, Fault> {
        let query = call.tensor("query")?;
        let positive = |name, value: i64| match usize::try_from(value) {
            Ok(value) if value > 0 => Ok(value),
            _ => fault(format!("expected {name} above 0, got {value}")),
        };
        let num_heads = positive("num_heads", call.int("num_heads")?)?;
        let num_kv_heads = match call.int_or("num_key_value_heads", 0)? {
            0 => num_heads,
            other => positive("num_key_value_heads", other)?,
        };
        let (layout, num_rows, width) = layout(call, query, num_heads)?;
        if num_heads % num_kv_heads != 0 || width % num_heads != 0 || width == 0 {
            return fault(format!(
                "{num_heads} heads over {num_kv_heads}, {width} elements of a query, do not divide"
            ));
        }
        let head_size = width / num_heads;
        let Some(kv_width) = checked_product(&[num_kv_heads, head_size]) else {
            return fault(format!("{num_kv_heads} heads of size {head_size} are too many"));
        };
        let sequences = sequences(call, layout, num_rows, kv_width)?;
        let sparsity = Sparsity::new(call, layout, &sequences)?;
        let scale = call.float_or("scale", 1.0)?;
        Ok(Self {
            num_heads,
            num_kv_heads,
            head_size,
            scale,
            sequences,
            num_rows,
            layout,
            sparsity,
        })
    }

    /// Keys that a query may see.
    pub(super) fn seen(&self, sequence: &Sequence, query: usize) -> Range<usize> {
        let num_keys = sequence.keys.len();
        let [first, end] = match self.sparsity {
            Sparsity::None | Sparsity::Mask { .. } => return 0..num_keys,
            Sparsity::LeftUp => [0, query as i64 + 1],
            Sparsity::Band { before, after } => {
                let own = num_keys as i64 - sequence.num_queries as i64 + query as i64;
                [own.saturating_sub(before), own.saturating_add(after).saturating_add(1)]
            }
        };
        let [first, end] = [first, end].map(|key| key.clamp(0, num_keys as i64) as usize);
        first.min(end)..end
    }

    /// Whether the mask hides that key, of those [`Self::seen`].
    pub(super) fn is_hidden(&self, sequence: &Sequence, query: usize, key: usize) -> bool {
        match self.sparsity {
            Sparsity::Mask { mask, per_sequence, sizes: [queries, keys] } => {
                let first = if per_sequence { sequence.idx * queries } else { 0 };
                mask[(first + query) * keys + key] != 0
            }
            Sparsity::None | Sparsity::LeftUp | Sparsity::Band { .. } => false,
        }
    }

    /// Where the denominator of a head's softmax goes: `[b, n, s, 1]`, packed `[t, n, 1]`.
    pub(super) fn lse_position(&self, row: usize, head: usize) -> usize {
        match self.layout {
            Layout::Packed => row * self.num_heads + head,
            Layout::Batch { len, .. } => (row / len * self.num_heads + head) * len + row % len,
        }
    }
}

/// The layout, the number of rows and their width.
fn layout(
    call: &Call<'_>,
    query: Tensor<'_>,
    num_heads: usize,
) -> Result<(Layout, usize, usize), Fault> {
    let (layout, heads, width) = match call.str_or("input_layout", "BSH")? {
        "BSH" => {
            let [batch, len, width] = query.sizes("query")?;
            (Layout::Batch { batch, len }, num_heads, width)
        }
        "BSND" => {
            let [batch, len, heads, size] = query.sizes("query")?;
            (Layout::Batch { batch, len }, heads, heads * size)
        }
        "TND" => {
            let [_, heads, size] = query.sizes("query")?;
            (Layout::Packed, heads, heads * size)
        }
        other => return fault(format!("no kernel for input_layout {other}")),
    };
    if heads != num_heads {
        return fault(format!("num_heads {num_heads} and `query` {:?} disagree", query.shape()));
    }
    let num_rows = match layout {
        Layout::Batch { batch, len } => batch * len,
        Layout::Packed => query.shape()[0],
    };
    Ok((layout, num_rows, width))
}

fn lengths<'a>(call: &Call<'a>, name: &str) -> Result<Option<Cow<'a, [i64]>>, Fault> {
    let Some(tensor) = call.optional(name) else {
        return Ok(None);
    };
    let lengths = tensor.i64s()?;
    match lengths.iter().find(|&&len| len < 0) {
        None => Ok(Some(lengths)),
        Some(len) => fault(format!("expected lengths of at least 0 in `{name}`, got {len}")),
    }
}

/// Lengths from ends that count from the start of the batch.
fn differences(name: &str, ends: &[i64], total: usize) -> Result<Vec<usize>, Fault> {
    let steps = std::iter::once(&0).chain(ends).zip(ends);
    let lengths: Option<Vec<usize>> =
        steps.map(|(start, end)| usize::try_from(end - start).ok()).collect();
    match lengths {
        Some(lengths) if ends.last().copied().unwrap_or(0) == total as i64 => Ok(lengths),
        _ => {
            fault(format!("expected `{name}` that never falls and ends with {total}, got {ends:?}"))
        }
    }
}

/// One length for each sequence: a single one is that of all.
fn per_sequence(name: &str, lengths: &[i64], batch: usize) -> Result<Vec<usize>, Fault> {
    match lengths {
        &[len] => Ok(vec![len as usize; batch]),
        lengths if lengths.len() >= batch => {
            Ok(lengths[..batch].iter().map(|&len| len as usize).collect())
        }
        _ => fault(format!("expected {batch} lengths in `{name}`, got {}", lengths.len())),
    }
}

fn sequences(
    call: &Call<'_>,
    layout: Layout,
    num_rows: usize,
    kv_width: usize,
) -> Result<Vec<Sequence>, Fault> {
    const QUERIES: &str = "actual_seq_lengths";
    let given = lengths(call, QUERIES)?;
    let (starts, counts): (Vec<usize>, Vec<usize>) = match (layout, given) {
        (Layout::Packed, None) => return fault("input_layout TND needs `actual_seq_lengths`"),
        (Layout::Packed, Some(ends)) => {
            let counts = differences(QUERIES, &ends, num_rows)?;
            let starts = ends.iter().zip(&counts).map(|(&end, count)| end as usize - count);
            (starts.collect(), counts)
        }
        (Layout::Batch { batch, len }, given) => {
            // With one query for each sequence there is nothing to say about them.
            let counts = match given {
                Some(lengths) if len > 1 => per_sequence(QUERIES, &lengths, batch)?,
                _ => vec![len; batch],
            };
            if let Some(count) = counts.iter().find(|&&count| count > len) {
                return fault(format!("length {count} in `{QUERIES}`, but {len} queries"));
            }
            ((0..batch).map(|idx| idx * len).collect(), counts)
        }
    };
    let keys = keys(call, layout, counts.len(), kv_width)?;
    let places = starts.into_iter().zip(counts).zip(keys).enumerate();
    Ok(places
        .map(|(idx, ((first_row, num_queries), keys))| Sequence {
            idx,
            first_row,
            num_queries,
            keys,
        })
        .collect())
}

/// Rows of every sequence's keys.
fn keys(
    call: &Call<'_>,
    layout: Layout,
    batch: usize,
    kv_width: usize,
) -> Result<Vec<Vec<usize>>, Fault> {
    const KEYS: &str = "actual_seq_lengths_kv";
    let (key, value) = (call.tensor("key0")?, call.tensor("value0")?);
    if key.shape() != value.shape() || key.dtype() != value.dtype() {
        return fault(format!("key {:?} and value {:?} disagree", key.shape(), value.shape()));
    }
    let given = lengths(call, KEYS)?;
    if let Some(block_table) = call.optional("block_table") {
        let Some(given) = given else {
            return fault(format!("`block_table` needs `{KEYS}`"));
        };
        let counts = per_sequence(KEYS, &given, batch)?;
        return paged(call, key, kv_width, block_table, &counts);
    }
    let num_axes = key.shape().len();
    let leading = match layout {
        Layout::Batch { .. } => 2,
        Layout::Packed => 1,
    };
    if num_axes <= leading || key.shape()[leading..].iter().product::<usize>() != kv_width {
        return fault(format!("expected keys of {kv_width} elements, got {:?}", key.shape()));
    }
    match layout {
        Layout::Batch { .. } => {
            let len = key.shape()[1];
            let counts = given
                .map_or_else(|| Ok(vec![len; batch]), |given| per_sequence(KEYS, &given, batch))?;
            if key.shape()[0] != batch || counts.iter().any(|&count| count > len) {
                return fault(format!("keys {:?} hold no {batch} x {counts:?}", key.shape()));
            }
            let rows = |(idx, count)| (idx * len..idx * len + count).collect();
            Ok(counts.into_iter().enumerate().map(rows).collect())
        }
        Layout::Packed => {
            let Some(ends) = given else {
                return fault(format!("input_layout TND needs `{KEYS}`"));
            };
            let counts = differences(KEYS, &ends, key.shape()[0])?;
            if counts.len() != batch {
                return fault(format!("expected {batch} lengths in `{KEYS}`, got {ends:?}"));
            }
            let rows = |(&end, count)| (end as usize - count..end as usize).collect();
            Ok(ends.iter().zip(counts).map(rows).collect())
        }
    }
}

/// Rows of keys that lie in blocks. Only the blocks that a length reaches are looked at.
fn paged(
    call: &Call<'_>,
    key: Tensor<'_>,
    kv_width: usize,
    block_table: Tensor<'_>,
    counts: &[usize],
) -> Result<Vec<Vec<usize>>, Fault> {
    let [num_blocks, block_size, width] = key.sizes("key0")?;
    let [rows, columns] = block_table.sizes("block_table")?;
    if width != kv_width {
        return fault(format!("expected blocks of {kv_width} elements a row, got {width}"));
    }
    if call.int_or("block_size", 0)? != block_size as i64 || block_size == 0 {
        return fault(format!("attribute `block_size` and `key0` {:?} disagree", key.shape()));
    }
    if rows != counts.len() {
        return fault(format!("expected {} rows of `block_table`, got {rows}", counts.len()));
    }
    let table = block_table.i64s()?;
    let mut sequences = Vec::with_capacity(counts.len());
    for (sequence, &count) in counts.iter().enumerate() {
        let num_used = count.div_ceil(block_size);
        if num_used > columns {
            return fault(format!(
                "sequence {sequence} has {count} keys, its {columns} blocks of {block_size} do not \
                 hold them"
            ));
        }
        let mut keys = Vec::with_capacity(count);
        for &id in &table[sequence * columns..sequence * columns + num_used] {
            let Some(block) = usize::try_from(id).ok().filter(|&block| block < num_blocks) else {
                return fault(format!(
                    "block {id} of sequence {sequence} out of range: there are {num_blocks}"
                ));
            };
            keys.extend(block * block_size..(block + 1) * block_size);
        }
        keys.truncate(count);
        sequences.push(keys);
    }
    Ok(sequences)
}

impl<'a> Sparsity<'a> {
    fn new(call: &Call<'a>, layout: Layout, sequences: &[Sequence]) -> Result<Self, Fault> {
        let [before, after] =
            [call.int_or("pre_tokens", NO_LIMIT)?, call.int_or("next_tokens", NO_LIMIT)?];
        let mask = call.optional("atten_mask");
        if let Some(mask) = mask
            && mask.dtype().size() != 1
        {
            return fault(format!("expected a mask of one byte each, got {:?}", mask.dtype()));
        }
        let mode = call.int_or("sparse_mode", 0)?;
        match (mode, mask) {
            (0 | 1, None) => Ok(Self::None),
            (0, Some(_)) if before < NO_LIMIT || after < NO_LIMIT => {
                fault("no kernel for sparse_mode 0 with pre_tokens or next_tokens")
            }
            (0 | 1, Some(mask)) => Self::masked(mask, layout, sequences),
            (2..=4, None) => fault(format!("sparse_mode {mode} needs `atten_mask`")),
            (2..=4, Some(mask)) => {
                check_triangle(mask, sequences)?;
                Ok(match mode {
                    2 => Self::LeftUp,
                    3 => Self::Band { before: NO_LIMIT, after: 0 },
                    _ => Self::Band { before, after },
                })
            }
            _ => fault(format!("no kernel for sparse_mode {mode}")),
        }
    }

    /// A mask of its own for every query, the same for all sequences or not.
    fn masked(mask: Tensor<'a>, layout: Layout, sequences: &[Sequence]) -> Result<Self, Fault> {
        let Layout::Batch { batch, len } = layout else {
            return fault("no kernel for a full mask with input_layout TND");
        };
        let num_keys = sequences.iter().map(|sequence| sequence.keys.len()).max().unwrap_or(0);
        match *mask.shape() {
            [ref outer @ .., queries, keys]
                if queries == len
                    && keys >= num_keys
                    && matches!(outer, [] | [_] | [_, 1])
                    && [1, batch].contains(outer.first().unwrap_or(&1)) =>
            {
                Ok(Self::Mask {
                    mask: mask.bytes(),
                    per_sequence: outer.first().is_some_and(|&count| count != 1),
                    sizes: [queries, keys],
                })
            }
            _ => fault(format!(
                "mask {:?} is not for {batch} x {len} queries and {num_keys} keys",
                mask.shape()
            )),
        }
    }
}

/// Looks at the row of the mask that the device takes for each query.
fn check_triangle(mask: Tensor<'_>, sequences: &[Sequence]) -> Result<(), Fault> {
    let is_square = mask.shape().ends_with(&[MASK_SIZE; 2]);
    if !is_square || mask.num_elements() != MASK_SIZE * MASK_SIZE {
        return fault(format!(
            "expected a mask [{MASK_SIZE}, {MASK_SIZE}], got {:?}",
            mask.shape()
        ));
    }
    let mut last_row = None;
    for sequence in sequences {
        for query in 0..sequence.num_queries {
            let own = sequence.keys.len().max(sequence.num_queries) - sequence.num_queries + query;
            let row = own.min(MASK_SIZE - 1);
            if last_row.replace(row) == Some(row) {
                continue;
            }
            let (seen, hidden) = mask.bytes()[row * MASK_SIZE..][..MASK_SIZE].split_at(row + 1);
            if seen.iter().any(|&byte| byte != 0) || hidden.contains(&0) {
                return fault(format!("row {row} of the mask does not hide the upper triangle"));
            }
        }
    }
    Ok(())
}
