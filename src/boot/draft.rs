//! The model that guesses for the model: loaded like it, on the same device, with as many KV blocks.
//!
//! What this module deliberately does not do: it has no say in sizes and limits; they are the
//! model's.

use anyhow::Context as _;

use super::failure::Hint as _;
use super::open::open_model;
use super::plan::Plan;
use super::progress::Progress;
use super::{BootReport, Ledger, load};
use crate::config::{EngineConfig, SpeculationMethod};
use crate::engine::LoadedModel;
use crate::model::Model;

/// The draft model that the configuration names, on its device; `None` when it names none.
pub(super) fn open(
    config: &EngineConfig,
    model: &Model,
    plan: &Plan,
    report: &mut BootReport,
    progress: &dyn Progress,
) -> anyhow::Result<Option<LoadedModel>> {
    let Some(SpeculationMethod::Draft { model: path }) =
        config.speculation.as_ref().map(|speculation| &speculation.method)
    else {
        return Ok(None);
    };
    let draft_config = EngineConfig { model: path.clone(), ..config.clone() };
    let named = || format!("the draft model `{}`", path.display());
    let draft = open_model(&draft_config).with_context(named)?;
    check(&draft, model, plan.options.max_model_len).with_context(named)?;
    let plan = plan.of_draft(&draft_config, &draft).with_context(named)?;
    let prepared = plan.prepare().with_context(named)?;
    let built = plan.artifacts(&prepared, progress).with_context(named)?;
    // What it takes is told apart from what the model takes; its graphs count with the others.
    let mut of_draft = BootReport::default();
    let mut ledger = Ledger::default();
    let (executables, memory) =
        load(&plan, &draft, &prepared, &built, &mut of_draft, &mut ledger, progress)
            .with_context(named)?;
    report.graphs_compiled += of_draft.graphs_compiled;
    report.graphs_from_cache += of_draft.graphs_from_cache;
    report.draft_bytes = of_draft.weights_bytes + plan.kv_cache_bytes();
    Ok(Some(LoadedModel {
        executables,
        memory,
        vocab_size: draft.config().vocab_size,
        eos_token_ids: draft.config().eos_token_ids.clone(),
    }))
}

fn check(draft: &Model, model: &Model, max_model_len: usize) -> anyhow::Result<()> {
    let (got, expected) = (draft.config().vocab_size, model.config().vocab_size);
    anyhow::ensure!(
        got == expected,
        "it has {got} tokens, but the model has {expected}: both need the same vocabulary"
    );
    let limit = draft.config().max_position_embeddings;
    if limit < max_model_len {
        let what =
            anyhow::anyhow!("its context is {limit}, but sequences may have {max_model_len}");
        return Err(what).hint(format!("use `--max-model-len {limit}`, or another draft model"));
    }
    Ok(())
}
