//! What a configuration names, opened: the model, its text, the backend.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::failure::Hint as _;
use crate::backend::Backend;
use crate::backend::null::NullBackend;
use crate::config::{BackendKind, DTypeChoice, EngineConfig, Quantization};
use crate::ir::{DType, Work};
use crate::model::{Model, ModelError, Precision, WeightPolicy};
use crate::text::{ChatTemplate, GgufVocab, Tokenizer};
use crate::weights::{GgufMetadata, Optional as _};

pub(super) fn open_model(config: &EngineConfig) -> anyhow::Result<Model> {
    let policy = match config.dtype {
        DTypeChoice::Auto => WeightPolicy::AsStored,
        DTypeChoice::F32 => WeightPolicy::F32,
        DTypeChoice::F16 => WeightPolicy::F16,
        DTypeChoice::BF16 => WeightPolicy::BF16,
    };
    let open = || -> Result<Model, ModelError> {
        let model = Model::open(&config.model, policy)?;
        match config.backend {
            BackendKind::Cpu | BackendKind::Null => Ok(model),
            BackendKind::Ascend => {
                let dtype = ascend_dtype(config.dtype, model.stored_dtype()?);
                Ok(model.with_precision(Precision::uniform(dtype)))
            }
        }
    };
    open().with_context(|| format!("loading model `{}`", config.model.display()))
}

/// The type that a model is computed in on Ascend, which multiplies only equal types and knows no
/// block-quantised ones: those become f32, in which nothing of them is lost.
fn ascend_dtype(choice: DTypeChoice, stored: DType) -> DType {
    match (choice, stored) {
        (DTypeChoice::BF16, _) | (DTypeChoice::Auto, DType::BF16) => DType::BF16,
        (DTypeChoice::F16, _) | (DTypeChoice::Auto, DType::F16) => DType::F16,
        (DTypeChoice::F32 | DTypeChoice::Auto, _) => DType::F32,
    }
}

/// Tokenizer and chat template: from the folder, or from inside the GGUF file.
pub(super) fn open_text(
    path: &Path,
    model: &Model,
) -> anyhow::Result<(Tokenizer, Option<ChatTemplate>)> {
    let Some(metadata) = model.checkpoint().gguf() else {
        let tokenizer = Tokenizer::from_folder(path).context("loading the tokenizer")?;
        let template = ChatTemplate::from_folder(path).context("loading the chat template")?;
        return Ok((tokenizer, template));
    };
    let vocab = gguf_vocab(metadata).context("reading the tokenizer's metadata")?;
    let tokenizer = Tokenizer::from_gguf(vocab).context("loading the tokenizer")?;
    let template = metadata.string("tokenizer.chat_template").optional()?;
    let text = |token: Option<(&str, u32)>| token.map(|(text, _)| text.to_owned());
    let (bos, eos) = (text(tokenizer.bos_token()), text(tokenizer.eos_token()));
    let template = template
        .map(|source| ChatTemplate::new(source, bos.as_deref(), eos.as_deref()))
        .transpose()
        .context("loading the chat template")?;
    Ok((tokenizer, template))
}

fn gguf_vocab(metadata: &GgufMetadata) -> anyhow::Result<GgufVocab> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| -> anyhow::Result<Option<u32>> {
        let id = metadata.u64(&key(name)).optional()?;
        id.map(|id| u32::try_from(id).with_context(|| format!("`{}` is {id}", key(name))))
            .transpose()
    };
    let flag = |name: &str| metadata.bool(&key(name)).optional();
    Ok(GgufVocab {
        model: metadata.string(&key("model"))?,
        pre: metadata.string(&key("pre")).optional()?,
        tokens: metadata.strings(&key("tokens"))?,
        scores: metadata.f32s(&key("scores")).optional()?,
        token_types: metadata.i32s(&key("token_type")).optional()?,
        merges: metadata.strings(&key("merges")).optional()?,
        bos_token_id: id("bos_token_id")?,
        eos_token_id: id("eos_token_id")?,
        unknown_token_id: id("unknown_token_id")?,
        padding_token_id: id("padding_token_id")?,
        add_bos_token: flag("add_bos_token")?,
        add_eos_token: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}

/// What a backend is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Running graphs.
    Run,
    /// Compiling them.
    Compile,
    /// Looking at them.
    Inspect,
}

#[cfg(feature = "cpu")]
fn cpu_backend(config: &EngineConfig) -> anyhow::Result<crate::backend::cpu::CpuBackend> {
    use crate::backend::cpu::{Arithmetic, CpuBackend, KernelSet};
    let arithmetic = match (config.quantization, config.dtype) {
        (Quantization::Int8, _) => Arithmetic::Int8,
        (Quantization::None, DTypeChoice::BF16) => Arithmetic::Bf16,
        (Quantization::None, _) => Arithmetic::F32,
    };
    Ok(CpuBackend::new(config.threads, KernelSet::Fast)?.with_arithmetic(arithmetic))
}

/// What the host could do at most as the CPU backend: bytes that it reads in a second, over so many,
/// and operations of products.
pub(crate) fn roofline(config: &EngineConfig, bytes: u64) -> anyhow::Result<(f64, f64)> {
    #[cfg(feature = "cpu")]
    {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX / 2);
        let roofline = cpu_backend(config)?.roofline(bytes);
        Ok((roofline.bytes_per_second, roofline.operations_per_second))
    }
    #[cfg(not(feature = "cpu"))]
    {
        let _ = (config, bytes);
        anyhow::bail!("this build has no cpu backend: it was built without that feature")
    }
}

/// Bytes of the weights of products as the CPU backend holds them.
pub(crate) fn product_bytes(config: &EngineConfig, work: &Work) -> u64 {
    match config.quantization {
        Quantization::Int8 => work.product_elements,
        Quantization::None => work.product_bytes,
    }
}

pub(super) fn open_backend(
    config: &EngineConfig,
    purpose: Purpose,
) -> anyhow::Result<Arc<dyn Backend>> {
    // Only devices are opened differently for different purposes.
    #[cfg(not(feature = "ascend"))]
    let _ = purpose;
    if config.quantization != Quantization::None && config.backend == BackendKind::Ascend {
        let name = config.quantization.name();
        return Err(anyhow::anyhow!("the ascend backend does not support quantization {name}"))
            .hint("leave `--quantization` out: only the CPU backend has it");
    }
    match config.backend {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => {
            Ok(Arc::new(cpu_backend(config)?.with_static_shapes(config.static_shapes)))
        }
        #[cfg(not(feature = "cpu"))]
        BackendKind::Cpu => {
            anyhow::bail!("this build has no cpu backend: it was built without that feature")
        }
        BackendKind::Null => Ok(Arc::new(NullBackend { dynamic_shapes: !config.static_shapes })),
        #[cfg(feature = "ascend")]
        BackendKind::Ascend => Ok(Arc::new(super::ascend::open(config, purpose, None)?)),
        #[cfg(not(feature = "ascend"))]
        BackendKind::Ascend => {
            anyhow::bail!("this build has no ascend backend: it was built without that feature")
        }
    }
}
