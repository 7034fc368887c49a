//! Whether the compiler takes what is written here, and how long it takes for it.

use std::time::Duration;

use super::super::atc::samples;
use super::{Answer, Lab, No};

/// Longest time that a small graph may take to compile. A model's graphs take many times as long.
const MAX_COMPILE_TIME: Duration = Duration::from_mins(3);

pub(super) fn accepts_graphs(lab: &Lab<'_>) -> Answer {
    for (name, air) in [("Add", samples::add()), ("RmsNorm and MatMulV2", samples::norm_matmul())] {
        let compiled = lab.timed(name, || lab.backend().compile_air(&air));
        compiled.map_err(|error| No::Fails(format!("{name}: {error}")))?;
    }
    Ok("Add, and RmsNorm with MatMulV2 in bf16, became static offline models".to_owned())
}

pub(super) fn is_fast_enough(lab: &Lab<'_>) -> Answer {
    let Some((name, time, count)) = lab.slowest() else {
        return Err(No::Skipped("nothing was compiled".to_owned()));
    };
    let text = format!("{:.1} s for the slowest of {count} graphs, {name}", time.as_secs_f64());
    if time < MAX_COMPILE_TIME { Ok(text) } else { Err(No::Fails(text)) }
}
