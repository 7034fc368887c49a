//! Lets buffers share working memory: two buffers whose lifetimes do not overlap use one slot.
//!
//! Greedy in order of definition: a buffer takes, among the free slots with the same number of
//! rows, the one whose size fits best. Buffers of different rows never share, so a slot's size
//! depends on one symbol only.

use super::plan::{Plan, Slot, Source};

/// Rewrites a plan in which every buffer has its own slot.
pub(super) fn share_slots(mut plan: Plan) -> Plan {
    let last_use = last_uses(&plan);
    let mut slot_of: Vec<Option<usize>> = vec![None; plan.slots.len()];
    let mut slots: Vec<Slot> = Vec::new();
    let mut free: Vec<usize> = Vec::new();

    for (at, step) in plan.steps.iter().enumerate() {
        for target in &step.targets {
            let best = free
                .iter()
                .enumerate()
                .filter(|&(_, &slot)| slots[slot].rows == target.rows)
                .min_by_key(|&(_, &slot)| slots[slot].columns.abs_diff(target.columns))
                .map(|(idx, _)| idx);
            let slot = if let Some(idx) = best {
                free.swap_remove(idx)
            } else {
                slots.push(Slot { rows: target.rows, columns: 0 });
                slots.len() - 1
            };
            slots[slot].columns = slots[slot].columns.max(target.columns);
            slot_of[target.slot] = Some(slot);
        }
        // Freed only after the targets took theirs: a step never writes what it reads.
        for (buffer, slot) in slot_of.iter().enumerate() {
            if let Some(slot) = *slot
                && last_use[buffer] == at
            {
                free.push(slot);
            }
        }
    }

    let slot_of =
        |buffer: usize| slot_of[buffer].expect("invariant: every buffer is a target once");
    for step in &mut plan.steps {
        for target in &mut step.targets {
            target.slot = slot_of(target.slot);
        }
        for view in step.call.views_mut() {
            if let Source::Slot(buffer) = &mut view.source {
                *buffer = slot_of(*buffer);
            }
        }
    }
    if let Source::Slot(buffer) = &mut plan.output.source {
        *buffer = slot_of(*buffer);
    }
    plan.slots = slots;
    plan
}

/// For each buffer, the last step that reads it, or else the one that writes it.
fn last_uses(plan: &Plan) -> Vec<usize> {
    let mut last_use = vec![0; plan.slots.len()];
    for (at, step) in plan.steps.iter().enumerate() {
        for target in &step.targets {
            last_use[target.slot] = at;
        }
        for view in step.call.views() {
            if let Source::Slot(buffer) = view.source {
                last_use[buffer] = at;
            }
        }
    }
    if let Source::Slot(buffer) = plan.output.source {
        last_use[buffer] = usize::MAX;
    }
    last_use
}
