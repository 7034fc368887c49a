//! The toolkit's own log of errors: `debug/plog/plog-PID_TIME.log` under `ASCEND_PROCESS_LOG_PATH`
//! or `$HOME/ascend/log`. The file is made by the first failure; without one there is none.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err as fs;
use fs_err::{File, OpenOptions};

use super::config;

/// The open file, with the process and folder that it is of.
static PLOG: Mutex<Option<((u32, PathBuf), File)>> = Mutex::new(None);

/// Adds a line about a failed call or task. Trouble with the file is nobody's trouble.
pub(super) fn error(function: &str, code: i32, message: &str) {
    let Some(folder) = config::process_log_folder() else {
        return;
    };
    let pid = process::id();
    let place = (pid, folder);
    let mut plog = PLOG.lock().unwrap_or_else(PoisonError::into_inner);
    if plog.as_ref().is_none_or(|(known, _)| *known != place) {
        *plog = open(pid, &place.1).map(|file| (place, file));
    }
    if let Some((_, file)) = plog.as_mut() {
        let (date, time, millis) = now();
        let (year, month, day) = date;
        let (hours, minutes, seconds) = time;
        let message = message.replace('\n', " ");
        let line = format!(
            "[ERROR] ASCENDCL({pid},cann_sim):{year:04}-{month:02}-{day:02}-\
             {hours:02}:{minutes:02}:{seconds:02}.{millis:03}.000 \
             [{function}] {message}, error code is {code}\n"
        );
        let _ = file.write_all(line.as_bytes());
    }
}

fn open(pid: u32, folder: &Path) -> Option<File> {
    let folder = folder.join("debug").join("plog");
    fs::create_dir_all(&folder).ok()?;
    let ((year, month, day), (hours, minutes, seconds), millis) = now();
    let name = format!(
        "plog-{pid}_{year:04}{month:02}{day:02}{hours:02}{minutes:02}{seconds:02}{millis:03}.log"
    );
    OpenOptions::new().create(true).append(true).open(folder.join(name)).ok()
}

type Parts = (u64, u64, u64);

/// The date, the time of day and milliseconds, UTC.
fn now() -> (Parts, Parts, u32) {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = elapsed.as_secs();
    let time = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    (civil(seconds / 86_400), time, elapsed.subsec_millis())
}

/// The date of a day since 1970-01-01, in the Gregorian calendar.
fn civil(mut days: u64) -> Parts {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_088, (2024, 12, 31)),
            (20_089, (2025, 1, 1)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
