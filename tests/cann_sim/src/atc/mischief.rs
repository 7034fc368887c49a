//! Compilers that misbehave, by the environment.
//!
//! | `CANN_SIM_ATC` | What happens |
//! | --- | --- |
//! | `slow:SECONDS` | it waits first |
//! | `fail`, `fail:CODE` | it fails, with that code |
//! | `crash` | it dies of a segmentation fault |
//! | `garbage` | it writes a file that is no model, and succeeds |
//! | `truncate` | it writes half of the model, and succeeds |
//! | `dynamic` | the model becomes dynamic |
//! | `hang` | it and a child in its group take no notice of anything but `SIGKILL` |
//! | `silent` | it succeeds and writes no file |
//! | `spam` | it prints 100 MB and goes on |
//!
//! With `@N` behind it only the N-th call is meant, counted in the file `CANN_SIM_ATC_COUNT`;
//! several with commas between them are possible: `fail@1,slow:2@3`.

use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use fs_err as fs;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mischief {
    Slow(Duration),
    Fail(String),
    Crash,
    Garbage,
    Truncate,
    Dynamic,
    Hang,
    Silent,
    Spam,
}

/// Nobody waits that long, and nothing stays behind for ever.
const HANG_SECONDS: u32 = 600;

impl Mischief {
    fn parse(text: &str) -> Option<Self> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        Some(match (name, value) {
            ("slow", Some(seconds)) => {
                Self::Slow(Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?)
            }
            ("fail", code) => Self::Fail(code.unwrap_or("EZ9999").to_owned()),
            ("crash", None) => Self::Crash,
            ("garbage", None) => Self::Garbage,
            ("truncate", None) => Self::Truncate,
            ("dynamic", None) => Self::Dynamic,
            ("hang", None) => Self::Hang,
            ("silent", None) => Self::Silent,
            ("spam", None) => Self::Spam,
            _ => return None,
        })
    }

    /// What the environment asks of this call.
    pub(super) fn of_environment() -> Result<Option<Self>, String> {
        let Ok(script) = std::env::var("CANN_SIM_ATC") else { return Ok(None) };
        let call = match std::env::var_os("CANN_SIM_ATC_COUNT") {
            Some(path) => Some(count(path.as_ref()).map_err(|error| error.to_string())?),
            None => None,
        };
        of_call(&script, call)
    }

    /// Its name in the log.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Slow(_) => "slow",
            Self::Fail(_) => "fail",
            Self::Crash => "crash",
            Self::Garbage => "garbage",
            Self::Truncate => "truncate",
            Self::Dynamic => "dynamic",
            Self::Hang => "hang",
            Self::Silent => "silent",
            Self::Spam => "spam",
        }
    }
}

fn of_call(script: &str, call: Option<u64>) -> Result<Option<Mischief>, String> {
    for entry in script.split(',').filter(|entry| !entry.is_empty()) {
        let bad = || format!("CANN_SIM_ATC: `{entry}` is unknown");
        let (what, number) = match entry.rsplit_once('@') {
            Some((what, number)) => (what, Some(number.parse::<u64>().map_err(|_| bad())?)),
            None => (entry, None),
        };
        let mischief = Mischief::parse(what).ok_or_else(bad)?;
        if number.is_some() && call.is_none() {
            return Err("CANN_SIM_ATC: `@` needs CANN_SIM_ATC_COUNT".to_owned());
        }
        if number.is_none() || number == call {
            return Ok(Some(mischief));
        }
    }
    Ok(None)
}

/// Counts this call in a file; 1 for the first. Several programs may count at once.
fn count(path: &std::path::Path) -> io::Result<u64> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).truncate(false).read(true).write(true).open(path)?;
    file.file().lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let number = text.trim().parse::<u64>().unwrap_or(0).saturating_add(1);
    file.rewind()?;
    file.set_len(0)?;
    write!(file, "{number}")?;
    Ok(number)
}

/// Becomes a program that only `SIGKILL` ends, with a child in its group. Returns only if that
/// failed.
pub(super) fn hang() -> io::Error {
    let script = format!("trap '' TERM INT HUP; sleep {HANG_SECONDS} & sleep {HANG_SECONDS}; wait");
    Command::new("/bin/sh").args(["-c", &script]).exec()
}

/// Dies of a segmentation fault. Returns only if that failed.
pub(super) fn crash() -> io::Error {
    Command::new("/bin/sh").args(["-c", "kill -SEGV $$"]).exec()
}

/// 100 MB on the standard output.
pub(super) fn spam() -> io::Result<()> {
    const LINE: &str = "[INFO] TBE(atc): compiling the kernels of the graph goes on, please be patient ........................\n";
    let mut out = io::BufWriter::new(io::stdout().lock());
    for _ in 0..100_000_000 / LINE.len() {
        out.write_all(LINE.as_bytes())?;
    }
    out.flush()
}

/// Bytes that are no model.
pub(super) fn garbage() -> Vec<u8> {
    (0..65_536_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_the_calls_they_mean() {
        let script = "fail:E40021@1,slow:0.5@3";
        assert_eq!(of_call(script, Some(1)), Ok(Some(Mischief::Fail("E40021".to_owned()))));
        assert_eq!(of_call(script, Some(2)), Ok(None));
        let slow = Mischief::Slow(Duration::from_millis(500));
        assert_eq!(of_call(script, Some(3)), Ok(Some(slow)));
        assert_eq!(of_call("crash", None), Ok(Some(Mischief::Crash)));
        assert!(of_call("crash@1", None).is_err());
        assert!(of_call("explode", Some(1)).is_err());
        assert!(of_call("slow:-1", Some(1)).is_err());
    }

    #[test]
    fn calls_are_counted_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("count");
        assert_eq!((count(&path).unwrap(), count(&path).unwrap()), (1, 2));
    }
}
