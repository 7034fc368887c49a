//! The flags that say what model runs on what device.
//!
//! What this module deliberately does not do: it computes nothing; see `engine::simulation`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::cli::failure::Hint as _;
use crate::cli::values;
use crate::engine::simulation::{Device, ModelShape};
use crate::model::config::{MAX_CONFIG_BYTES, ModelConfig};

/// What serves.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model and device")]
pub(super) struct DeviceArgs {
    /// The model.
    #[arg(long, value_name = "NAME", default_value = "qwen3-8b")]
    model: ModelName,

    /// Sizes of a model from its config.json, instead of `--model`.
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    model_config: Option<PathBuf>,

    /// Bits of a weight. Arithmetic stays as fast as with 16.
    #[arg(long, value_name = "BITS", default_value = "16", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=32))]
    weight_bits: usize,

    /// Bits of a number in the KV cache.
    #[arg(long, value_name = "BITS", default_value = "16", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=32))]
    kv_bits: usize,

    /// The device whose numbers are taken; each can be replaced below.
    #[arg(long, value_name = "NAME", default_value = "ascend-910b")]
    device: DeviceName,

    /// How many devices share every layer (tensor parallelism).
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=1024))]
    tp: usize,

    /// Memory of one device.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = values::bytes)]
    hbm_bytes: Option<u64>,

    /// Memory of each device that neither weights nor KV cache get.
    #[arg(long, value_name = "BYTES", default_value = "4GiB", allow_hyphen_values = true)]
    #[arg(value_parser = values::bytes)]
    reserve_bytes: u64,

    /// Peak bandwidth of a device's memory, in GB/s.
    #[arg(long, value_name = "GB/S", allow_hyphen_values = true, value_parser = positive)]
    hbm_bandwidth: Option<f64>,

    /// Share of that which graphs reach.
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true, value_parser = share)]
    hbm_efficiency: Option<f64>,

    /// Peak of a device's arithmetic, in TFLOP/s.
    #[arg(long, value_name = "TFLOP/S", allow_hyphen_values = true, value_parser = positive)]
    peak_tflops: Option<f64>,

    /// Share of that which graphs reach.
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true, value_parser = share)]
    flops_efficiency: Option<f64>,

    /// What a launch costs, in microseconds.
    #[arg(long, value_name = "US", allow_hyphen_values = true, value_parser = up_to(1e6))]
    launch_us: Option<f64>,

    /// What the start of each operator costs where shapes are dynamic, in microseconds.
    #[arg(long, value_name = "US", allow_hyphen_values = true, value_parser = up_to(1e6))]
    op_us: Option<f64>,

    /// What an all-reduce costs besides its bytes, in microseconds.
    #[arg(long, value_name = "US", allow_hyphen_values = true, value_parser = up_to(1e6))]
    all_reduce_us: Option<f64>,

    /// What a device sends to the others, in GB/s.
    #[arg(long, value_name = "GB/S", allow_hyphen_values = true, value_parser = positive)]
    link_bandwidth: Option<f64>,

    /// What a step costs the host, in microseconds; hidden as far as the device takes longer.
    #[arg(long, value_name = "US", default_value = "100", allow_hyphen_values = true)]
    #[arg(value_parser = up_to(1e6))]
    host_us: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModelName {
    /// Qwen3-8B
    #[value(name = "qwen3-8b")]
    Qwen3Small,
    /// Qwen3-32B: 16-bit weights need two devices
    #[value(name = "qwen3-32b")]
    Qwen3Large,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceName {
    /// Ascend 910B2: 64 GiB, 1.6 TB/s, 353.9 TFLOP/s; shares and latencies are assumed
    #[value(name = "ascend-910b")]
    Ascend910b,
}

impl DeviceArgs {
    /// The model's name and sizes.
    pub(super) fn shape(&self) -> anyhow::Result<(String, ModelShape)> {
        let (name, shape) = match &self.model_config {
            Some(path) => {
                let hint = "`--model-config` names the `config.json` of a model";
                let text = read(path).hint(hint)?;
                let config = ModelConfig::from_json(&text, None).context("reading the config")?;
                (path.display().to_string(), ModelShape::of(&config))
            }
            None => (
                value_name(&self.model),
                match self.model {
                    ModelName::Qwen3Small => ModelShape::qwen3_8b(),
                    ModelName::Qwen3Large => ModelShape::qwen3_32b(),
                },
            ),
        };
        Ok((name, ModelShape { weight_bits: self.weight_bits, kv_bits: self.kv_bits, ..shape }))
    }

    /// The device, with what was replaced.
    pub(super) fn device(&self) -> Device {
        let preset = match self.device {
            DeviceName::Ascend910b => Device::ascend_910b(),
        };
        let or = |flag: Option<f64>, unit: f64, preset: f64| flag.map_or(preset, |got| got * unit);
        Device {
            hbm_bytes: self.hbm_bytes.unwrap_or(preset.hbm_bytes),
            hbm_bytes_per_second: or(self.hbm_bandwidth, 1e9, preset.hbm_bytes_per_second),
            hbm_efficiency: self.hbm_efficiency.unwrap_or(preset.hbm_efficiency),
            flops_per_second: or(self.peak_tflops, 1e12, preset.flops_per_second),
            flops_efficiency: self.flops_efficiency.unwrap_or(preset.flops_efficiency),
            launch_seconds: or(self.launch_us, 1e-6, preset.launch_seconds),
            op_seconds: or(self.op_us, 1e-6, preset.op_seconds),
            all_reduce_seconds: or(self.all_reduce_us, 1e-6, preset.all_reduce_seconds),
            link_bytes_per_second: or(self.link_bandwidth, 1e9, preset.link_bytes_per_second),
        }
    }

    /// Its name.
    pub(super) fn device_name(&self) -> String {
        value_name(&self.device)
    }

    pub(super) fn tensor_parallel(&self) -> usize {
        self.tp
    }

    pub(super) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    pub(super) fn host_seconds(&self) -> f64 {
        self.host_us * 1e-6
    }
}

/// A file, not more of it than a config may have.
fn read(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = fs_err::File::open(path)?;
    // One byte more shows that there is more.
    file.take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// The name of a value as it is typed.
pub(super) fn value_name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Parser of a finite number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.filter(|&number| number > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}

/// Parser of a number from 0 to `max`.
pub(super) fn up_to(
    max: f64,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| (0.0..=max).contains(number));
        number.ok_or_else(|| format!("expected a number from 0 to {max}"))
    }
}

/// Parser of a number above 0 and at most 1.
fn share(text: &str) -> Result<f64, String> {
    let number = positive(text).ok().filter(|&number| number <= 1.0);
    number.ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}
