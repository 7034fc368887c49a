//! The codes in what CANN's compiler prints, and what can be done about them.
//!
//! ```text
//! E10016: [PID: 77] ...          E, or W for warnings; then five digits (the graph engine, the
//! EZ3003: ...                    operator compiler), or a letter for the part and four digits
//! ```
//!
//! What this module deliberately does not do: it does not guess from the words around a code.

/// Codes kept of one output.
const MAX_CODES: usize = 16;

/// Codes, or the beginnings of codes, and what can be done. Longer ones come first.
const REMEDIES: &[(&str, &str)] = &[
    (
        "E10001",
        "a value of an option is not known to this CANN: read the reason beside the code; for \
         `soc_version`, name the chip as `npu-smi info` or `aclrtGetSocName` do",
    ),
    ("E10007", "this CANN's atc does not read `.air` files: install a complete CANN toolkit"),
    ("E10016", "a node that is named in an option is not in the graph: report it with the graph"),
    (
        "E10055",
        "this chip or this CANN does not support something in the graph: try a newer CANN toolkit",
    ),
    (
        "E10501",
        "this CANN does not know an operator: check that `ASCEND_OPP_PATH` is the `opp` folder of \
         the same toolkit, and try a newer one",
    ),
    (
        "E11019",
        "an operator lacks an input: the graph was written for another CANN; report it with the \
         graph",
    ),
    (
        "E13010",
        "this CANN does not know an operator: check that `ASCEND_OPP_PATH` is the `opp` folder of \
         the same toolkit, and try a newer one",
    ),
    ("E13024", "a variable of the environment has a value that CANN refuses: see its message"),
    (
        "E13025",
        "CANN refuses an input of the graph: its type is not supported, or inputs are numbered with \
         gaps; report it with the graph",
    ),
    ("E14001", "CANN refuses an operator's inputs or attributes: report it with the graph"),
    (
        "E18888",
        "the graph library failed: check that all parts of the toolkit are of one release, and read \
         the log",
    ),
    (
        "E19999",
        "an internal check of the graph engine failed: the reason is in the first error of its log",
    ),
    ("E29999", "a CANN library failed in itself: the reason is in its log"),
    (
        "E40001",
        "the operator compiler does not work in this environment: source the toolkit's `set_env.sh`",
    ),
    ("E40002", "the operator compiler needs a newer Python 3 as `python3` in `PATH`"),
    (
        "E40021",
        "an operator could not be compiled: install the `ops` package of this chip in the toolkit's \
         own release, and read the log",
    ),
    (
        "E40024",
        "a Python function of the operator compiler failed: check that `python3` has the packages \
         that CANN needs (numpy, decorator, sympy, scipy, attrs, psutil, cloudpickle)",
    ),
    (
        "EZ3002",
        "no kernel of this chip takes an operator with these types: install the `ops` package of \
         this chip, or use another `--dtype`",
    ),
    (
        "EZ3003",
        "no kernel was found for an operator: install the `ops` package of this chip (`opp_kernel` \
         before CANN 8.5) in the toolkit's own release",
    ),
    (
        "EZ9999",
        "an operator's own code failed, or a compile worker died: the reason is in the log line \
         before it; look for lack of memory, too",
    ),
    ("E100", "atc refuses an argument: check that this CANN is one that is supported"),
    ("E130", "atc cannot read or write a file: check space and permissions of the cache folder"),
    ("E400", "the operator compiler failed: source the toolkit's `set_env.sh`, and read the log"),
    ("E409", "the operator compiler failed: source the toolkit's `set_env.sh`, and read the log"),
    ("EZ", "the operator library failed: install the `ops` package of this chip, and read the log"),
];

/// Every code in a text, each once, in the order in which they appear.
pub(super) fn find(text: &str) -> Vec<String> {
    let mut codes: Vec<String> = Vec::new();
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    for word in text.as_bytes().split(|byte| !is_part(byte)) {
        let Some(code) = code(word) else { continue };
        if !codes.iter().any(|known| known == code) {
            codes.push(code.to_owned());
        }
        if codes.len() == MAX_CODES {
            break;
        }
    }
    codes
}

/// A word that is a code.
fn code(word: &[u8]) -> Option<&str> {
    let [b'E' | b'W', part, digits @ ..] = word else { return None };
    let is_code = digits.len() == 4
        && digits.iter().all(u8::is_ascii_digit)
        && (part.is_ascii_digit() || part.is_ascii_uppercase());
    if is_code { std::str::from_utf8(word).ok() } else { None }
}

/// What can be done about a code.
pub(super) fn remedy(code: &str) -> Option<&'static str> {
    REMEDIES.iter().find(|(known, _)| code.starts_with(known)).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_once_and_in_order() {
        let text = "ATC run failed\nE19999: Inner Error!\nE19999[PID: 7] EZ3003: No supported\n\
                    W11001: slow, (EI0006) [ERROR] E10016.";
        assert_eq!(find(text), ["E19999", "EZ3003", "W11001", "EI0006", "E10016"]);
    }

    #[test]
    fn words_that_only_look_alike_are_no_codes() {
        for text in [
            "",
            "E",
            "E1234",
            "E123456",
            "xE10001",
            "E10001x",
            "E_10001",
            "e10001",
            "EZ99990",
            "EZA999",
            "node_E10001",
            "F10001",
            "E1000é",
        ] {
            assert_eq!(find(text), Vec::<String>::new(), "{text}");
        }
        let many: Vec<String> = (10_000..10_100).map(|number| format!("E{number}")).collect();
        assert_eq!(find(&many.join(" ")).len(), MAX_CODES);
    }

    #[test]
    fn known_codes_have_a_remedy_and_the_exact_one_wins() {
        for (code, part) in [
            ("E10001", "npu-smi"),
            ("E10003", "refuses an argument"),
            ("E13004", "space and permissions"),
            ("E19999", "first error of its log"),
            ("EZ3003", "`ops` package"),
            ("EZ9999", "worker died"),
            ("EZ0501", "operator library"),
            ("E40002", "newer Python"),
            ("E40020", "set_env.sh"),
        ] {
            assert!(remedy(code).unwrap().contains(part), "{code}: {:?}", remedy(code));
        }
        assert_eq!(remedy("W11001"), None);
    }

    #[test]
    fn no_remedy_hides_a_later_one() {
        for (idx, (code, _)) in REMEDIES.iter().enumerate() {
            let first = REMEDIES.iter().position(|(known, _)| code.starts_with(known));
            assert_eq!(first, Some(idx), "{code}");
        }
    }
}
