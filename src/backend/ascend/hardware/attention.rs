//! Whether attention does what the engine relies on: it follows the lengths of each step, padding
//! changes nothing, and sequences may be packed.

use super::super::target::CannRelease;
use super::scene::{Bucket, Kind, Rows, Scene, percent};
use super::{Answer, Lab, No};

/// A prompt that ends behind a block of 128 tokens.
const PROMPT: usize = 131;
const LONGER: usize = 140;
const PREFILL: Bucket = Bucket { tokens: LONGER, seqs: 1 };
const DECODE: Bucket = Bucket { tokens: 4, seqs: 4 };

/// The layouts of this release.
fn kinds(lab: &Lab<'_>) -> Vec<Kind> {
    let packs = lab.backend().target().cann >= CannRelease::PACKED_ATTENTION;
    let kinds = [Kind::SMALL, Kind::PACKED];
    kinds[..=usize::from(packs)].to_vec()
}

fn names(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join("; ")
}

pub(super) fn follows_lengths(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let kinds = kinds(lab);
    let mut error = 0.0_f64;
    for &kind in &kinds {
        let mut scene = Scene::new(lab, kind)?;
        let mut step = |scene: &mut Scene<'_>, bucket, turns: &[_]| {
            let rows = scene.checked_step(bucket, turns)?;
            error = error.max(rows.error);
            Ok::<_, No>(())
        };
        step(&mut scene, PREFILL, &[(0, LONGER)])?;
        step(&mut scene, PREFILL, &[(1, 5)])?;
        // Longer and shorter than the last time; behind the shorter end lie tokens of before.
        for len in [LONGER, PROMPT, PROMPT + 1, 127, 128] {
            scene.lens[0] = len;
            step(&mut scene, DECODE, &[(0, 1), (1, 1)])?;
        }
        // A prompt that goes on from the middle of another.
        scene.lens[0] = 7;
        step(&mut scene, PREFILL, &[(0, PROMPT - 7)])?;
    }
    Ok(format!(
        "static graphs, and right for lengths that change, off by {} at most ({})",
        percent(error),
        names(&kinds)
    ))
}

pub(super) fn ignores_padding(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let kinds = kinds(lab);
    let mut is_equal = true;
    for &kind in &kinds {
        let mut scene = Scene::new(lab, kind)?;
        let mut both = |scene: &mut Scene<'_>, buckets: [Bucket; 2], turn: (usize, usize)| {
            let before = scene.lens;
            let exact = scene.checked_step(buckets[0], &[turn])?;
            scene.lens = before;
            let padded = scene.checked_step(buckets[1], &[turn])?;
            is_equal &= bits(&exact) == bits(&padded);
            Ok::<_, No>(())
        };
        let exact = Bucket { tokens: PROMPT, seqs: 1 };
        both(&mut scene, [exact, PREFILL], (0, PROMPT))?;
        both(&mut scene, [Bucket { tokens: 1, seqs: 1 }, DECODE], (0, 1))?;
        scene.check_cache()?;
    }
    let how = if is_equal { "equal to the bit" } else { "equal within rounding, not to the bit" };
    Ok(format!(
        "with and without padding: {how}, and the cache holds only what was written ({})",
        names(&kinds)
    ))
}

pub(super) fn packs(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let (release, first) = (lab.backend().target().cann, CannRelease::PACKED_ATTENTION);
    if release < first {
        return Err(No::Skipped(format!(
            "this is for CANN {release}, and batches are packed from {first} on"
        )));
    }
    let packed = Bucket { tokens: 160, seqs: 3 };
    let mut together = Scene::new(lab, Kind::PACKED)?;
    let mut apart = Scene::new(lab, Kind::SEPARATE)?;
    let mut difference = 0.0_f64;
    for turns in [[(0, PROMPT), (1, 5), (2, 1)], [(2, 3), (0, 1), (1, 130)]] {
        let rows = together.checked_step(packed, &turns)?;
        let mut alone = Vec::new();
        for turn in turns {
            alone.extend(apart.checked_step(PREFILL, &[turn])?.got);
        }
        difference = difference.max(largest_difference(&rows.got, &alone));
    }
    together.check_cache()?;
    let how = if difference > 0.0 {
        format!("differ by {difference:.1e} at most, which is rounding")
    } else {
        "are equal to the bit".to_owned()
    };
    Ok(format!("batches of three sequences, and each of them alone, {how}"))
}

fn bits(rows: &Rows) -> Vec<Vec<u32>> {
    rows.got.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}
