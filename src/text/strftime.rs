//! Dates for chat templates, as C's `strftime` writes them, in UTC and English.
//!
//! Templates put today's date into the system prompt. The reference uses the machine's time zone;
//! here it is UTC, so that the same server gives the same prompt wherever it runs.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment in the Gregorian calendar.
struct Moment {
    year: u64,
    /// From 1.
    month: u64,
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// 0 is Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

/// The time in that format. Unknown conversions stay as they are written.
pub(super) fn format(format: &str, time: SystemTime) -> String {
    let moment = Moment::of(time);
    let mut text = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        text.push_str(&rest[..start]);
        let directive = &rest[start + 1..];
        // `%-d` is `%d` without the zero in front.
        let (is_bare, conversion) = match directive.strip_prefix('-') {
            Some(conversion) => (true, conversion),
            None => (false, directive),
        };
        let letter = conversion.chars().next();
        if let Some(converted) = letter.and_then(|letter| moment.convert(letter)) {
            text.push_str(if is_bare { bare(&converted) } else { &converted });
            // Letters that convert are one byte long.
            rest = &conversion[1..];
        } else {
            text.push('%');
            rest = directive;
        }
    }
    text.push_str(rest);
    text
}

/// A number without the zeros or spaces in front, but never nothing.
fn bare(number: &str) -> &str {
    match number.trim_start_matches(['0', ' ']) {
        "" => "0",
        bare => bare,
    }
}

impl Moment {
    fn of(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let days = seconds / 86_400;
        let (year, day_of_year) = year_of(days);
        let mut day = day_of_year;
        let mut month = 1;
        while day >= days_in(month, year) {
            day -= days_in(month, year);
            month += 1;
        }
        Self {
            year,
            month,
            day: day + 1,
            day_of_year: day_of_year + 1,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4) % 7,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }

    fn convert(&self, conversion: char) -> Option<String> {
        let weekday = DAYS[self.weekday as usize];
        let month = MONTHS[self.month as usize - 1];
        let hour12 = (self.hour + 11) % 12 + 1;
        Some(match conversion {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour12:02}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'p' => (if self.hour < 12 { "AM" } else { "PM" }).to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'w' => self.weekday.to_string(),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in(month: u64, year: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The year of a day since 1970, and the day's index in it. 400 years have 146,097 days.
const fn year_of(days: u64) -> (u64, u64) {
    let mut year = 1970 + days / 146_097 * 400;
    let mut day = days % 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if day < length {
            return (year, day);
        }
        day -= length;
        year += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, pattern: &str) -> String {
        format(pattern, UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(at(0, "%F %T %a"), "1970-01-01 00:00:00 Thu");
        assert_eq!(at(951_782_400, "%d %b %Y %j"), "29 Feb 2000 060");
        assert_eq!(
            at(1_735_689_599, "%A %-d %B %Y, %I:%M:%S %p"),
            "Tuesday 31 December 2024, 11:59:59 PM"
        );
        assert_eq!(at(4_107_542_400, "%F"), "2100-03-01");
        assert_eq!(at(253_402_300_800, "%F"), "10000-01-01");
    }

    #[test]
    fn unknown_and_cut_conversions_stay() {
        assert_eq!(at(0, "%Q %-Q %é 100%"), "%Q %-Q %é 100%");
        assert_eq!(at(0, "%-H%-"), "0%-");
    }
}
