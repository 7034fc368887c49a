//! One layer of the Llama family with tied embeddings, as `model` builds it, in small.

use super::{accepted, pinned};
use crate::backend::ascend::lower::Lowered;
use crate::backend::ascend::target::Target;
use crate::ir::{
    Builder, DType, Dim, Graph, Op, RopeStyle, Shape, TypeError, Verified, passes, verify,
};

/// Sizes of [`decoder_layer`].
#[derive(Clone, Copy)]
pub(super) struct Layer {
    pub(super) dtype: DType,
    pub(super) norms: DType,
    pub(super) cache: DType,
    pub(super) head_size: u64,
    pub(super) block_size: u64,
    pub(super) style: RopeStyle,
    pub(super) window: Option<u64>,
    /// Before the names of values.
    pub(super) prefix: &'static str,
}

pub(super) const LAYER: Layer = Layer {
    dtype: DType::BF16,
    norms: DType::BF16,
    cache: DType::BF16,
    head_size: 64,
    block_size: 128,
    style: RopeStyle::Halves,
    window: None,
    prefix: "",
};
const HIDDEN: u64 = 32;
const HEADS: u64 = 4;
const GROUPS: u64 = 2;
const INNER: u64 = 48;
const VOCAB: u64 = 100;
/// Symbols of [`decoder_layer`]: tokens, sequences, width of the tables, blocks, logits.
pub(super) const DECODE: [u64; 5] = [8, 8, 4, 16, 8];
pub(super) const PREFILL: [u64; 5] = [256, 1, 4, 16, 1];
pub(super) const MIXED: [u64; 5] = [256, 8, 1, 16, 8];

pub(super) fn decoder_layer(layer: Layer) -> Graph {
    decoder_layer_of(layer).expect("invariant: the operands fit")
}

fn decoder_layer_of(layer: Layer) -> Result<Graph, TypeError> {
    let Layer { dtype, norms, cache, head_size, block_size, style, window, prefix } = layer;
    let mut b = Builder::new(&format!("{prefix}decoder layer"));
    let [t, s, m, n, r] = ["tokens", "seqs", "width", "blocks", "logits"]
        .map(|name| Dim::from(b.symbol(name, 1, 1 << 16)));
    let name = |name: &str| format!("{prefix}{name}");
    let mut ids = |what: &str, dims: &[Dim]| {
        b.input(&name(what), DType::I32, Shape::new(dims.iter().copied()))
    };
    let [token_ids, positions, slots] =
        ["token_ids", "positions", "slots"].map(|what| ids(what, &[t]));
    let tables = ids("tables", &[s, m]);
    let [ends, lens] = ["ends", "lens"].map(|what| ids(what, &[s]));
    let rows = ids("rows", &[r]);

    let matrix = |rows: u64, columns: u64| Shape::new([rows.into(), columns.into()]);
    let vector = |size: u64| Shape::new([size.into()]);
    let gather = Op::Gather { dtype };
    let embed = b.weight(&name("embed"), dtype, matrix(VOCAB, HIDDEN));
    let x = b.op(&name("x"), gather.clone(), &[embed, token_ids])?;
    let mut table = |what: &str| {
        let table = b.weight(&name(what), dtype, matrix(64, head_size / 2));
        b.op(&name(what), gather.clone(), &[table, positions])
    };
    let (cos, sin) = (table("cos")?, table("sin")?);

    let w = b.weight(&name("norm_1"), norms, vector(HIDDEN));
    let h = b.op(&name("norm_1"), Op::RmsNorm { eps: 1e-5 }, &[x, w])?;
    let mut project = |what: &str, num_heads: u64| {
        let w = b.weight(&name(what), dtype, matrix(num_heads * head_size, HIDDEN));
        let y = b.op(&name(what), Op::Linear, &[h, w])?;
        let shape = Shape::new([t, num_heads.into(), head_size.into()]);
        b.op(&name(what), Op::Reshape { shape }, &[y])
    };
    let (q, k, v) = (project("q", HEADS)?, project("k", GROUPS)?, project("v", GROUPS)?);
    let w = b.weight(&name("q_norm"), norms, vector(head_size));
    let q = b.op(&name("q_norm"), Op::RmsNorm { eps: 1e-5 }, &[q, w])?;
    let q = b.op(&name("q"), Op::Rope { style }, &[q, cos, sin])?;
    let k = b.op(&name("k"), Op::Rope { style }, &[k, cos, sin])?;
    let shape = Shape::new([n, block_size.into(), GROUPS.into(), head_size.into()]);
    let mut write = |what: &str, x| {
        let state = b.state(&name(what), cache, shape.clone());
        b.op(&name(what), Op::KvWrite, &[x, state, slots])
    };
    let (k_cache, v_cache) = (write("k_cache", k)?, write("v_cache", v)?);
    let attention = Op::PagedAttention { scale: 0.125, window };
    let y = b.op(&name("heads"), attention, &[q, k_cache, v_cache, tables, ends, lens])?;
    let shape = Shape::new([t, (HEADS * head_size).into()]);
    let y = b.op(&name("flat"), Op::Reshape { shape }, &[y])?;
    let w = b.weight(&name("o"), dtype, matrix(HIDDEN, HEADS * head_size));
    let y = b.op(&name("o"), Op::Linear, &[y, w])?;
    let x = b.op(&name("attended"), Op::Add, &[x, y])?;

    let w = b.weight(&name("norm_2"), norms, vector(HIDDEN));
    let h = b.op(&name("norm_2"), Op::RmsNorm { eps: 1e-5 }, &[x, w])?;
    let mut expand = |what: &str| {
        let w = b.weight(&name(what), dtype, matrix(INNER, HIDDEN));
        b.op(&name(what), Op::Linear, &[h, w])
    };
    let (gate, up) = (expand("gate")?, expand("up")?);
    let gate = b.op(&name("act"), Op::Silu, &[gate])?;
    let y = b.op(&name("mlp"), Op::Mul, &[gate, up])?;
    let w = b.weight(&name("down"), dtype, matrix(HIDDEN, INNER));
    let y = b.op(&name("down"), Op::Linear, &[y, w])?;
    let x = b.op(&name("layer"), Op::Add, &[x, y])?;

    let w = b.weight(&name("norm"), norms, vector(HIDDEN));
    let x = b.op(&name("norm"), Op::RmsNorm { eps: 1e-5 }, &[x, w])?;
    let x = b.op(&name("last"), Op::Gather { dtype }, &[x, rows])?;
    let logits = b.op(&name("logits"), Op::Linear, &[x, embed])?;
    let logits = b.op(&name("logits"), Op::Cast { dtype: DType::F32 }, &[logits])?;
    Ok(b.finish(&[logits]))
}

pub(super) fn optimised(layer: Layer, sizes: [u64; 5]) -> Verified<Graph> {
    let graph = passes::optimise(&verify(decoder_layer(layer)).unwrap()).unwrap();
    verify(pinned(&graph, &sizes)).unwrap()
}

pub(super) fn lowered(layer: Layer, sizes: [u64; 5], target: &Target) -> Lowered {
    accepted(optimised(layer, sizes).into_inner(), target)
}
