//! Entries in object storage, by the command line: against a small server of our own.
#![allow(dead_code, reason = "the server can do more than is tested here")]

#[path = "../../graph_cache/tests/fake_s3/mod.rs"]
mod fake_s3;

use std::ffi::OsString;

use fake_s3::{BUCKET, FakeS3};

use super::deployment::Deployment;
use super::{GENERATE, entries, fails, flip, succeeds, warm};

/// A deployment that reaches a server, and an address on it.
fn with_server() -> (Deployment, FakeS3, String) {
    let (mut deployment, server) = (warm(), FakeS3::start());
    let settings = [
        ("AWS_ACCESS_KEY_ID", "ACCESS".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "SECRET".to_owned()),
        ("AWS_REGION", "region-1".to_owned()),
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ];
    deployment.variables.extend(settings.map(|(name, value)| (name, OsString::from(value))));
    (deployment, server, format!("s3://{BUCKET}/some/prefix"))
}

#[test]
fn what_one_pushes_another_pulls() {
    let (deployment, server, url) = with_server();
    let report = deployment.json(&["cache", "push", &url, "--json"]);
    assert_eq!((&report["new"], &report["to"]), (&2.into(), &url.clone().into()), "{report}");
    assert_eq!(server.state().objects.len(), 2);
    let ended = succeeds(&deployment, &["push", &url]);
    assert!(ended.stderr.contains("2 there already"), "{ended:?}");

    let ended = succeeds(&deployment, &["pull", &url, "--cache-dir", "new"]);
    assert!(ended.stderr.starts_with("2 entries, "), "{ended:?}");
    let ended = deployment.run(&[&GENERATE[..], &["--cache-dir", "new"]].concat());
    assert_eq!((ended.code, ended.graphs()), (0, [0, 1]), "{ended:?}");
}

#[test]
fn an_object_store_is_a_layer() {
    let (deployment, _server, url) = with_server();
    succeeds(&deployment, &["push", &url]);
    let layer = ["--cache-dir", "new", "--cache-layer", &url];
    let ended = succeeds(&deployment, &[&["ls"], &layer[..]].concat());
    assert!(ended.stderr.contains("2 entries, of unknown size in s3://"), "{ended:?}");
    let report = deployment.json(&[&["cache", "explain", "model", "--json"], &layer[..]].concat());
    assert_eq!(report["graphs"][0]["place"], url.as_str(), "{report}");
    let ended = deployment.run(&[&GENERATE[..], &layer].concat());
    assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [0, 1], false), "{ended:?}");
    assert!(!entries(&deployment, "new").is_empty());
}

#[test]
fn a_permission_that_is_missing_is_named() {
    let (deployment, server, url) = with_server();
    server.state().denied.insert("PUT");
    let ended = fails(&deployment, &["push", &url], "no permission for s3:PutObject on s3://");
    assert!(ended.stderr.contains("hint: `cairn doctor --cache-layer s3://"), "{ended:?}");
    let doctor = ["doctor", "--cache-layer", &url];
    let ended = deployment.run(&doctor);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("can only be read"), "{ended:?}");
    assert!(ended.stdout.contains("s3:PutObject: "), "{ended:?}");
    server.state().denied.insert("GET");
    let ended = deployment.run(&doctor);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.contains("s3:GetObject: "), "{ended:?}");
}

#[test]
fn whatever_the_service_does_nothing_wrong_comes_out() {
    let (deployment, server, url) = with_server();
    succeeds(&deployment, &["push", &url]);
    let text = deployment.run(&GENERATE).stdout;
    server.state().flips = true;
    let pull = ["pull", &url, "--cache-dir", "new"];
    fails(&deployment, &pull, "after 0 of 2 entries");
    let layer = ["--cache-dir", "new", "--cache-layer", &url];
    let ended = deployment.run(&[&GENERATE[..], &layer].concat());
    assert_eq!((ended.code, &ended.stdout), (0, &text), "{ended:?}");
    assert_eq!((ended.graphs(), ended.warns()), ([1, 0], true), "{ended:?}");
    server.state().flips = false;
    succeeds(&deployment, &pull);
}

#[test]
fn a_bad_entry_does_not_leave_the_house() {
    let (deployment, server, url) = with_server();
    let key = super::graph_key(&deployment);
    flip(&super::artifact(&super::folder_of(&deployment, &key)));
    fails(&deployment, &["push", &url, &key], "does not match its digest");
    assert!(server.state().objects.is_empty());
}
