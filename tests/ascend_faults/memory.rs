//! A device whose memory is too small, or is taken by a runtime that takes too much.

use std::collections::BTreeSet;

use crate::place::{Place, Run};

/// What a device has to have for the small deployment to run, in bytes; a little more does no harm.
const ENOUGH: u64 = 6 << 20;

#[test]
fn what_does_not_fit_is_named_with_its_size_and_the_flags_that_change_it() {
    let place = Place::warm();
    let right = place.right_answer();
    let mut named = BTreeSet::new();
    // From hardly anything to enough, in small steps.
    let mut hbm = 1 << 17;
    while hbm < ENOUGH {
        let run = place.generate(&[("CANN_SIM_HBM_BYTES", &hbm.to_string())]);
        run.assert_clean();
        if run.ended.code == 0 {
            assert_eq!(run.ended.stdout, right);
        } else if run.error().contains("`aclmdlLoadWithConfig` failed") {
            // What a load takes is the runtime's own affair: it says how much.
            let words =
                ["no memory for the loaded graph (", "no memory left: asked for ", "hint: "];
            assert!(words.iter().all(|words| run.error().contains(words)), "{run:?}");
        } else {
            named.insert(what_does_not_fit(&run, hbm));
        }
        hbm += hbm / 12;
    }
    for part in ["the graphs' workspace", "model.", "of the KV cache", "the causal mask"] {
        assert!(named.iter().any(|what| what.contains(part)), "{part}: {named:?}");
    }
    let run = place.generate(&[("CANN_SIM_HBM_BYTES", &ENOUGH.to_string())]);
    assert_eq!((run.ended.code, run.ended.stdout), (0, right));
}

/// Checks the error and returns what it names.
fn what_does_not_fit(run: &Run, hbm: u64) -> String {
    assert_eq!((run.ended.code, run.ended.stdout.trim()), (1, ""), "{run:?}");
    let error = run.error();
    let split = |text: &'static str, from| -> (&str, &str) {
        let parts = str::split_once(from, text);
        parts.unwrap_or_else(|| panic!("no `{text}` in: {error}"))
    };
    let (_, rest) = split("no memory for ", error);
    let (what, rest) = split(": ", rest);
    let (needed, rest) = split(" bytes could not be allocated (", rest);
    let (free, rest) = split(" of the device's ", rest);
    let [needed, free] = [needed, free].map(|bytes| bytes.parse::<u64>().unwrap());
    // Kernels want some room behind it, and memory comes in pieces.
    assert!(needed + 1024 > free, "{error}");
    assert!(rest.starts_with(&format!("{hbm} bytes are free; `aclrtMalloc` failed: ")), "{error}");
    let (_, hint) = split("\nhint: ", rest);
    for flag in ["`--kv-cache-bytes`", "`--max-num-seqs`", "`--max-num-batched-tokens`"] {
        assert!(hint.contains(flag), "{hint}");
    }
    what.to_owned()
}

#[test]
fn a_kv_cache_that_is_too_large_is_named() {
    let place = Place::new();
    let generate = |kv_cache_bytes| {
        let flags = ["--prompt", "hi", "--max-tokens", "4", "--max-num-batched-tokens", "64"];
        let sizes = ["--max-num-seqs", "32", "--kv-cache-bytes", kv_cache_bytes];
        let flags = [&flags[..], &sizes].concat();
        place.run_sized("generate", &flags, &[("CANN_SIM_HBM_BYTES", "16777216")])
    };
    let run = generate("32MiB");
    assert!(what_does_not_fit(&run, 1 << 24).contains("of the KV cache"), "{run:?}");
    // The flag that the hint names is the way out.
    let run = generate("4MiB");
    assert_eq!(run.ended.code, 0, "{run:?}");
}

#[test]
fn a_runtime_that_holds_inputs_twice_is_found_out_with_the_first_graph() {
    let place = Place::new();
    // A KV cache that is larger than what any load may take.
    let flags = ["--prompt", "hi", "--max-num-seqs", "1000", "--max-num-batched-tokens", "64"];
    let run = place.run_sized("generate", &flags, &[("CANN_SIM_IGNORE_MEM_OPTIMIZE", "1")]);
    assert_eq!((run.ended.code, run.ended.stdout.as_str()), (1, ""), "{run:?}");
    run.assert_clean();
    let error = run.error();
    for words in ["loading graph `", "loading it took ", "ACL_MDL_WORKSPACE_MEM_OPTIMIZE"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(run.calls()["aclmdlLoadWithConfig"], 1);
}
