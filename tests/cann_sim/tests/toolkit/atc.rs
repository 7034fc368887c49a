//! Calls of the compiler that go as they should, and those that are refused.

use ascendcl::om;

use super::models::{DECODE, PACKED, add, attention};
use super::toolkit::{Toolkit, stdout};

/// Runs the compiler and asserts that it fails with these words.
#[track_caller]
fn fails(command: &mut std::process::Command, words: &str) -> String {
    let output = command.output().unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(255), "{text}");
    assert!(text.contains("ATC run failed, Please check the detail log"), "{text}");
    assert!(text.contains(words), "{text}");
    text
}

#[test]
fn a_graph_becomes_a_model() {
    let toolkit = Toolkit::new("9.0.0");
    toolkit.write(&attention(PACKED));
    let output = toolkit.atc().output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("ATC start working now, please wait for a moment.\n"), "{text}");
    assert!(text.contains("ATC run success, welcome to the next use."), "{text}");
    let om = om::read(&std::fs::read(toolkit.path("work/g.om")).unwrap()).unwrap();
    assert_eq!((om.soc.as_str(), om.cann.as_str()), ("Ascend910B3", "9.0.0"));
    assert!(om.has_tiling_sink && !om.is_dynamic);
    assert!(toolkit.path("work/kernel_meta").is_dir());
    assert!(toolkit.path("work/fusion_result.json").is_file());
    let names: Vec<&str> = om.inputs().map(|(name, _)| name).collect();
    assert_eq!(names[7], "k_cache");
    assert_eq!(om.outputs().next().unwrap().0, "fia:0:attention_out");
}

#[test]
fn without_tiling_on_the_device_the_model_is_dynamic_and_named_after_the_system() {
    let toolkit = Toolkit::new("9.0.0");
    toolkit.write(&attention(DECODE));
    let output = toolkit.atc().arg("--tiling_schedule_optimize=0").output().unwrap();
    assert!(output.status.success(), "{}", stdout(&output));
    let name = format!("work/g_linux_{}.om", std::env::consts::ARCH);
    let bytes = std::fs::read(toolkit.path(&name)).unwrap();
    assert_eq!(bytes[193], 1, "is_unknow_model");
    let om = om::read(&bytes).unwrap();
    assert!(om.is_dynamic && om.model_num > 1);
    assert!(!toolkit.path("work/g.om").exists());
}

#[test]
fn chips_and_versions_are_checked() {
    let toolkit = Toolkit::new("8.1.RC1");
    toolkit.write(&attention(PACKED));
    for soc in ["Ascend910B", "ascend910b3", "Ascend910B9"] {
        fails(toolkit.atc().arg(format!("--soc_version={soc}")), "E10001");
    }
    fails(&mut toolkit.atc(), "needs CANN 9.0");
    fails(toolkit.atc().arg("--soc_version=Ascend310P3"), "E19998");
    toolkit.write(&attention(DECODE));
    for soc in ["Ascend910B1", "Ascend910_9391"] {
        let output = toolkit.atc().arg(format!("--soc_version={soc}")).output().unwrap();
        assert!(output.status.success(), "{}", stdout(&output));
    }
}

#[test]
fn the_operators_of_the_chip_must_be_installed_from_8_5_on() {
    let toolkit = Toolkit::with(&["--without", "ops"]);
    toolkit.write(&add());
    fails(&mut toolkit.atc(), "EZ3003");
    fails(toolkit.atc().env("ASCEND_OPP_PATH", "/nowhere"), "set ASCEND_OPP_PATH");
    let toolkit = Toolkit::with(&["--without", "ops", "--cann", "8.1.RC1"]);
    toolkit.write(&add());
    assert!(toolkit.atc().output().unwrap().status.success());
}

#[test]
fn command_lines_are_checked() {
    let toolkit = Toolkit::new("9.0.0");
    toolkit.write(&add());
    let text = fails(toolkit.atc().arg("--fast=1"), "E19999: Internal Error!");
    assert!(!text.contains("fast"), "{text}");
    let output = toolkit.atc().arg("--fast=1").output().unwrap();
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(line, "ERROR: unknown command line flag 'fast'\n");
    fails(toolkit.command().arg("--framework=1"), "E10054");
    fails(&mut toolkit.command(), "E10007");
    fails(toolkit.atc().arg("--model=other.air"), "E10001");
    fails(toolkit.atc().arg("--output=no/folder/g"), "E10001");
    fails(toolkit.atc().arg("--precision_mode_v2=fp16"), "precision_mode_v2=origin");
    fails(toolkit.atc().arg("--precision_mode=must_keep_origin_dtype"), "E10001");
}

#[test]
fn the_reason_of_a_shape_function_stands_in_the_log_only() {
    let toolkit = Toolkit::new("9.0.0");
    let mut air = add();
    air.data("z", 1, super::air::Float, &[7]);
    "z:0".clone_into(&mut air.op("add").input[1]);
    toolkit.write(&air);
    let text = fails(&mut toolkit.atc(), "Call InferShapeAndType for node:add(Add) failed");
    assert!(text.contains("EZ9999: [PID: ") && !text.contains("broadcast"), "{text}");
    assert!(toolkit.plog().contains("[ERROR] OP(") && toolkit.plog().contains("broadcast"));
    let text = stdout(&toolkit.atc().env("ASCEND_SLOG_PRINT_TO_STDOUT", "1").output().unwrap());
    assert!(text.contains("broadcast"), "{text}");
}

#[test]
fn a_file_that_cannot_be_loaded_has_a_code_of_its_own() {
    let toolkit = Toolkit::new("9.0.0");
    let mut air = add();
    "nobody:0".clone_into(&mut air.op("add").input[0]);
    toolkit.write(&air);
    let text = fails(&mut toolkit.atc(), "E10041");
    assert!(text.contains("TraceBack") && text.contains("E18888: Assert"), "{text}");
}

#[test]
fn a_bad_name_map_kills_the_compiler() {
    use std::os::unix::process::ExitStatusExt as _;
    let toolkit = Toolkit::new("9.0.0");
    let mut air = add();
    let map = ascendcl::ge::proto::AttrDef::ints(vec![0, 9]);
    air.op("add").attr.insert("_input_name_value".to_owned(), map);
    toolkit.write(&air);
    assert_eq!(toolkit.atc().output().unwrap().status.signal(), Some(11));
}

#[test]
fn folders_must_be_writable() {
    let toolkit = Toolkit::new("9.0.0");
    toolkit.write(&add());
    fails(toolkit.atc().env("HOME", "/proc/nowhere"), "log folder");
    fails(toolkit.atc().env_remove("HOME"), "log folder");
    let logs = toolkit.path("logs");
    let mut command = toolkit.atc();
    command.env("HOME", "/proc/nowhere").env("ASCEND_PROCESS_LOG_PATH", &logs);
    assert!(command.output().unwrap().status.success());
    assert!(logs.join("debug/plog").is_dir());
}
