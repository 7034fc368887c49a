//! Profiles: settings for common deployments, as files that come with the program.
//!
//! ```text
//! cairn serve --profile throughput --max-num-seqs 128
//!             profile  <  file  <  environment  <  flags
//! ```
//!
//! The texts lie in `profiles/`, each with its reasons in comments; `cairn config profiles NAME`
//! prints one, to start a file of one's own from.
//!
//! What this module deliberately does not do: a profile is no new concept, only a file without a
//! path; [`config_file`](super::config_file) reads it.

use super::config_file::{ConfigFileError, Place, nearest};

/// A profile that comes with the program.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) name: &'static str,
    /// TOML; the first line is a comment that says what it is for.
    pub(crate) text: &'static str,
}

/// Every profile. A new one is a file and a row here.
pub(crate) const PROFILES: &[Profile] = &[
    Profile { name: "laptop", text: include_str!("profiles/laptop.toml") },
    Profile { name: "ci", text: include_str!("profiles/ci.toml") },
    Profile { name: "throughput", text: include_str!("profiles/throughput.toml") },
    Profile { name: "latency", text: include_str!("profiles/latency.toml") },
    Profile { name: "ascend-910b", text: include_str!("profiles/ascend-910b.toml") },
];

/// The name that asks for the list.
pub(crate) const HELP: &str = "help";

impl Profile {
    /// What it is for.
    fn summary(&self) -> String {
        let comment = self.text.lines().map_while(|line| line.strip_prefix('#'));
        comment.map(str::trim).collect::<Vec<_>>().join(" ")
    }
}

/// The profile of that name, which was asked for in `place`; `None`: on the command line.
pub(crate) fn find(name: &str, place: Option<&Place>) -> Result<&'static Profile, ConfigFileError> {
    let names = || PROFILES.iter().map(|profile| profile.name);
    PROFILES.iter().find(|profile| profile.name == name).ok_or_else(|| {
        ConfigFileError::UnknownProfile {
            name: name.to_owned(),
            place: place.cloned(),
            nearest: nearest(name, names()),
            known: names().collect::<Vec<_>>().join(", "),
        }
    })
}

/// Every profile with what it is for, a line each.
pub(crate) fn list() -> String {
    let width = PROFILES.iter().map(|profile| profile.name.len()).max().unwrap_or(0);
    let line = |profile: &Profile| format!("{:<width$}  {}\n", profile.name, profile.summary());
    PROFILES.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_says_what_it_is_for_and_is_found_by_its_name() {
        for profile in PROFILES {
            assert!(profile.summary().len() > 30, "{}", profile.name);
            assert_eq!(find(profile.name, None).unwrap().text, profile.text);
        }
        assert_eq!(list().lines().count(), PROFILES.len());
    }

    #[test]
    fn a_misspelt_profile_is_answered_with_the_nearest() {
        let error = find("troughput", None).unwrap_err();
        assert_eq!(error.to_string(), "there is no profile `troughput`");
        assert_eq!(error.hint().unwrap(), "a similar profile exists: `throughput`");
        assert!(find("x", None).unwrap_err().hint().unwrap().starts_with("profiles: laptop, ci"));
    }
}
