//! Keys, signatures, and who is believed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::deployment::Deployment;
use super::{GENERATE, cache, entries, fails, folder_of, graph_key, succeeds, warm};

const SIGNED: [&str; 4] = ["--cache-trust", "signed", "--cache-keys", "our.key.pub"];

fn mode(deployment: &Deployment, name: &str) -> u32 {
    fs::metadata(deployment.path(name)).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_key_is_made_once_and_its_secret_is_kept() {
    let deployment = Deployment::new();
    let ended = succeeds(&deployment, &["keygen", "our.key"]);
    assert!(ended.stdout.starts_with("ed25519:"), "{ended:?}");
    assert_eq!(fs::read_to_string(deployment.path("our.key.pub")).unwrap(), ended.stdout);
    assert_eq!((mode(&deployment, "our.key"), mode(&deployment, "our.key.pub")), (0o600, 0o644));
    let secret = fs::read_to_string(deployment.path("our.key")).unwrap();
    assert!(!ended.stdout.contains(secret.trim()) && !ended.stderr.contains(secret.trim()));

    fails(&deployment, &["keygen", "our.key"], "hint: choose another name");
    // Either file is reason enough.
    fs::remove_file(deployment.path("our.key.pub")).unwrap();
    fails(&deployment, &["keygen", "our.key"], "hint: choose another name");
    assert_eq!(fs::read_to_string(deployment.path("our.key")).unwrap(), secret);
    assert!(!deployment.path("our.key.pub").exists());
}

#[test]
fn only_signed_entries_are_used_where_signatures_are_asked_for() {
    let deployment = warm();
    succeeds(&deployment, &["keygen", "our.key"]);
    let text = deployment.run(&GENERATE).stdout;
    let generate = [&GENERATE[..], &SIGNED].concat();
    let ended = deployment.run(&generate);
    assert_eq!((ended.code, &ended.stdout, ended.graphs()), (0, &text, [1, 0]), "{ended:?}");
    assert!(ended.warns() && ended.stderr.contains("nobody signed it"), "{ended:?}");

    let ended = succeeds(&deployment, &["sign", "--key", "our.key"]);
    assert!(ended.stderr.starts_with("2 entries signed by ed25519:"), "{ended:?}");
    let ended = deployment.run(&generate);
    assert_eq!((ended.code, &ended.stdout, ended.graphs()), (0, &text, [0, 1]), "{ended:?}");
    succeeds(&deployment, &[&["verify"], &SIGNED[..]].concat());

    // Another key's signature is none.
    succeeds(&deployment, &["keygen", "other.key"]);
    let other = ["--cache-trust", "signed", "--cache-keys", "other.key.pub"];
    let ended = deployment.run(&[&GENERATE[..], &other].concat());
    assert_eq!((ended.code, ended.graphs()), (0, [1, 0]), "{ended:?}");
    // Until it signs as well.
    succeeds(&deployment, &["sign", "--key", "other.key", &graph_key(&deployment)[..6]]);
    assert_eq!(deployment.run(&[&GENERATE[..], &other].concat()).graphs(), [0, 1]);
    assert_eq!(deployment.run(&generate).graphs(), [0, 1]);
}

#[test]
fn signatures_travel_with_entries_and_unsigned_ones_are_refused() {
    let deployment = warm();
    succeeds(&deployment, &["keygen", "our.key"]);
    succeeds(&deployment, &["export", "unsigned"]);
    let import =
        |file: &'static str| [&["import", file, "--cache-dir", "new"], &SIGNED[..]].concat();
    let ended = fails(&deployment, &import("unsigned"), "2 entries refused");
    assert!(ended.stderr.contains("nobody signed it"), "{ended:?}");
    assert_eq!(entries(&deployment, "new").len(), 0);

    succeeds(&deployment, &["sign", "--key", "our.key"]);
    succeeds(&deployment, &["export", "signed"]);
    succeeds(&deployment, &import("signed"));
    let args = [&GENERATE[..], &["--cache-dir", "new"], &SIGNED].concat();
    assert_eq!(deployment.run(&args).graphs(), [0, 1]);

    succeeds(&deployment, &["push", "shared"]);
    let pull = [&["pull", "shared", "--cache-dir", "pulled"], &SIGNED[..]].concat();
    succeeds(&deployment, &pull);
    let args = [&GENERATE[..], &["--cache-dir", "pulled"], &SIGNED].concat();
    assert_eq!(deployment.run(&args).graphs(), [0, 1]);
}

#[test]
fn a_bad_entry_is_not_signed() {
    let deployment = warm();
    succeeds(&deployment, &["keygen", "our.key"]);
    let key = graph_key(&deployment);
    let entry = folder_of(&deployment, &key);
    super::flip(&super::artifact(&entry));
    let ended = fails(&deployment, &["sign", "--key", "our.key", &key], "digest");
    assert!(ended.stderr.contains("hint: `cairn cache verify --repair`"), "{ended:?}");
    assert!(!entry.join("manifest.sig").exists());
}

#[test]
fn keys_that_are_none_are_told_with_file_and_line() {
    let deployment = warm();
    fs::write(deployment.path("keys"), "# ours\n\ned25519:xyz\n").unwrap();
    let signed = ["--cache-trust", "signed", "--cache-keys", "keys"];
    let ended = deployment.run(&[&GENERATE[..], &signed].concat());
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("`keys`: line 3: expected a public key"), "{ended:?}");
    let ended = deployment.run(&[&GENERATE[..], &["--cache-trust", "signed"]].concat());
    assert_eq!(ended.code, 2, "{ended:?}");

    succeeds(&deployment, &["keygen", "our.key"]);
    fails(&deployment, &["sign", "--key", "our.key.pub"], "expected one line with a secret key");
    fails(&deployment, &["sign", "--key", "missing"], "reading the secret key in `missing`");
    // Others can read it: it works, with a word about it.
    fs::set_permissions(deployment.path("our.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let ended = succeeds(&deployment, &["sign", "--key", "our.key"]);
    assert!(ended.stderr.starts_with("warning: others can read `our.key`"), "{ended:?}");
}

#[test]
fn a_folder_that_others_can_write_is_not_used_unless_it_is_said_to_be() {
    let deployment = warm();
    let folder = deployment.path("cache/graphs");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    let ended = deployment.run(&GENERATE);
    assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [1, 0], true), "{ended:?}");
    assert!(ended.stderr.contains("chmod -R go-w"), "{ended:?}");
    let ended = deployment.run(&[&GENERATE[..], &["--cache-trust", "any"]].concat());
    assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [0, 1], false), "{ended:?}");
    // It can be looked into, and doctor says what is wrong.
    assert_eq!(entries(&deployment, "cache/graphs").len(), 2);
    let ended = deployment.run(&["doctor"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.contains("mode 0777: others can write to it"), "{ended:?}");
    assert_eq!(deployment.run(&["doctor", "--cache-trust", "any"]).code, 0);
    fails(&deployment, &["gc"], "chmod -R go-w");
}

#[test]
fn a_link_to_a_folder_is_not_used() {
    let deployment = warm();
    symlink(deployment.path("cache/graphs"), deployment.path("link")).unwrap();
    let ended = cache(&deployment, &["gc", "--cache-dir", "link"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("symbolic link"), "{ended:?}");
    let ended = deployment.run(&[&GENERATE[..], &["--cache-dir", "link"]].concat());
    assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [1, 0], true), "{ended:?}");
}
