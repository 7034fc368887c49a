//! What `atc` says: on the standard output, in its log, and in the simulator's log of calls.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err as fs;

/// The exit status of a failure.
pub(super) const FAILURE: u8 = 255;

/// Prints a line.
pub(super) fn say(line: &str) {
    // Whoever closed the pipe does not want to know.
    let _ = writeln!(io::stdout(), "{line}");
}

/// The verdict of a failure. Without a code the reason is unknown to the error manager.
pub(super) fn fail(code: Option<&str>, message: &str, trace: &[String]) {
    say("ATC run failed, Please check the detail log, Try 'atc --help' for more information");
    if let Some(code) = code {
        say(&format!("{code}: [PID: {}] {message}", std::process::id()));
    } else {
        say("E19999: Internal Error!");
        say("        An unknown error occurred. Please check the log.");
    }
    if !trace.is_empty() {
        say("        TraceBack (most recent call last):");
        for line in trace {
            say(&format!("        {line}"));
        }
    }
    say("");
}

/// The compiler's own log.
#[derive(Debug)]
pub(super) struct Plog {
    path: PathBuf,
    echoes: bool,
}

impl Plog {
    /// A log where the environment says.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub(super) fn open() -> io::Result<Self> {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = match (var("ASCEND_PROCESS_LOG_PATH"), var("ASCEND_WORK_PATH"), var("HOME")) {
            (Some(path), ..) => PathBuf::from(path),
            (_, Some(path), _) => Path::new(&path).join("log"),
            (_, _, Some(home)) => Path::new(&home).join("ascend/log"),
            _ => return Err(io::Error::new(io::ErrorKind::NotFound, "HOME is not set")),
        };
        let folder = root.join("debug/plog");
        fs::create_dir_all(&folder)?;
        let (pid, now) = (std::process::id(), now_ms());
        let path = folder.join(format!("plog-{pid}_{now}.log"));
        fs::write(&path, "")?;
        let echoes = var("ASCEND_SLOG_PRINT_TO_STDOUT").is_some_and(|value| value == "1");
        Ok(Self { path, echoes })
    }

    /// Appends an error of a module.
    pub(super) fn error(&self, module: &str, message: &str) {
        let (pid, time) = (std::process::id(), timestamp(now_ms()));
        let line = format!("[ERROR] {module}({pid},atc.bin):{time} [compile.cc:1]{pid} {message}");
        if self.echoes {
            say(&line);
        }
        // A log that cannot be written must not hide the error it was to hold.
        if let Ok(mut file) = fs::OpenOptions::new().append(true).open(&self.path) {
            let _ = writeln!(file, "{line}");
        }
    }
}

/// A call of the compiler, for whoever counts them.
#[derive(Debug)]
pub(super) struct Call {
    start_ms: u64,
    soc: String,
    air_sha256: String,
}

impl Call {
    /// A call that begins now.
    pub(super) fn begin() -> Self {
        Self { start_ms: now_ms(), soc: String::new(), air_sha256: String::new() }
    }

    /// What it compiles, and for which chip.
    pub(super) fn compiles(&mut self, soc: &str, air: &[u8]) {
        soc.clone_into(&mut self.soc);
        self.air_sha256 = crate::om::sha256_hex(air);
    }

    /// Appends it as a line of JSON to the file `CANN_SIM_ATC_LOG`, if that is set: `pid`, `soc`,
    /// `air_sha256`, `outcome` (`ok`, `failed`, `crash`, `hang`, or the name of the mischief that
    /// did not keep it from success), `start_ms`, `end_ms`.
    pub(super) fn end(&self, outcome: &str) {
        let Some(path) = std::env::var_os("CANN_SIM_ATC_LOG") else { return };
        let line = serde_json::json!({
            "pid": std::process::id(),
            "soc": self.soc,
            "air_sha256": self.air_sha256,
            "outcome": outcome,
            "start_ms": self.start_ms,
            "end_ms": now_ms(),
        });
        let file = fs::OpenOptions::new().create(true).append(true).open(PathBuf::from(path));
        // One write: lines of several programs do not mix. A missing line fails the reader's test.
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// As in `2025-04-01-12:30:00.250.000`, universal time.
fn timestamp(ms: u64) -> String {
    let (days, ms) = (ms / 86_400_000, ms % 86_400_000);
    // The calendar repeats every 400 years of 146097 days; years begin in March here.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let year = era * 400 + year + carry;
    format!("{year}-{month:02}-{day:02}-{hour:02}:{minute:02}:{second:02}.{:03}.000", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_those_of_the_calendar() {
        assert_eq!(timestamp(0), "1970-01-01-00:00:00.000.000");
        assert_eq!(timestamp(951_825_600_123), "2000-02-29-12:00:00.123.000");
        assert_eq!(timestamp(1_767_225_599_999), "2025-12-31-23:59:59.999.000");
    }
}
