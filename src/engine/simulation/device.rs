//! How long a launch takes on a device: a roofline.
//!
//! ```text
//! seconds = launch + max(of bytes, of FLOPs) of the projections
//!                  + max(of bytes, of FLOPs) of attention
//!                  + all-reduces, where the model is split over several devices
//! ```
//!
//! The projections and attention run one after the other, so each has a roof of its own: in a step
//! that mixes both, reading the KV cache does not hide behind the arithmetic of a prompt.
//!
//! | | Bytes | FLOPs |
//! | --- | --- | --- |
//! | projections | all their weights once; activations of every row, padding included | 2 for each weight and row |
//! | attention | K and V of every token that is seen, once a sequence | 4 for each pair of tokens and element of q |
//!
//! Where the numbers of [`Device::ascend_910b`] are from, and how sure they are. None was measured
//! by us.
//!
//! | Number | Value | Source |
//! | --- | --- | --- |
//! | memory | 64 GiB | published (CANN's guide to porting operators, column Atlas A2) |
//! | bandwidth | 1.6 TB/s | published, the same table: a peak |
//! | FLOP/s, 16 bits | 353.9 T | derived: 24 cube cores x 16 x 16 x 16 x 2 x 1.8 GHz, from CANN's platform file of the 910B2; the same guide says 353 T. A 910B3 has 20 cores |
//! | a launch | 20 us | inferred from the runtime's source: 10 to 20 us |
//! | start of an operator in a dynamic graph | 10 us | inferred from the runtime's source |
//! | reachable share of bandwidth, of FLOP/s | 0.7, 0.6 | assumed |
//! | an all-reduce, and the links' bandwidth | 20 us, 150 GB/s | assumed |
//!
//! What this module deliberately does not do: it knows no kernel. Tiles that do not fit a shape,
//! caches, and the time between two operators of one graph are in the shares, if anywhere.

use super::shape::ModelShape;
use super::{SimulationError, check};

/// Bytes of a number between two operators.
const ACTIVATION_BYTES: f64 = 2.0;
/// Operators of a layer that the host starts one by one where the graph is dynamic: four
/// projections, attention, norms, rope, cache, activation, sums.
const OPS_PER_LAYER: usize = 16;

/// What a device can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its memory, in bytes.
    pub hbm_bytes: u64,
    /// Peak of what it reads and writes.
    pub hbm_bytes_per_second: f64,
    /// Share of that which a graph reaches.
    pub hbm_efficiency: f64,
    /// Peak of its arithmetic on matrices.
    pub flops_per_second: f64,
    /// Share of that which a graph reaches.
    pub flops_efficiency: f64,
    /// What every launch costs.
    pub launch_seconds: f64,
    /// What the start of each operator costs the host where shapes are dynamic; hidden while the
    /// device is slower.
    pub op_seconds: f64,
    /// What every all-reduce costs, however short.
    pub all_reduce_seconds: f64,
    /// What one device sends to the others.
    pub link_bytes_per_second: f64,
}

impl Device {
    /// A device like an Ascend 910B; the numbers' sources are in the module's documentation.
    pub fn ascend_910b() -> Self {
        Self {
            hbm_bytes: 64 << 30,
            hbm_bytes_per_second: 1.6e12,
            hbm_efficiency: 0.7,
            flops_per_second: 353.9e12,
            flops_efficiency: 0.6,
            launch_seconds: 20e-6,
            op_seconds: 10e-6,
            all_reduce_seconds: 20e-6,
            link_bytes_per_second: 150e9,
        }
    }
}

/// One sequence of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceShape {
    /// Tokens that are computed.
    pub num_tokens: usize,
    /// Tokens in the KV cache afterwards, these included.
    pub len: usize,
}

/// The sizes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape<'a> {
    /// Rows that are computed, padding included.
    pub num_tokens: usize,
    /// Rows of logits, padding included.
    pub num_logits: usize,
    /// Whose they are, without padding.
    pub seqs: &'a [SequenceShape],
    /// Whether the host starts each operator, as it must where shapes are dynamic.
    pub is_dynamic: bool,
}

/// A model on one device, or split over several that work in step.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// Each of the devices.
    pub device: Device,
    /// The model.
    pub shape: ModelShape,
    /// How many devices share every layer: the degree of tensor parallelism.
    pub tensor_parallel: usize,
}

/// What has to be moved and computed.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    bytes: f64,
    flops: f64,
}

impl DeviceModel {
    /// Checks that every number is in range.
    ///
    /// # Errors
    /// [`SimulationError::Invalid`] names the first that is not.
    pub fn check(&self) -> Result<(), SimulationError> {
        let Self { device, shape, tensor_parallel } = self;
        for (name, got) in [
            ("bytes per second of memory", device.hbm_bytes_per_second),
            ("FLOPs per second", device.flops_per_second),
            ("bytes per second of the links", device.link_bytes_per_second),
        ] {
            check(name, got, "a number above 0", |got| got > 0.0)?;
        }
        for (name, got) in [
            ("efficiency of memory", device.hbm_efficiency),
            ("efficiency of arithmetic", device.flops_efficiency),
        ] {
            check(name, got, "a number above 0 and at most 1", |got| got > 0.0 && got <= 1.0)?;
        }
        for (name, got) in [
            ("seconds of a launch", device.launch_seconds),
            ("seconds of an operator's start", device.op_seconds),
            ("seconds of an all-reduce", device.all_reduce_seconds),
        ] {
            check(name, got, "a number from 0 to 1", |got| (0.0..=1.0).contains(&got))?;
        }
        let degree = *tensor_parallel;
        let divides = |size: usize| degree > 0 && size.is_multiple_of(degree);
        if divides(shape.num_attention_heads) && divides(shape.intermediate_size) {
            return Ok(());
        }
        Err(SimulationError::Invalid {
            name: "degree of tensor parallelism",
            expected: format!(
                "a divisor of {} heads and of {} columns of the feed-forward part",
                shape.num_attention_heads, shape.intermediate_size
            ),
            got: degree.to_string(),
        })
    }

    /// Bytes of the weights on each device.
    pub fn weight_bytes(&self) -> u64 {
        (self.shape.num_weights() * self.weight_bytes_each() / self.degree()).ceil() as u64
    }

    /// Bytes of one token's K and V on each device.
    pub fn kv_bytes_per_token(&self) -> u64 {
        (self.shape.num_layers() as f64 * self.kv_row_bytes()).ceil() as u64
    }

    /// Blocks of the KV cache in what weights and `reserve_bytes` leave of each device.
    ///
    /// # Errors
    /// [`SimulationError::DoesNotFit`] when that is not one.
    pub fn num_blocks(
        &self,
        block_size: usize,
        reserve_bytes: u64,
    ) -> Result<usize, SimulationError> {
        let (hbm_bytes, weight_bytes) = (self.device.hbm_bytes, self.weight_bytes());
        let block_bytes = self.kv_bytes_per_token().saturating_mul(block_size as u64);
        let rest = hbm_bytes.checked_sub(weight_bytes.saturating_add(reserve_bytes));
        // Slots are counted in 31 bits.
        let most = i32::MAX as u64 / (block_size as u64).max(1);
        match rest.and_then(|rest| rest.checked_div(block_bytes)) {
            Some(num_blocks @ 1..) => Ok(num_blocks.min(most) as usize),
            _ => Err(SimulationError::DoesNotFit {
                hbm_bytes,
                weight_bytes,
                reserve_bytes,
                block_bytes,
            }),
        }
    }

    /// How long a launch takes.
    pub fn launch_seconds(&self, launch: &LaunchShape<'_>) -> f64 {
        let device = &self.device;
        let busy = self.roof(self.projections(launch))
            + self.roof(self.attention(launch.seqs))
            + self.all_reduces(launch);
        let started = if launch.is_dynamic {
            (self.shape.num_layers() * OPS_PER_LAYER) as f64 * device.op_seconds
        } else {
            0.0
        };
        device.launch_seconds + busy.max(started)
    }

    /// How long the copy of that many blocks of the KV cache takes.
    pub fn copy_seconds(&self, num_blocks: usize, block_size: usize) -> f64 {
        // Each byte is read and written.
        let bytes = 2.0 * (num_blocks * block_size) as f64 * self.kv_bytes_per_token() as f64;
        self.roof(Work { bytes, flops: 0.0 })
    }

    fn roof(&self, work: Work) -> f64 {
        let device = &self.device;
        let of_bytes = work.bytes / (device.hbm_bytes_per_second * device.hbm_efficiency);
        let of_flops = work.flops / (device.flops_per_second * device.flops_efficiency);
        of_bytes.max(of_flops)
    }

    fn projections(&self, launch: &LaunchShape<'_>) -> Work {
        let shape = &self.shape;
        let (num_tokens, num_logits) = (launch.num_tokens as f64, launch.num_logits as f64);
        let logit_weights = shape.num_logit_weights() / self.degree();
        let weights = shape.num_projection_weights() / self.degree();
        // What each operator reads and writes of a row: projections their input and output, rope
        // and the cache q, k and v, the activation three times the inner width, two norms with
        // their sums four times the hidden width.
        let hidden = 12.0 * shape.hidden_size as f64;
        let inner = 6.0 * shape.intermediate_size as f64 / self.degree();
        let row = hidden + inner + 4.0 * self.q_width() + 6.0 * self.kv_width();
        let rows = num_tokens * shape.num_layers() as f64 * row;
        let logits = num_logits * 2.0 * shape.vocab_size as f64 / self.degree();
        Work {
            bytes: weights * self.weight_bytes_each() + (rows + logits) * ACTIVATION_BYTES,
            flops: 2.0 * ((weights - logit_weights) * num_tokens + logit_weights * num_logits),
        }
    }

    fn attention(&self, seqs: &[SequenceShape]) -> Work {
        let mut work = Work::default();
        for &(window, num_layers) in &self.shape.layers {
            let (mut num_read, mut num_pairs) = (0.0, 0.0);
            for seq in seqs {
                num_read += seq.num_read(window);
                num_pairs += seq.num_pairs(window);
            }
            work.bytes += num_layers as f64 * num_read * self.kv_row_bytes();
            work.flops += num_layers as f64 * num_pairs * 4.0 * self.q_width();
        }
        work
    }

    /// Two a layer: after attention and after the feed-forward part.
    fn all_reduces(&self, launch: &LaunchShape<'_>) -> f64 {
        if self.tensor_parallel < 2 {
            return 0.0;
        }
        let device = &self.device;
        let row_bytes = self.shape.hidden_size as f64 * ACTIVATION_BYTES;
        // A ring sends all but one part, to sum and again to share.
        let sent = launch.num_tokens as f64 * row_bytes * 2.0 * (self.degree() - 1.0);
        let each = sent / self.degree() / device.link_bytes_per_second;
        2.0 * self.shape.num_layers() as f64 * (device.all_reduce_seconds + each)
    }

    fn degree(&self) -> f64 {
        self.tensor_parallel as f64
    }

    fn weight_bytes_each(&self) -> f64 {
        self.shape.weight_bits as f64 / 8.0
    }

    /// Elements of a row of q on one device.
    fn q_width(&self) -> f64 {
        (self.shape.num_attention_heads * self.shape.head_dim) as f64 / self.degree()
    }

    /// Elements of a row of k, or of v, on one device: where there are more devices than heads,
    /// several hold the same one.
    fn kv_width(&self) -> f64 {
        (self.shape.num_kv_heads.div_ceil(self.tensor_parallel) * self.shape.head_dim) as f64
    }

    /// Bytes of one token's K and V in one layer on one device.
    fn kv_row_bytes(&self) -> f64 {
        2.0 * self.kv_width() * self.shape.kv_bits as f64 / 8.0
    }
}

impl SequenceShape {
    /// Tokens whose K and V are read: each that any of the computed ones sees.
    fn num_read(self, window: Option<usize>) -> f64 {
        let seen = window.map_or(self.len, |window| window.saturating_add(self.num_tokens) - 1);
        seen.min(self.len) as f64
    }

    /// Pairs of a computed token and one that it sees.
    fn num_pairs(self, window: Option<usize>) -> f64 {
        let before = self.len - self.num_tokens;
        // A token sees those before it and itself, until the window is full.
        let num_growing = window
            .map_or(self.num_tokens, |window| window.saturating_sub(before).min(self.num_tokens));
        let growing = num_growing as f64;
        let full = (self.num_tokens - num_growing) as f64 * window.unwrap_or(0) as f64;
        growing * before as f64 + growing * (growing + 1.0) / 2.0 + full
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    fn one_device(shape: ModelShape) -> DeviceModel {
        DeviceModel { device: Device::ascend_910b(), shape, tensor_parallel: 1 }
    }

    fn decode(num_seqs: usize, len: usize) -> Vec<SequenceShape> {
        vec![SequenceShape { num_tokens: 1, len }; num_seqs]
    }

    fn seconds(model: &DeviceModel, seqs: &[SequenceShape]) -> f64 {
        let num_tokens = seqs.iter().map(|seq| seq.num_tokens).sum();
        let num_logits = seqs.len();
        model.launch_seconds(&LaunchShape { num_tokens, num_logits, seqs, is_dynamic: false })
    }

    #[test]
    fn the_presets_are_as_large_as_their_names() {
        let weights = |shape: ModelShape| (shape.num_weights() / 1e8).round() / 10.0;
        assert_eq!(weights(ModelShape::qwen3_8b()), 8.2);
        assert_eq!(weights(ModelShape::qwen3_32b()), 32.8);
        assert_eq!(one_device(ModelShape::qwen3_8b()).kv_bytes_per_token(), 144 << 10);
        assert_eq!(one_device(ModelShape::qwen3_32b()).kv_bytes_per_token(), 256 << 10);
    }

    #[test]
    fn the_large_model_needs_two_devices() {
        let one = one_device(ModelShape::qwen3_32b());
        assert!(matches!(one.num_blocks(128, 4 << 30), Err(SimulationError::DoesNotFit { .. })));
        let two = DeviceModel { tensor_parallel: 2, ..one };
        assert!(two.num_blocks(128, 4 << 30).unwrap() > 1000);
    }

    #[test]
    fn a_decode_of_one_takes_as_long_as_reading_the_weights() {
        let model = one_device(ModelShape::qwen3_8b());
        let expected = model.shape.num_projection_weights() * 2.0 / (1.6e12 * 0.7);
        let got = seconds(&model, &decode(1, 1));
        assert!((got / expected - 1.0).abs() < 0.01, "{got} for {expected}");
        // The same weights serve them all, but each brings its own context.
        let many = seconds(&model, &decode(64, 1));
        assert!(many < 1.1 * got, "{many} for 64, {got} for one");
        let long = seconds(&model, &decode(64, 4096)) - many;
        let read = 64.0 * 4095.0 * (144.0 * 1024.0) / (1.6e12 * 0.7);
        assert!((long / read - 1.0).abs() < 0.01, "{long} for {read}");
    }

    #[test]
    fn a_prompt_takes_as_long_as_its_arithmetic() {
        let model = one_device(ModelShape::qwen3_8b());
        let got = seconds(&model, &[SequenceShape { num_tokens: 2048, len: 2048 }]);
        let weights = model.shape.num_projection_weights() - model.shape.num_logit_weights();
        let projections = 2.0 * weights * 2048.0;
        let attention = 36.0 * 4.0 * 4096.0 * 2048.0 * 2049.0 / 2.0;
        let expected = (projections + attention) / (353.9e12 * 0.6);
        assert!((got / expected - 1.0).abs() < 0.01, "{got} for {expected}");
    }

    #[test]
    fn padding_and_a_dynamic_graph_cost_time() {
        let model = one_device(ModelShape::qwen3_8b());
        let seqs = [SequenceShape { num_tokens: 600, len: 600 }];
        let launch = |num_tokens, is_dynamic| {
            model.launch_seconds(&LaunchShape {
                num_tokens,
                num_logits: 1,
                seqs: &seqs,
                is_dynamic,
            })
        };
        assert!(launch(1024, false) > 1.5 * launch(600, false));
        assert_eq!(launch(600, true), launch(600, false), "the device is slower than the host");
        let slow = Device { op_seconds: 1e-3, ..Device::ascend_910b() };
        let model = DeviceModel { device: slow, ..model.clone() };
        let launch = LaunchShape { num_tokens: 600, num_logits: 1, seqs: &seqs, is_dynamic: true };
        assert!((model.launch_seconds(&launch) - 0.576).abs() < 1e-3);
    }

    #[test]
    fn two_devices_are_faster_than_one_and_slower_than_twice_as_fast() {
        let one = one_device(ModelShape::qwen3_8b());
        let two = DeviceModel { tensor_parallel: 2, ..one.clone() };
        for seqs in [decode(32, 2000), vec![SequenceShape { num_tokens: 512, len: 900 }]] {
            let (one, two) = (seconds(&one, &seqs), seconds(&two, &seqs));
            assert!(two < one && two > one / 2.0, "{one} and {two}");
        }
        let three = DeviceModel { tensor_parallel: 3, ..one };
        assert_eq!(
            three.check().unwrap_err().to_string(),
            "invalid degree of tensor parallelism: expected a divisor of 32 heads and of 12288 \
             columns of the feed-forward part, got 3"
        );
    }

    #[test]
    fn windows_limit_what_is_read_and_compared() {
        let pairs = |num_tokens, len, window: Option<usize>| {
            let count = |token: usize| (token + 1).min(window.unwrap_or(usize::MAX));
            (len - num_tokens..len).map(count).sum::<usize>() as f64
        };
        for num_tokens in 1..9 {
            for before in 0..9 {
                let seq = SequenceShape { num_tokens, len: before + num_tokens };
                for window in [None, Some(1), Some(4), Some(100)] {
                    assert_eq!(seq.num_pairs(window), pairs(num_tokens, seq.len, window));
                }
                assert_eq!(seq.num_read(Some(3)), seq.len.min(num_tokens + 2) as f64);
            }
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let mut model = one_device(ModelShape::qwen3_8b());
        model.check().unwrap();
        model.device.hbm_efficiency = f64::NAN;
        assert_eq!(
            model.check().unwrap_err().to_string(),
            "invalid efficiency of memory: expected a number above 0 and at most 1, got NaN"
        );
    }
}
