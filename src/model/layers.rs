//! The building blocks of decoders. Shapes by axes: `t` tokens, `h` query heads, `g` KV heads, `d`
//! head size.
//!
//! Names of weights are those of Transformers' checkpoints; for GGUF files `weights` maps them.

use super::config::ModelConfig;
use super::io::{GraphInput, GraphOutput, NUM_GRAPH_INPUTS, symbols};
use super::source::{Model, ModelError};
use crate::ir::{Builder, DType, Dim, Graph, Op, Shape, SymbolId, ValueId};

/// The embedding's weight.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output projection's weight, where it is not the embedding's.
pub(super) const LM_HEAD: &str = "lm_head.weight";
/// The cosines of the rope tables: computed, not in the checkpoint.
pub(super) const ROPE_COS: &str = "rope.cos";
/// The sines of the rope tables.
pub(super) const ROPE_SIN: &str = "rope.sin";

/// Bounds of symbols. They are part of the graph, so they are the same for every configuration:
/// a graph compiled for one serves all.
mod bounds {
    pub(super) const TOKENS: u64 = 1 << 20;
    pub(super) const SEQUENCES: u64 = 1 << 16;
    pub(super) const BLOCKS: u64 = 1 << 31;
    pub(super) const POSITIONS: u64 = 1 << 27;
}

/// The hidden state `[t, hidden_size]` between layers.
pub(super) type Residual = ValueId;

/// Which tokens a projection may have a bias for, and what else differs in attention.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AttentionOptions {
    pub(super) has_bias: bool,
    pub(super) has_output_bias: bool,
    pub(super) has_qk_norm: bool,
    pub(super) window: Option<usize>,
}

/// A model's graph under construction.
pub(super) struct Layers<'a> {
    model: &'a Model,
    builder: Builder,
    block_size: usize,
    inputs: [ValueId; NUM_GRAPH_INPUTS],
    embedding: ValueId,
    /// `[t, d/2]` each, gathered by position once for all layers.
    cos: ValueId,
    sin: ValueId,
}

impl<'a> Layers<'a> {
    /// The signature, the embedding and the rope tables; returns the first hidden state.
    pub(super) fn begin(
        model: &'a Model,
        block_size: usize,
    ) -> Result<(Self, Residual), ModelError> {
        let config = model.config();
        let mut builder = Builder::new(config.architecture.class_name());
        declare_symbols(&mut builder);
        let inputs = declare_inputs(&mut builder);

        let shape = [config.vocab_size, config.hidden_size];
        let dtype = model.declare(EMBEDDING, &shape)?;
        let embedding = builder.weight(EMBEDDING, dtype, Shape::fixed(&shape));
        let activations = model.precision().activations;
        let gather = Op::Gather { dtype: activations };
        let ids = inputs[GraphInput::TokenIds as usize];
        let x = builder.op("hidden", gather.clone(), &[embedding, ids])?;

        let positions = inputs[GraphInput::Positions as usize];
        let half = Dim::from(config.head_dim / 2);
        let mut table = |name: &str| {
            let shape = Shape::new([symbols::NUM_POSITIONS.into(), half]);
            let table = builder.weight(name, activations, shape);
            builder.op(name, gather.clone(), &[table, positions])
        };
        let (cos, sin) = (table(ROPE_COS)?, table(ROPE_SIN)?);
        Ok((Self { model, builder, block_size, inputs, embedding, cos, sin }, x))
    }

    /// The last norm, and of the rows that want them the logits `[num_logits, vocab_size]` or the
    /// hidden states `[num_logits, hidden_size]`.
    pub(super) fn finish(mut self, x: Residual, output: GraphOutput) -> Result<Graph, ModelError> {
        let config = self.model.config();
        let x = self.rms_norm("model.norm", x, config.hidden_size)?;
        let rows = self.input(GraphInput::LogitRows);
        let dtype = self.model.precision().activations;
        let x = self.builder.op("last", Op::Gather { dtype }, &[x, rows])?;
        let (name, rows) = match output {
            GraphOutput::HiddenStates => ("hidden_states", x),
            // A checkpoint may say that its embeddings are tied and still carry the output's weight.
            GraphOutput::Logits if config.tie_word_embeddings => {
                ("logits", self.builder.op("logits", Op::Linear, &[x, self.embedding])?)
            }
            GraphOutput::Logits => {
                let shape = [config.vocab_size, config.hidden_size];
                ("logits", self.linear("lm_head", x, shape, false)?)
            }
        };
        // Ties and sums of whoever reads them want more bits than 16.
        let rows = match dtype {
            DType::F32 => rows,
            _ => self.builder.op(name, Op::Cast { dtype: DType::F32 }, &[rows])?,
        };
        Ok(self.builder.finish(&[rows]))
    }

    /// The model's sizes and options.
    pub(super) fn config(&self) -> &'a ModelConfig {
        self.model.config()
    }

    fn input(&self, input: GraphInput) -> ValueId {
        self.inputs[input as usize]
    }

    /// `x w^T + b` for the weight and bias of that module; `[rows, columns]` is the weight's shape.
    pub(super) fn linear(
        &mut self,
        module: &str,
        x: ValueId,
        [rows, columns]: [usize; 2],
        has_bias: bool,
    ) -> Result<ValueId, ModelError> {
        let weight = self.weight(&format!("{module}.weight"), &[rows, columns])?;
        let y = self.builder.op(module, Op::Linear, &[x, weight])?;
        if !has_bias {
            return Ok(y);
        }
        let bias = self.weight(&format!("{module}.bias"), &[rows])?;
        Ok(self.builder.op(&format!("{module}+bias"), Op::Add, &[y, bias])?)
    }

    /// The norm of that module over the last axis, which has `size` elements.
    pub(super) fn rms_norm(
        &mut self,
        module: &str,
        x: ValueId,
        size: usize,
    ) -> Result<ValueId, ModelError> {
        let weight = self.weight(&format!("{module}.weight"), &[size])?;
        let eps = self.config().rms_norm_eps;
        Ok(self.builder.op(module, Op::RmsNorm { eps }, &[x, weight])?)
    }

    /// `x + attention(norm(x))`, then `x + mlp(norm(x))`: the layer of the Llama family.
    pub(super) fn decoder_layer(
        &mut self,
        layer: usize,
        x: Residual,
        options: AttentionOptions,
    ) -> Result<Residual, ModelError> {
        let size = self.config().hidden_size;
        let module = format!("model.layers.{layer}");
        let h = self.rms_norm(&format!("{module}.input_layernorm"), x, size)?;
        let h = self.attention(&format!("{module}.self_attn"), layer, h, options)?;
        let x = self.builder.op(&format!("{module}.attended"), Op::Add, &[x, h])?;
        let h = self.rms_norm(&format!("{module}.post_attention_layernorm"), x, size)?;
        let h = self.gated_mlp(&format!("{module}.mlp"), h)?;
        Ok(self.builder.op(&module, Op::Add, &[x, h])?)
    }

    /// Causal attention with rope over the paged cache: `[t, hidden] -> [t, hidden]`.
    fn attention(
        &mut self,
        module: &str,
        layer: usize,
        x: ValueId,
        options: AttentionOptions,
    ) -> Result<ValueId, ModelError> {
        let config = self.config();
        let (hidden, d) = (config.hidden_size, config.head_dim);
        let (heads, groups) = (config.num_attention_heads, config.num_kv_heads);
        let project = |layers: &mut Self, part: &str, heads: usize| {
            let module = format!("{module}.{part}");
            let y = layers.linear(&module, x, [heads * d, hidden], options.has_bias)?;
            layers.split_heads(&module, y, heads, d)
        };
        let q = project(self, "q_proj", heads)?;
        let k = project(self, "k_proj", groups)?;
        let v = project(self, "v_proj", groups)?;
        let q = self.rotated(&format!("{module}.q_norm"), q, options.has_qk_norm)?;
        let k = self.rotated(&format!("{module}.k_norm"), k, options.has_qk_norm)?;

        let k_cache = self.cached(&format!("kv_cache.{layer}.k"), k, groups)?;
        let v_cache = self.cached(&format!("kv_cache.{layer}.v"), v, groups)?;
        let attention = Op::PagedAttention {
            // Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1.
            scale: 1.0 / (d as f32).sqrt(),
            window: options.window.map(|window| window as u64),
        };
        let operands = [
            q,
            k_cache,
            v_cache,
            self.input(GraphInput::BlockTables),
            self.input(GraphInput::QueryEnds),
            self.input(GraphInput::SeqLens),
        ];
        let y = self.builder.op(&format!("{module}.heads"), attention, &operands)?;
        let flat = Shape::new([symbols::NUM_TOKENS.into(), Dim::from(heads * d)]);
        let y = self.builder.op(module, Op::Reshape { shape: flat }, &[y])?;
        let shape = [hidden, heads * d];
        self.linear(&format!("{module}.o_proj"), y, shape, options.has_output_bias)
    }

    /// `[t, h * d] -> [t, h, d]`.
    fn split_heads(
        &mut self,
        name: &str,
        x: ValueId,
        heads: usize,
        d: usize,
    ) -> Result<ValueId, ModelError> {
        let shape = Shape::new([symbols::NUM_TOKENS.into(), Dim::from(heads), Dim::from(d)]);
        Ok(self.builder.op(name, Op::Reshape { shape }, &[x])?)
    }

    /// Rope, after the norm over each head where the model has one.
    fn rotated(&mut self, norm: &str, x: ValueId, has_norm: bool) -> Result<ValueId, ModelError> {
        let config = self.config();
        let x = if has_norm { self.rms_norm(norm, x, config.head_dim)? } else { x };
        let rope = Op::Rope { style: config.rope.style };
        Ok(self.builder.op("rotated", rope, &[x, self.cos, self.sin])?)
    }

    /// The cache of that name after this step's rows were written to it.
    fn cached(&mut self, name: &str, x: ValueId, groups: usize) -> Result<ValueId, ModelError> {
        let shape = Shape::new([
            symbols::NUM_BLOCKS.into(),
            Dim::from(self.block_size),
            Dim::from(groups),
            Dim::from(self.config().head_dim),
        ]);
        let cache = self.builder.state(name, self.model.precision().kv_cache, shape);
        let slots = self.input(GraphInput::SlotMapping);
        Ok(self.builder.op(name, Op::KvWrite, &[x, cache, slots])?)
    }

    /// `down(silu(gate(x)) * up(x))`.
    fn gated_mlp(&mut self, module: &str, x: ValueId) -> Result<ValueId, ModelError> {
        let config = self.config();
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let gate = self.linear(&format!("{module}.gate_proj"), x, [inner, hidden], bias)?;
        let up = self.linear(&format!("{module}.up_proj"), x, [inner, hidden], bias)?;
        let gate = self.builder.op(&format!("{module}.act"), Op::Silu, &[gate])?;
        let h = self.builder.op(module, Op::Mul, &[gate, up])?;
        self.linear(&format!("{module}.down_proj"), h, [hidden, inner], bias)
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, ModelError> {
        let dtype = self.model.declare(name, shape)?;
        Ok(self.builder.weight(name, dtype, Shape::fixed(shape)))
    }
}

/// The symbols of `io::symbols`, in order of id.
fn declare_symbols(builder: &mut Builder) {
    let table: [(&str, SymbolId, u64); symbols::COUNT] = [
        ("num_tokens", symbols::NUM_TOKENS, bounds::TOKENS),
        ("num_seqs", symbols::NUM_SEQS, bounds::SEQUENCES),
        ("max_blocks", symbols::MAX_BLOCKS, bounds::BLOCKS),
        ("num_logits", symbols::NUM_LOGITS, bounds::TOKENS),
        ("num_blocks", symbols::NUM_BLOCKS, bounds::BLOCKS),
        ("num_positions", symbols::NUM_POSITIONS, bounds::POSITIONS),
    ];
    for (name, id, max) in table {
        let declared = builder.symbol(name, 1, max);
        debug_assert_eq!(declared, id);
    }
}

/// The inputs of [`GraphInput`], in order.
fn declare_inputs(builder: &mut Builder) -> [ValueId; NUM_GRAPH_INPUTS] {
    use symbols::{MAX_BLOCKS, NUM_LOGITS, NUM_SEQS, NUM_TOKENS};
    let table: [(&str, &[SymbolId]); NUM_GRAPH_INPUTS] = [
        ("token_ids", &[NUM_TOKENS]),
        ("positions", &[NUM_TOKENS]),
        ("slot_mapping", &[NUM_TOKENS]),
        ("block_tables", &[NUM_SEQS, MAX_BLOCKS]),
        ("query_ends", &[NUM_SEQS]),
        ("seq_lens", &[NUM_SEQS]),
        ("logit_rows", &[NUM_LOGITS]),
    ];
    table.map(|(name, dims)| {
        let shape = Shape::new(dims.iter().map(|&dim| Dim::from(dim)));
        builder.input(name, DType::I32, shape)
    })
}
