use std::path::Path;

use clap::CommandFactory as _;

use super::schema::{is_list, is_setting, is_switch, key_of};
use super::*;
use crate::cli::{Cli, print_config};

/// A folder with a file of settings.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("cairn.toml"), text).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, args: &[&str]) -> Result<Settings, Refusal> {
        let config = format!("--config={}", self.path().join("cairn.toml").display());
        read_args(&[&[config.as_str()], args].concat())
    }

    /// What is wrong, with the folder as `[FOLDER]`, and the way out.
    fn error(&self, args: &[&str]) -> (String, Option<String>) {
        let text = |text: &str| text.replace(self.path().to_str().unwrap(), "[FOLDER]");
        match self.read(args).unwrap_err() {
            Refusal::File(error) => (text(&error.to_string()), error.hint()),
            Refusal::Usage { error, hint } => (error.to_string(), hint.as_deref().map(text)),
            Refusal::Profiles(_) => panic!("nobody asked for profiles"),
        }
    }
}

fn read_args(args: &[&str]) -> Result<Settings, Refusal> {
    let command = without_variables(Cli::command());
    let arguments: Vec<OsString> = ["cairn"].iter().chain(args).map(OsString::from).collect();
    super::read(&command, &arguments)
}

/// As where no variable is set; that there are variables still counts.
fn without_variables(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_env() {
            Some(_) => arg.env("CAIRN_A_VARIABLE_THAT_NOBODY_SETS"),
            None => arg,
        })
        .mut_subcommands(without_variables)
}

fn raw(settings: &Settings, id: &str) -> Vec<String> {
    let values = innermost(&settings.matches).get_raw(id);
    values.into_iter().flatten().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn value(text: &str, args: &[&str], id: &str) -> String {
    let settings = Folder::with(text).read(args).unwrap();
    raw(&settings, id).join(" ")
}

#[test]
fn a_file_is_below_flags_and_above_profiles_and_its_sections_above_the_rest() {
    let file =
        "profile = \"ci\"\nthreads = 3\nmax-num-seqs = 5\n[serve]\nmax_num_seqs = 6\nport = 9\n";
    let of = |args: &[&str], id| value(file, args, id);
    assert_eq!(of(&["serve"], "port"), "9");
    assert_eq!(of(&["serve"], "max_num_seqs"), "6");
    assert_eq!(of(&["warmup"], "max_num_seqs"), "5");
    assert_eq!(of(&["warmup"], "max_num_batched_tokens"), "128", "of the profile");
    assert_eq!(of(&["warmup", "--threads", "7"], "threads"), "7");
    assert_eq!(of(&["warmup", "--profile", "laptop"], "max_num_batched_tokens"), "256");
    assert_eq!(of(&["--log-format", "text", "serve"], "log_format"), "text");
    assert_eq!(of(&["serve"], "log_format"), "json", "of the profile, a global flag");
    let settings = Folder::with(file).read(&["serve", "--port", "1"]).unwrap();
    assert!(!settings.places.contains_key("port"));
    assert_eq!(settings.places["threads"].line(), 2);
    assert_eq!(settings.places["no_progress"].origin(), "profile ci");
}

#[test]
fn switches_go_both_ways() {
    let is_on = |file: &str, args: &[&str]| {
        let settings = Folder::with(file).read(&[&["serve"], args].concat()).unwrap();
        let matches = innermost(&settings.matches);
        matches.get_flag("enable_prefix_caching") || !matches.get_flag("no_enable_prefix_caching")
    };
    assert!(!is_on("enable-prefix-caching = false", &[]));
    assert!(!is_on("no-enable-prefix-caching = true", &[]));
    assert!(is_on("no-enable-prefix-caching = true", &["--enable-prefix-caching"]));
    assert!(!is_on("enable-prefix-caching = true", &["--no-enable-prefix-caching"]));
    assert!(!is_on("profile = 'latency'\nenable-prefix-caching = false", &[]));
    assert_eq!(value("profile = 'ci'\nno-progress = false", &["serve"], "no_progress"), "false");
}

#[test]
fn what_was_typed_takes_the_place_of_what_it_cannot_be_used_with() {
    let file = "[generate]\nprompt = \"a\"\nsystem = \"b\"\n";
    assert_eq!(value(file, &["generate"], "system"), "b");
    assert_eq!(value(file, &["generate", "--raw"], "system"), "");
    let (error, hint) = Folder::with(&format!("{file}raw = true")).error(&["generate"]);
    assert!(error.contains("cannot be used with"), "{error}");
    let hint = hint.unwrap();
    assert!(hint.contains("comes from [FOLDER]/cairn.toml:3"), "{hint}");
}

#[test]
fn rules_between_flags_hold_in_files() {
    let (error, hint) = Folder::with("cache-trust = \"signed\"").error(&["serve"]);
    assert!(error.contains("--cache-keys <FILE>"), "{error}");
    assert_eq!(hint, None);
    assert!(
        Folder::with("[generate]\nlogprobs = 2\njson = true\nprompt = \"x\"")
            .read(&["generate"])
            .is_ok()
    );
    assert!(Folder::with("[generate]\nlogprobs = 2\nprompt = \"x\"").read(&["generate"]).is_err());
    assert!(Folder::with("").read(&["generate"]).is_err(), "there is no prompt");
}

#[test]
fn paths_start_at_the_file_and_names_stay_names() {
    let file =
        "model = \"m.gguf\"\ncache-dir = \"/absolute\"\ncache-layer = [\"a\", \"s3://b/c\"]\n";
    let folder = Folder::with(file);
    let settings = folder.read(&["serve"]).unwrap();
    let inside = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(raw(&settings, "model"), [inside("m.gguf")]);
    assert_eq!(raw(&settings, "cache_dir"), ["/absolute"]);
    assert_eq!(raw(&settings, "cache_layer"), [inside("a"), "s3://b/c".to_owned()]);
    let name = "smollm2-135m-instruct";
    let folder = Folder::with(&format!("model = \"{name}\""));
    assert_eq!(raw(&folder.read(&["serve"]).unwrap(), "model"), [name]);
    fs_err::write(folder.path().join(name), "").unwrap();
    let here = folder.path().join(name);
    assert_eq!(raw(&folder.read(&["serve"]).unwrap(), "model"), [here.to_str().unwrap()]);
    assert_eq!(raw(&folder.read(&["serve", "mine"]).unwrap(), "model"), ["mine"]);
}

#[test]
fn what_belongs_to_one_run_is_taken_from_the_commands_own_section_only() {
    // `cache rm --model` removes what a model needs: a file for all commands must not say so.
    let settings = Folder::with("model = \"m\"").read(&["cache", "rm", "abcdef"]).unwrap();
    assert_eq!(raw(&settings, "model"), [""; 0]);
    let (error, hint) = Folder::with("prompt = \"x\"").error(&["generate"]);
    assert_eq!(error, "[FOLDER]/cairn.toml:1: `prompt` does not belong outside of sections");
    assert_eq!(hint.as_deref(), Some("it belongs in [generate]"));
    assert_eq!(value("[bench.latency]\nwarmup = 3", &["bench", "latency"], "warmup"), "3");
}

#[test]
fn what_is_misspelt_is_refused_with_its_line_and_the_nearest_name() {
    for (file, expected, hint) in [
        (
            "\n\nmax-num-seq = 1",
            "3: unknown key `max-num-seq`",
            "a similar key exists: `max-num-seqs`",
        ),
        ("max_num_sqs = 1", "1: unknown key `max_num_sqs`", "a similar key exists: `max-num-seqs`"),
        ("profil = \"ci\"", "1: unknown key `profil`", "a similar key exists: `profile`"),
        ("qqqq = 1", "1: unknown key `qqqq`", "a key is called like a flag"),
        ("[serve]\npotr = 1", "2: unknown key `potr` in section [serve]", "`port`"),
        ("[serv]\nport = 1", "1: unknown section [serv]", "a similar section exists: `serve`"),
        ("[bench.latenzy]", "1: unknown section [bench.latenzy]", "`latency`"),
        ("[help]", "1: unknown section [help]", "a section is called like a command"),
        ("[generate]\nport = 1", "2: `port` does not belong in section [generate]", "[serve]"),
        ("config = \"x\"", "1: unknown key `config`", ""),
        ("[serve]\nprint-config = true", "2: unknown key `print-config` in section [serve]", ""),
        ("profile = \"cl\"", "1: there is no profile `cl`", ""),
    ] {
        let (error, way_out) = Folder::with(file).error(&["serve"]);
        assert_eq!(error, format!("[FOLDER]/cairn.toml:{expected}"), "{file}");
        let way_out = way_out.unwrap();
        assert!(way_out.contains(hint), "{file}: {way_out}");
    }
}

#[test]
fn a_wrong_value_is_refused_in_the_words_of_the_flag_even_for_another_command() {
    for (file, expected) in [
        (
            "threads = 0",
            "1: invalid value '0' for '--threads <N>': expected a whole number from 1 to 1024",
        ),
        (
            "\nthreads = true",
            "2: invalid value 'true' for '--threads <N>': expected a whole number from 1 to 1024",
        ),
        (
            "backend = \"gpu\"",
            "1: invalid value 'gpu' for '--backend <NAME>' [possible values: cpu, null, ascend]",
        ),
        (
            "kv-cache-bytes = \"4G\"",
            "1: invalid value '4G' for '--kv-cache-bytes <BYTES>': expected a whole number of bytes of at least 1, with or without a unit: kB, MB, GB, TB, KiB, MiB, GiB or TiB",
        ),
        (
            "[serve]\nport = 65536",
            "2: invalid value '65536' for '--port <PORT>': expected a whole number from 0 to 65535",
        ),
        (
            "[generate]\ntop-p = 1.5",
            "2: invalid value '1.5' for '--top-p <P>': expected a number above 0 and at most 1",
        ),
        ("threads = [1]", "1: `threads`: expected one value, got a list"),
        ("static-shapes = 1", "1: `static-shapes`: expected true or false, got a text or a number"),
        (
            "cache-layer = [true]",
            "1: `cache-layer`: expected a list of texts or numbers, got true or false",
        ),
        (
            "threads = 1979-05-27",
            "1: `threads`: expected a text, a number, true, false or a list, got a date or time",
        ),
        (
            "threads = 0x10",
            "1: `threads`: expected a text, a number, true, false or a list, got a number that is not decimal",
        ),
        ("threads = 1\nthreads = 2", "2: duplicate key"),
        (
            "block-size = 1\nblock_size = 2",
            "2: `block_size` contradicts or repeats `block-size` in line 1",
        ),
        (
            "[serve]\nenable-prefix-caching = true\nno-enable-prefix-caching = true",
            "3: `no-enable-prefix-caching` contradicts or repeats `enable-prefix-caching` in line 2",
        ),
    ] {
        let (error, _) = Folder::with(file).error(&["warmup"]);
        assert_eq!(error, format!("[FOLDER]/cairn.toml:{expected}"), "{file}");
    }
    for file in ["threads", "[serve", "threads = ", "= 1", "a = \"\u{0}\"", "\u{feff}= 1"] {
        let (error, _) = Folder::with(file).error(&["warmup"]);
        assert!(error.starts_with("[FOLDER]/cairn.toml:1: "), "{file:?}: {error}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = |path: &Path| match read_args(&["serve", "--config", path.to_str().unwrap()]) {
        Err(Refusal::File(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(
        error(Path::new("/nowhere/cairn.toml")).contains("`/nowhere/cairn.toml`: No such file")
    );
    let folder = tempfile::tempdir().unwrap();
    assert!(error(folder.path()).contains("Is a directory"));
    let path = folder.path().join("cairn.toml");
    fs_err::write(&path, b"threads = 1\n# \xff").unwrap();
    assert!(error(&path).ends_with("cairn.toml:2: not UTF-8"));
    fs_err::write(&path, " ".repeat(2 << 20)).unwrap();
    assert!(error(&path).ends_with("is larger than 1048576 bytes"));
    assert!(error(Path::new("/dev/zero")).ends_with("is larger than 1048576 bytes"));
}

#[test]
fn what_was_typed_wrong_is_told_before_the_file() {
    let folder = Folder::with("nonsense");
    let (error, _) = folder.error(&["serve", "--threads", "none"]);
    assert!(error.contains("invalid value 'none'"), "{error}");
    let (error, _) = folder.error(&["serve", "--help"]);
    assert!(error.starts_with("Serve a model"), "{error}");
    let (error, _) = Folder::with("threads = 2").error(&["generate", "--prompt"]);
    assert!(error.contains("a value is required for '--prompt <TEXT>'"), "{error}");
}

#[test]
fn the_commands_name_is_found_among_values_that_look_like_it() {
    let file = "[serve]\nport = 7\nserved-model-name = \"--port\"";
    let settings = Folder::with(file);
    // As a level, `serve` means what a module of that name logs.
    let got = settings.read(&["--log-level", "serve", "serve", "--host", "serve"]).unwrap();
    assert_eq!(raw(&got, "port"), ["7"]);
    let got = settings.read(&["--log-level=info", "serve", "--host", "serve", "--", "m"]).unwrap();
    assert_eq!(raw(&got, "port"), ["7"]);
    assert_eq!(raw(&got, "served_model_name"), ["--port"]);
    assert_eq!(raw(&got, "model"), ["m"]);
}

#[test]
fn every_profile_works_with_every_command_that_has_a_model() {
    for profile in profiles::PROFILES {
        for command in
            [&["serve"][..], &["warmup"], &["generate", "-p", "x"], &["bench", "latency"]]
        {
            let args = [command, &["--profile", profile.name]].concat();
            let settings = read_args(&args).unwrap_or_else(|error| panic!("{args:?}: {error:?}"));
            assert!(!settings.places.is_empty(), "{args:?}");
        }
    }
    for args in [&["serve", "--profile", "help"][..], &["--profile", "help"]] {
        assert!(matches!(read_args(args), Err(Refusal::Profiles(_))), "{args:?}");
    }
}

/// A value that the flag takes, as a file says it, and as the parser gets it.
fn sample(command: &[String], arg: &clap::Arg) -> (String, Vec<String>) {
    if is_switch(arg) {
        return ("true".to_owned(), vec!["true".to_owned()]);
    }
    let possible = arg.get_possible_values();
    let names: Vec<&str> = possible.iter().map(clap::builder::PossibleValue::get_name).collect();
    let candidates = names.into_iter().rev().chain([
        "/x",
        "3",
        "0.5",
        "64",
        "1000",
        "required",
        "hermes",
        "qwen3",
        "127.0.0.1:1",
        "http://127.0.0.1:1",
        "a=b",
    ]);
    let takes = |text: &&str| {
        let flag = arg.get_long().map_or_else(|| (*text).into(), |long| format!("--{long}={text}"));
        let args: Vec<&str> = command.iter().map(String::as_str).chain([flag.as_str()]).collect();
        match read_args(&args) {
            Ok(_) => true,
            Err(Refusal::Usage { error, .. }) => error.kind() == ErrorKind::MissingRequiredArgument,
            Err(_) => false,
        }
    };
    let text = candidates.into_iter().find(takes);
    let text = text.unwrap_or_else(|| panic!("add a candidate for {arg} of {command:?}"));
    let quoted = toml::Value::String(text.to_owned()).to_string();
    if is_list(arg) {
        (format!("[{quoted}, {quoted}]"), vec![text.to_owned(); 2])
    } else {
        (quoted, vec![text.to_owned()])
    }
}

/// What a flag asks for beside itself.
fn companions(id: &str) -> &'static str {
    match id {
        "logprobs" => "json = true",
        "length_penalty" => "beam-width = 2",
        "inject_faults" => "hardware-check = true",
        "ssl_certfile" => "ssl-keyfile = '/key'",
        "ssl_keyfile" => "ssl-certfile = '/cert'",
        "ssl_ca_certs" => "ssl-certfile = '/cert'\nssl-keyfile = '/key'",
        "cache_trust" => "cache-keys = '/keys'",
        _ => "",
    }
}

#[test]
fn every_flag_can_be_set_by_a_file_and_survives_being_printed_as_one() {
    let mut root = without_variables(Cli::command());
    root.build();
    let schema = Schema::new(&without_variables(Cli::command()));
    let mut count = 0;
    let mut paths = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let command = schema.command(&path).unwrap();
        let inner = command.get_subcommands().map(Command::get_name).filter(|name| *name != "help");
        paths.extend(inner.map(|name| [&path[..], &[name.to_owned()]].concat()));
        if path.is_empty() || command.is_subcommand_required_set() {
            continue;
        }
        let required: Vec<&clap::Arg> =
            command.get_arguments().filter(|arg| arg.is_required_set()).collect();
        for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
            let id = arg.get_id().as_str();
            let (text, expected) = sample(&path, arg);
            let mut file =
                format!("[{}]\n{} = {text}\n{}\n", path.join("."), key_of(arg), companions(id));
            let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
            for other in required.iter().filter(|other| other.get_id() != arg.get_id()) {
                if other.get_long().is_some() {
                    file += &[key_of(other), " = '/required'\n"].concat();
                } else {
                    args.push("abcdef");
                }
            }
            let settings =
                Folder::with(&file).read(&args).unwrap_or_else(|error| panic!("{file}: {error:?}"));
            assert_eq!(raw(&settings, id), expected, "{file}");
            let printed = print_config::to_toml(&root, &settings).unwrap();
            let again = Folder::with(&printed)
                .read(&args)
                .unwrap_or_else(|error| panic!("{printed}: {error:?}"));
            let is_told = |arg: &&clap::Arg| is_setting(arg) && !print_config::is_secret(arg);
            for arg in command.get_arguments().filter(is_told) {
                let id = arg.get_id().as_str();
                assert_eq!(raw(&again, id), raw(&settings, id), "{id} of {path:?}:\n{printed}");
            }
            count += 1;
        }
    }
    assert!(count > 300, "{count} flags");
}
