//! What holds for every graph, and what does not for broken ones.
//!
//! | Part | What it says |
//! | --- | --- |
//! | `properties` | of random graphs: text, verify, passes |
//! | `canonical` | names change nothing, every single change of meaning changes the bytes |
//! | `broadcast` | the laws of broadcasting, and numpy's rule |
//! | `verify` | every rule is refused when broken, with its place |
//! | `specialise` | symbols become sizes, everywhere |
//! | `passes` | what each rewrite makes of a small decoder layer |

#![expect(clippy::wildcard_enum_match_arm, reason = "a test asks for the one op that it is about")]

mod broadcast;
mod canonical;
mod passes;
mod properties;
#[path = "../../tests/common/random_graph.rs"]
mod random_graph;
mod specialise;
mod verify;

use std::fmt;

use proptest::prelude::*;

// The name under which `random_graph` finds it.
use crate::ir;
use ir::{Builder, DType, Dim, Graph, Op, RopeStyle, Shape, TypeError};
use random_graph::{Kind, random_graph};

/// A graph that a failing property prints as text.
#[derive(Clone)]
struct Shown(Graph);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}", self.0)
    }
}

/// Random graphs of any kind.
fn graphs() -> impl Strategy<Value = Shown> {
    let kind = proptest::sample::select(vec![Kind::Anything, Kind::Runnable]);
    let choices = proptest::collection::vec(any::<u32>(), 0..160);
    (kind, choices).prop_map(|(kind, choices)| Shown(random_graph(kind, &choices)))
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

/// Sizes of [`decoder_layer`].
const HIDDEN: u64 = 8;
const HEADS: u64 = 2;
const GROUPS: u64 = 1;
const HEAD_DIM: u64 = 4;
const INNER: u64 = 12;

/// One layer of the Llama family with tied embeddings, as `model` builds it.
fn decoder_layer() -> Graph {
    let mut b = Builder::new("decoder layer");
    decoder_layer_of(&mut b).expect("invariant: the operands fit")
}

fn decoder_layer_of(b: &mut Builder) -> Result<Graph, TypeError> {
    let [t, s, m, n] = ["num_tokens", "num_seqs", "max_blocks", "num_blocks"]
        .map(|name| Dim::from(b.symbol(name, 1, 64)));
    let ids = |dims: &[Dim]| Shape::new(dims.iter().copied());
    let token_ids = b.input("token_ids", DType::I32, ids(&[t]));
    let positions = b.input("positions", DType::I32, ids(&[t]));
    let slots = b.input("slot_mapping", DType::I32, ids(&[t]));
    let tables = b.input("block_tables", DType::I32, ids(&[s, m]));
    let ends = b.input("query_ends", DType::I32, ids(&[s]));
    let lens = b.input("seq_lens", DType::I32, ids(&[s]));
    let f32s = Op::Gather { dtype: DType::F32 };
    let matrix = |rows: u64, columns: u64| Shape::new([rows.into(), columns.into()]);
    let vector = |size: u64| Shape::new([size.into()]);
    let heads = |heads: u64| Shape::new([t, heads.into(), HEAD_DIM.into()]);

    let embed = b.weight("embed", DType::F16, matrix(16, HIDDEN));
    let x = b.op("x", f32s.clone(), &[embed, token_ids])?;
    let mut rope = |name: &str| {
        let table = b.weight(name, DType::F32, matrix(32, HEAD_DIM / 2));
        b.op(name, f32s.clone(), &[table, positions])
    };
    let (cos, sin) = (rope("cos")?, rope("sin")?);

    let norm = b.weight("attn_norm", DType::F32, vector(HIDDEN));
    let h = b.op("attn_norm", Op::RmsNorm { eps: 1e-5 }, &[x, norm])?;
    let mut project = |name: &str, num_heads: u64| {
        let w = b.weight(name, DType::BF16, matrix(num_heads * HEAD_DIM, HIDDEN));
        let y = b.op(name, Op::Linear, &[h, w])?;
        b.op(name, Op::Reshape { shape: heads(num_heads) }, &[y])
    };
    let (q, k, v) = (project("q", HEADS)?, project("k", GROUPS)?, project("v", GROUPS)?);
    let style = RopeStyle::Halves;
    let q = b.op("q rotated", Op::Rope { style }, &[q, cos, sin])?;
    let k = b.op("k rotated", Op::Rope { style }, &[k, cos, sin])?;
    let cache = Shape::new([n, 16_u64.into(), GROUPS.into(), HEAD_DIM.into()]);
    let mut write = |name: &str, x| {
        let state = b.state(name, DType::F32, cache.clone());
        b.op(name, Op::KvWrite, &[x, state, slots])
    };
    let (k_cache, v_cache) = (write("k_cache", k)?, write("v_cache", v)?);
    let attention = Op::PagedAttention { scale: 0.5, window: None };
    let y = b.op("attention", attention, &[q, k_cache, v_cache, tables, ends, lens])?;
    let flat = Shape::new([t, (HEADS * HEAD_DIM).into()]);
    let y = b.op("attention", Op::Reshape { shape: flat }, &[y])?;
    let w = b.weight("o", DType::BF16, matrix(HIDDEN, HEADS * HEAD_DIM));
    let y = b.op("o", Op::Linear, &[y, w])?;
    let x = b.op("attended", Op::Add, &[x, y])?;

    let norm = b.weight("mlp_norm", DType::F32, vector(HIDDEN));
    let h = b.op("mlp_norm", Op::RmsNorm { eps: 1e-5 }, &[x, norm])?;
    let mut expand = |name: &str| {
        let w = b.weight(name, DType::BF16, matrix(INNER, HIDDEN));
        b.op(name, Op::Linear, &[h, w])
    };
    let (gate, up) = (expand("gate")?, expand("up")?);
    let gate = b.op("act", Op::Silu, &[gate])?;
    let y = b.op("mlp", Op::Mul, &[gate, up])?;
    let w = b.weight("down", DType::BF16, matrix(HIDDEN, INNER));
    let y = b.op("down", Op::Linear, &[y, w])?;
    let x = b.op("layer", Op::Add, &[x, y])?;

    let norm = b.weight("norm", DType::F32, vector(HIDDEN));
    let x = b.op("norm", Op::RmsNorm { eps: 1e-5 }, &[x, norm])?;
    let logits = b.op("logits", Op::Linear, &[x, embed])?;
    Ok(std::mem::take(b).finish(&[logits]))
}
