//! The command line of `atc`.
//!
//! `--name=value`, `--name value`, and both with one dash; a dash in a name counts as an
//! underscore. What is no flag, and a flag without a value, ends the program with a line on the
//! standard error and an unspecific verdict; a value outside its range with a code.

use std::collections::BTreeMap;

/// Why a command line is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ArgsError {
    /// No code: a line on the standard error.
    Line(String),
    /// A code and its message.
    Coded(&'static str, String),
}

/// Values of a flag.
#[derive(Clone, Copy)]
enum Range {
    Any,
    Int,
    Bool,
    OneOf(&'static [&'static str]),
}

/// A flag: its name, values, and the first major version that has it.
struct Flag(&'static str, Range, u32);

const ON_OFF: Range = Range::OneOf(&["0", "1"]);

const FLAGS: &[Flag] = &[
    Flag("ac_parallel_enable", ON_OFF, 8),
    Flag("aicore_num", Range::Any, 8),
    Flag("allow_hf32", Range::Any, 8),
    Flag("atomic_clean_policy", ON_OFF, 8),
    Flag("auto_tune_mode", Range::Any, 8),
    Flag("buffer_optimize", Range::OneOf(&["l1_optimize", "l2_optimize", "off_optimize"]), 8),
    Flag("check_report", Range::Any, 8),
    Flag("cluster_config", Range::Any, 8),
    Flag("compress_weight_conf", Range::Any, 8),
    Flag("compression_optimize_conf", Range::Any, 8),
    Flag("core_type", Range::OneOf(&["AiCore", "VectorCore"]), 8),
    Flag("customize_dtypes", Range::Any, 8),
    Flag("debug_dir", Range::Any, 8),
    Flag("deterministic", ON_OFF, 8),
    Flag("deterministic_level", Range::OneOf(&["0", "1", "2", "3"]), 9),
    Flag("device_id", Range::Any, 8),
    Flag("disable_reuse_memory", ON_OFF, 8),
    Flag("display_model_info", ON_OFF, 8),
    Flag("dump_mode", ON_OFF, 8),
    Flag("dynamic_batch_size", Range::Any, 8),
    Flag("dynamic_dims", Range::Any, 8),
    Flag("dynamic_image_size", Range::Any, 8),
    Flag("enable_attr_compression", Range::Any, 9),
    Flag("enable_compress_weight", Range::Any, 8),
    Flag("enable_scope_fusion_passes", Range::Any, 8),
    Flag("enable_single_stream", Range::Any, 8),
    Flag("enable_small_channel", ON_OFF, 8),
    Flag("external_weight", Range::OneOf(&["0", "1", "2"]), 8),
    Flag("framework", Range::OneOf(&["0", "1", "3", "5"]), 8),
    Flag("fusion_switch_file", Range::Any, 8),
    Flag("h2d_overlapped_with_compute", Range::Any, 9),
    Flag("hccl_sub_comm_config", Range::Any, 9),
    Flag("host_env_cpu", Range::Any, 8),
    Flag("host_env_os", Range::Any, 8),
    Flag("input_format", Range::Any, 8),
    Flag("input_fp16_nodes", Range::Any, 8),
    Flag("input_shape", Range::Any, 8),
    Flag("input_shape_range", Range::Any, 8),
    Flag("insert_op_conf", Range::Any, 8),
    Flag("is_input_adjust_hw_layout", Range::Any, 8),
    Flag("is_output_adjust_hw_layout", Range::Any, 8),
    Flag("jit_compile", Range::OneOf(&["0", "1", "2"]), 8),
    Flag("json", Range::Any, 8),
    Flag("keep_dtype", Range::Any, 8),
    Flag("log", Range::OneOf(&["debug", "info", "warning", "error", "null"]), 8),
    Flag("mdl_bank_path", Range::Any, 8),
    Flag("mode", Range::OneOf(&["0", "1", "3", "5", "6", "7", "30"]), 8),
    Flag("model", Range::Any, 8),
    Flag("modify_mixlist", Range::Any, 8),
    Flag("om", Range::Any, 8),
    Flag("oo_constant_folding", Range::Any, 9),
    Flag("oo_dead_code_elimination", Range::Any, 9),
    Flag("oo_level", Range::Any, 9),
    Flag("op_bank_path", Range::Any, 8),
    Flag("op_compiler_cache_dir", Range::Any, 8),
    Flag("op_compiler_cache_mode", Range::OneOf(&["enable", "disable", "force"]), 8),
    Flag("op_debug_config", Range::Any, 8),
    Flag("op_debug_level", Range::OneOf(&["0", "1", "2", "3", "4"]), 8),
    Flag("op_name_map", Range::Any, 8),
    Flag("op_precision_mode", Range::Any, 8),
    Flag("op_select_implmode", Range::OneOf(IMPL_MODES), 8),
    Flag("optimization_switch", Range::Any, 9),
    Flag("optypelist_for_implmode", Range::Any, 8),
    Flag("out_nodes", Range::Any, 8),
    Flag("output", Range::Any, 8),
    Flag("output_type", Range::Any, 8),
    Flag("precision_mode", Range::OneOf(PRECISION_MODES), 8),
    Flag("precision_mode_v2", Range::OneOf(PRECISION_MODES_V2), 8),
    Flag("quant_dumpable", Range::Any, 8),
    Flag("raw_ge_options", Range::Any, 9),
    Flag("raw_ge_options_ignore_unsupported", Range::Bool, 9),
    Flag("shape_generalized_build_mode", Range::Any, 8),
    Flag("singleop", Range::Any, 8),
    Flag("soc_version", Range::Any, 8),
    Flag("sparsity", ON_OFF, 8),
    Flag("static_model_ops_lower_limit", Range::Int, 8),
    Flag("status_check", ON_OFF, 8),
    Flag("tiling_schedule_optimize", ON_OFF, 8),
    Flag("topo_sorting_mode", Range::Any, 8),
    Flag("virtual_type", ON_OFF, 8),
    Flag("weight", Range::Any, 8),
];

const IMPL_MODES: &[&str] =
    &["high_precision", "high_performance", "high_precision_for_all", "high_performance_for_all"];
const PRECISION_MODES: &[&str] = &[
    "allow_fp32_to_bf16",
    "allow_fp32_to_fp16",
    "allow_mix_precision",
    "allow_mix_precision_bf16",
    "allow_mix_precision_fp16",
    "cube_fp16in_fp32out",
    "force_fp16",
    "force_fp32",
    "must_keep_origin_dtype",
];
const PRECISION_MODES_V2: &[&str] = &[
    "cube_fp16in_fp32out",
    "cube_hif8",
    "fp16",
    "mixed_bfloat16",
    "mixed_float16",
    "mixed_hif8",
    "origin",
];

/// A command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    values: BTreeMap<&'static str, String>,
}

impl Args {
    /// The value of a flag, empty if it is not given.
    pub(super) fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// Reads the arguments after the program's name, for a toolkit of that major version.
    pub(super) fn parse(args: &[String], major: u32) -> Result<Self, ArgsError> {
        let mut parsed = Self::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let (flag, value) = split(arg, major)?;
            let value = match value {
                Some(value) => value,
                None => rest.next().cloned().ok_or_else(|| {
                    ArgsError::Line(format!("flag '--{}' is missing its argument", flag.0))
                })?,
            };
            check(flag, &value)?;
            parsed.values.insert(flag.0, value);
        }
        Ok(parsed)
    }

    /// Checks what the conversion of an `.air` file needs.
    pub(super) fn check(&self) -> Result<(), ArgsError> {
        let coded = |code, message: String| Err(ArgsError::Coded(code, message));
        let invalid = |name: &str, reason: &str| {
            let value = self.get(name);
            let message =
                format!("Value [{value}] for parameter [--{name}] is invalid. Reason: {reason}");
            coded("E10001", message)
        };
        if !matches!(self.get("mode"), "" | "0") {
            let message = format!("simulator: --mode={} is not simulated", self.get("mode"));
            return coded("E19998", message);
        }
        match self.get("framework") {
            "" => return coded("E10007", "[--framework] is required: 0, 1, 3 or 5".to_owned()),
            "1" => {}
            other => {
                return coded("E19998", format!("simulator: --framework={other} is not simulated"));
            }
        }
        for name in ["soc_version", "output", "model"] {
            if self.get(name).is_empty() {
                return coded("E10054", format!("The required parameter [--{name}] is empty"));
            }
        }
        if !self.get("precision_mode").is_empty() && !self.get("precision_mode_v2").is_empty() {
            return invalid("precision_mode_v2", "--precision_mode is given as well");
        }
        let dynamic = ["dynamic_batch_size", "dynamic_image_size", "dynamic_dims"];
        if let Some(name) = dynamic.into_iter().find(|name| !self.get(name).is_empty()) {
            return coded("E19998", format!("simulator: --{name} is not simulated"));
        }
        Ok(())
    }

    /// Whether types stay as the graph says.
    pub(super) fn keeps_dtypes(&self) -> bool {
        self.get("precision_mode_v2") == "origin"
            || self.get("precision_mode") == "must_keep_origin_dtype"
    }
}

fn split(arg: &str, major: u32) -> Result<(&'static Flag, Option<String>), ArgsError> {
    let Some(bare) = arg.strip_prefix('-').map(|rest| rest.strip_prefix('-').unwrap_or(rest))
    else {
        return Err(ArgsError::Line(format!("Non-option parameter: {arg}")));
    };
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (bare, None),
    };
    let name = name.replace('-', "_");
    FLAGS
        .iter()
        .find(|flag| flag.0 == name && flag.2 <= major)
        .map(|flag| (flag, value))
        .ok_or_else(|| ArgsError::Line(format!("unknown command line flag '{name}'")))
}

fn check(Flag(name, range, _): &Flag, value: &str) -> Result<(), ArgsError> {
    let coded = |code, reason: &str| {
        let message =
            format!("Value [{value}] for parameter [--{name}] is invalid. Reason: {reason}");
        Err(ArgsError::Coded(code, message))
    };
    let is_digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match range {
        Range::Any => Ok(()),
        Range::Int if is_digits => Ok(()),
        Range::Int => coded("E10003", "The value type must be [int32]"),
        Range::Bool if matches!(value.to_lowercase().as_str(), "true" | "false") => Ok(()),
        Range::Bool => coded("E10003", "The value type must be [bool]"),
        Range::OneOf(values) if values.contains(&value) => Ok(()),
        Range::OneOf(values) => {
            let code = match *name {
                "log" => "E10010",
                "framework" => "E10007",
                _ if *values == ["0", "1"] => "E10006",
                _ => "E10001",
            };
            coded(code, &format!("The valid range is {}", values.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Args, ArgsError> {
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Args::parse(&args, 9).and_then(|args| args.check().map(|()| args))
    }

    #[test]
    fn flags_are_read_in_every_spelling() {
        let args =
            parse("--framework=1 -model a.air --output x --soc-version=Ascend910B3").unwrap();
        assert_eq!((args.get("model"), args.get("soc_version")), ("a.air", "Ascend910B3"));
        assert!(!args.keeps_dtypes());
    }

    #[test]
    fn wrong_flags_are_refused_with_their_codes() {
        let good = "--framework=1 --model=a --output=x --soc_version=y";
        let code = |extra: &str| match parse(&format!("{good} {extra}")) {
            Err(ArgsError::Coded(code, _)) => code,
            Err(ArgsError::Line(_)) => "line",
            Ok(_) => "",
        };
        assert_eq!(code("--precision_mode_v2=origin"), "");
        assert_eq!(code("--precision_mode_v2=bf16"), "E10001");
        assert_eq!(code("--tiling_schedule_optimize=yes"), "E10006");
        assert_eq!(code("--static_model_ops_lower_limit=-1"), "E10003");
        assert_eq!(code("--log=all"), "E10010");
        assert_eq!(code("--framework=2"), "E10007");
        assert_eq!(code("--framework=5"), "E19998");
        assert_eq!(code("--mode=1"), "E19998");
        assert_eq!(code("--precision_mode_v2=origin --precision_mode=force_fp16"), "E10001");
        assert_eq!(code("--speed=fast"), "line");
        assert_eq!(code("--log"), "line");
        assert_eq!(code("stray"), "line");
        let missing = "--framework=1 --model=a --output=x";
        assert!(matches!(parse(missing), Err(ArgsError::Coded("E10054", _))));
        assert!(matches!(parse("--model=a"), Err(ArgsError::Coded("E10007", _))));
        let old = ["--raw_ge_options=f".to_owned()];
        assert!(matches!(Args::parse(&old, 8), Err(ArgsError::Line(_))));
    }
}
