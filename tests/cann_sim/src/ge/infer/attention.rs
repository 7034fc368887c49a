//! `FusedInferAttentionScore` over a paged cache, with the limits of the 910B.
//!
//! | | decode (`Q_S = 1`) | prefill (`Q_S > 1`) | packed (TND) |
//! | --- | --- | --- | --- |
//! | query | `[B,1,H]`, BSND, BNSD | `[B,S,H]`, BSND, BNSD | `[T,N,D]` |
//! | types | f16, bf16 | f16, bf16 | bf16 |
//! | D | multiple of 16, at most 512 | the same | 128 |
//! | block size | multiple of 16, at most 512 | 128, 256, 384, 512 | 128, 512, 1024 |
//! | `sparse_mode` | 0 | 0, or 2 to 4 with the mask | 0, or 3 with the mask |
//! | `actual_seq_lengths` | – | of each sequence | cumulative |
//! | CANN | 8.1 | 8.1 | 9.0 |
//!
//! `actual_seq_lengths_kv` is of each sequence, never cumulative, and may not be left out. The
//! mask is 2048 x 2048 whatever the length.
//!
//! What the simulator does not run: attention without a block table, quantised caches, shared
//! prefixes, separate rope inputs, `softmax_lse`.

use super::{Call, Fault, Inferred, ensure, shape_fault, size_of, strict_fault};
use crate::ge::graph::{Attr, DataType, Desc};

const INPUTS: [&str; 7] = [
    "query",
    "key0",
    "value0",
    "atten_mask",
    "actual_seq_lengths",
    "actual_seq_lengths_kv",
    "block_table",
];
/// Attributes that must keep their value of 0.
const ZEROS: [&str; 5] = [
    "antiquant_mode",
    "key_antiquant_mode",
    "value_antiquant_mode",
    "pse_type",
    "query_quant_mode",
];
/// Rows and columns of the mask.
const MASK: usize = 2048;
const MAX_BLOCK_SIZE: usize = 512;
const MAX_HEAD_SIZE: usize = 512;
const MAX_CACHE_ROW: usize = 65_535;
const PACKED_HEAD_SIZE: usize = 128;
const PACKED_BLOCK_SIZES: [usize; 3] = [128, 512, 1024];
const MAX_PACKED_TOKENS: usize = 1_048_576;
const MAX_PACKED_SEQUENCES: usize = 4096;

/// How the queries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Bsh,
    Bsnd,
    Bnsd,
    Tnd,
}

/// Sizes of a call.
struct Sizes {
    layout: Layout,
    /// Sequences.
    b: usize,
    /// Queries of a sequence; all tokens if packed.
    s: usize,
    /// Heads of the queries.
    heads: usize,
    /// Heads of the cache.
    kv_heads: usize,
    /// Elements of a head.
    d: usize,
}

pub(super) fn infer(call: &Call<'_>) -> Inferred {
    for input in call.inputs {
        ensure(INPUTS.contains(&input.name), || {
            strict_fault!("input {} is not simulated", input.name)
        })?;
    }
    let query = call.input("query")?;
    let table = call
        .optional("block_table")
        .ok_or_else(|| strict_fault!("attention without block_table is not simulated"))?;
    let sizes = sizes(call, query, table)?;
    check_cache(call, query, &sizes)?;
    check_lengths(call, &sizes)?;
    check_table(table, &sizes)?;
    check_mask(call, &sizes)?;
    check_attrs(call)?;
    if sizes.layout == Layout::Tnd {
        check_packed(call, query, &sizes)?;
    }
    Ok(vec![query.clone(), Desc { dtype: DataType::Float, shape: vec![0] }])
}

fn sizes(call: &Call<'_>, query: &Desc, table: &Desc) -> Result<Sizes, Fault> {
    let heads = size_of(call.int("num_heads")?)?;
    let kv_heads = match size_of(call.int("num_key_value_heads")?)? {
        0 => heads,
        kv_heads => kv_heads,
    };
    ensure(heads > 0 && heads.is_multiple_of(kv_heads), || {
        strict_fault!("num_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    })?;
    let layout = match call.attrs.get("input_layout") {
        Some(Attr::Str(name)) => match name.as_str() {
            "BSH" => Layout::Bsh,
            "BSND" => Layout::Bsnd,
            "BNSD" => Layout::Bnsd,
            "TND" => Layout::Tnd,
            name => return Err(shape_fault!("Invalid input layout: {name}, not support!")),
        },
        _ => return Err(shape_fault!("Invalid input layout: , not support!")),
    };
    let bad = || shape_fault!("query {query} of {heads} heads is not of layout {layout:?}");
    let (b, s, n, d) = match (layout, &query.shape[..]) {
        (Layout::Bsh, &[b, s, h]) if h.is_multiple_of(heads) => (b, s, heads, h / heads),
        (Layout::Bsnd, &[b, s, n, d]) | (Layout::Bnsd, &[b, n, s, d]) => (b, s, n, d),
        (Layout::Tnd, &[t, n, d]) => {
            let b = table.shape.first();
            (b.copied().unwrap_or(0), t, n, d)
        }
        _ => return Err(bad()),
    };
    ensure(n == heads && b > 0 && s > 0, bad)?;
    ensure((1..=MAX_HEAD_SIZE).contains(&d) && d.is_multiple_of(16), || {
        strict_fault!("D is {d}: it must be a multiple of 16, at most {MAX_HEAD_SIZE}")
    })?;
    Ok(Sizes { layout, b, s, heads, kv_heads, d })
}

fn check_cache(call: &Call<'_>, query: &Desc, sizes: &Sizes) -> Result<(), Fault> {
    let (key, value) = (call.input("key0")?, call.input("value0")?);
    ensure(key == value, || strict_fault!("key {key} and value {value} differ"))?;
    let half = matches!(query.dtype, DataType::Float16 | DataType::Bf16);
    ensure(key.dtype == query.dtype && half, || {
        strict_fault!("query {query} over a cache {key}: f16 or bf16 throughout is simulated")
    })?;
    let row = sizes.kv_heads * sizes.d;
    let block_size = match key.shape[..] {
        [_, block_size, columns] if columns == row => block_size,
        [_, n, block_size, d]
            if (n, d) == (sizes.kv_heads, sizes.d)
                && matches!(sizes.layout, Layout::Bnsd | Layout::Tnd) =>
        {
            block_size
        }
        _ => {
            return Err(strict_fault!(
                "cache {key}: expected [blocks, block_size, {row}] for {} heads of {}",
                sizes.kv_heads,
                sizes.d
            ));
        }
    };
    ensure(key.shape.len() == 4 || row <= MAX_CACHE_ROW, || {
        strict_fault!("{row} elements of a cache row are more than {MAX_CACHE_ROW}")
    })?;
    ensure(call.int("block_size")? == block_size as i64, || {
        strict_fault!("block_size is not {block_size}, which the cache {key} has")
    })?;
    let is_known = match sizes.layout {
        Layout::Tnd => PACKED_BLOCK_SIZES.contains(&block_size),
        _ if sizes.s == 1 => block_size.is_multiple_of(16) && block_size <= MAX_BLOCK_SIZE,
        _ => block_size.is_multiple_of(128) && block_size <= MAX_BLOCK_SIZE,
    };
    ensure(block_size > 0 && is_known, || {
        strict_fault!("block_size {block_size} for {} queries of a sequence", sizes.s)
    })
}

fn check_lengths(call: &Call<'_>, sizes: &Sizes) -> Result<(), Fault> {
    let check = |name: &str, lengths: &Desc| {
        ensure(lengths.dtype == DataType::Int64 && lengths.shape == [sizes.b], || {
            strict_fault!("{name} is {lengths}, expected int64[{}]", sizes.b)
        })
    };
    let kv = call.optional("actual_seq_lengths_kv");
    let kv = kv.ok_or_else(|| strict_fault!("block_table needs actual_seq_lengths_kv"))?;
    check("actual_seq_lengths_kv", kv)?;
    match call.optional("actual_seq_lengths") {
        Some(lengths) => check("actual_seq_lengths", lengths),
        None if sizes.layout == Layout::Tnd => {
            Err(strict_fault!("layout TND needs actual_seq_lengths"))
        }
        None => Ok(()),
    }
}

fn check_table(table: &Desc, sizes: &Sizes) -> Result<(), Fault> {
    let is_good = table.dtype == DataType::Int32
        && matches!(table.shape[..], [rows, width] if rows == sizes.b && width > 0);
    ensure(is_good, || {
        strict_fault!("block_table is {table}, expected int32 with {} rows", sizes.b)
    })
}

fn check_mask(call: &Call<'_>, sizes: &Sizes) -> Result<(), Fault> {
    let sparse_mode = call.int("sparse_mode")?;
    let allowed: &[i64] = match sizes.layout {
        Layout::Tnd => &[0, 3],
        _ if sizes.s == 1 => &[0],
        _ => &[0, 2, 3, 4],
    };
    ensure(allowed.contains(&sparse_mode), || {
        strict_fault!(
            "sparse_mode {sparse_mode} for {} queries, expected one of {allowed:?}",
            sizes.s
        )
    })?;
    match call.optional("atten_mask") {
        None => {
            ensure(sparse_mode == 0, || strict_fault!("sparse_mode {sparse_mode} needs atten_mask"))
        }
        Some(mask) if sparse_mode == 0 => {
            Err(strict_fault!("atten_mask {mask} with sparse_mode 0 is not simulated"))
        }
        Some(mask) => {
            let is_square =
                matches!(mask.shape[..], [MASK, MASK] | [1, MASK, MASK] | [1, 1, MASK, MASK]);
            ensure(is_square, || strict_fault!("atten_mask is {mask}, expected [{MASK},{MASK}]"))
        }
    }
}

fn check_attrs(call: &Call<'_>) -> Result<(), Fault> {
    for name in ZEROS {
        let is_zero = matches!(call.attrs.get(name), None | Some(Attr::Int(0)));
        ensure(is_zero, || strict_fault!("{name} is not simulated"))?;
    }
    ensure(!call.bool("softmax_lse_flag")?, || strict_fault!("softmax_lse_flag is not simulated"))?;
    let inner_precise = call.int("inner_precise")?;
    ensure((0..=3).contains(&inner_precise), || strict_fault!("inner_precise {inner_precise}"))?;
    let scale = call.attrs.get("scale");
    ensure(matches!(scale, Some(Attr::Float(s)) if s.is_finite() && *s > 0.0), || {
        strict_fault!("scale is {scale:?}, expected a finite number above 0")
    })
}

fn check_packed(call: &Call<'_>, query: &Desc, sizes: &Sizes) -> Result<(), Fault> {
    ensure(call.cann.is_newer(), || strict_fault!("layout TND with block_table needs CANN 9.0"))?;
    ensure(query.dtype == DataType::Bf16 && sizes.d == PACKED_HEAD_SIZE, || {
        strict_fault!("layout TND with query {query}: it must be bf16 with D = {PACKED_HEAD_SIZE}")
    })?;
    ensure(sizes.s <= MAX_PACKED_TOKENS && sizes.b <= MAX_PACKED_SEQUENCES, || {
        strict_fault!("layout TND with {} tokens of {} sequences", sizes.s, sizes.b)
    })?;
    ensure(sizes.heads / sizes.kv_heads <= 64, || {
        strict_fault!("{} query heads share a head of the cache, at most 64", sizes.heads)
    })
}
