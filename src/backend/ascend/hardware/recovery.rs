//! What becomes of a step that a kernel cannot do: attention over a block that does not exist. Only
//! where that was asked for, and last: the device is in a state that nobody knows afterwards.

use std::time::{Duration, Instant};

use super::scene::{Kind, Scene};
use super::{Answer, Lab, No};

/// Far behind everything that a device has.
const BLOCK: i32 = 1 << 28;
/// Beyond the time that a step may take.
const GRACE: Duration = Duration::from_secs(10);

pub(super) fn is_possible(lab: &Lab<'_>) -> Answer {
    let session = lab.session()?;
    if !lab.allows_faults() {
        return Err(No::Skipped(format!(
            "`--inject-faults` runs a step with the block {BLOCK}, which does not exist: others \
             that use the device would fail, too"
        )));
    }
    let limit = session.timeout() + GRACE;
    let device = session.device();
    let mut scene = Scene::new(lab, Kind::SMALL)?;
    let started = Instant::now();
    let outcome = scene.run_with_bad_block(BLOCK);
    let took = started.elapsed();
    let error = match outcome {
        Err(No::Fails(error)) => error,
        Err(skipped) => return Err(skipped),
        Ok(()) => {
            return Err(No::Fails(format!(
                "a step with the block {BLOCK}, which does not exist, ended as if all were well"
            )));
        }
    };
    let text = format!("after {:.1} s: {error}", took.as_secs_f64());
    if took > limit {
        return Err(No::Fails(format!("{text}; expected within {} s", limit.as_secs())));
    }
    if device.failure().is_none() {
        return Err(No::Fails(format!("{text}; expected that the device is given up")));
    }
    Ok(text)
}
