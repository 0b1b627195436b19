//! Points in time: seconds since 1970-01-01T00:00:00Z, with their RFC 3339 text.
//!
//! Deliberately without a way to ask for the current time: callers pass it in.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, SystemTimeError};

const SECONDS_PER_DAY: u64 = 86_400;

/// A point in time with a resolution of one second, 1970 or later.
///
/// Its text form is RFC 3339 in UTC without fractions: `2024-12-13T07:37:58Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// `seconds` since 1970-01-01T00:00:00Z, leap seconds not counted.
    pub const fn from_secs(seconds: u64) -> Self {
        UnixTime(seconds)
    }

    /// The second that `millis`, milliseconds since 1970-01-01T00:00:00Z, falls into.
    pub const fn from_millis(millis: u64) -> Self {
        UnixTime(millis / 1000)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    pub(crate) fn to_pki(self) -> rustls_pki_types::UnixTime {
        rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.0))
    }

    pub(crate) fn from_pki(time: rustls_pki_types::UnixTime) -> Self {
        UnixTime(time.as_secs())
    }
}

impl TryFrom<SystemTime> for UnixTime {
    type Error = SystemTimeError;

    /// Fails for times before 1970.
    fn try_from(time: SystemTime) -> Result<Self, SystemTimeError> {
        Ok(UnixTime(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs()))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / SECONDS_PER_DAY);
        let second = self.0 % SECONDS_PER_DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for UnixTime {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        parse(text).ok_or_else(|| ParseTimeError { found: text.to_owned() })
    }
}

/// A text that is not a point in time in the form this crate reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a time in UTC such as 2024-12-13T07:37:58Z (1970 to 9999), found {found:?}")]
pub struct ParseTimeError {
    /// The text given.
    pub found: String,
}

fn parse(text: &str) -> Option<UnixTime> {
    let (date, time) = text.strip_suffix(['Z', 'z'])?.split_once(['T', 't'])?;
    let [year, month, day] = three_numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = three_numbers(time, ':', [2, 2, 2])?;
    let in_range = year >= 1970
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = in_range.then(|| days_from_civil(year, month, day))?;
    Some(UnixTime(days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second))
}

fn three_numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        let well_formed = part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        *number = well_formed.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the date, which must exist and not lie before it.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let leap_years_before = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let years = (year - 1970) * 365 + leap_years_before(year) - leap_years_before(1970);
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    years + months + day - 1
}

/// The date that lies `days` after 1970-01-01, as year, month and day.
///
/// Counts in years that begin in March, so that the leap day is the last of its year, and in eras of 400 years,
/// which all have the same length: no loop, since a document's timestamp may lie in any year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_FROM_MARCH_0000_TO_1970: u64 = 719_468;

    let days = days + DAYS_FROM_MARCH_0000_TO_1970;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) =
        if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
    (era * 400 + year_of_era + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_have_their_known_text() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_734_075_478, "2024-12-13T07:37:58Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixTime(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(UnixTime(seconds)));
        }
    }

    #[test]
    fn refuses_dates_that_do_not_exist_and_other_forms() {
        for text in [
            "",
            "2024-12-13",
            "2024-12-13T07:37:58",
            "2024-12-13T07:37:58+01:00",
            "2023-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "2024-1-01T00:00:00Z",
            "2024-01-01T00:00:+1Z",
            "2024-01-01T00:00:00:00Z",
        ] {
            assert!(text.parse::<UnixTime>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_representable_second_has_a_text() {
        assert_eq!(UnixTime(u64::MAX).to_string(), "584554051223-11-09T07:00:15Z");
    }

    proptest! {
        #[test]
        fn text_round_trips(seconds in 0..=253_402_300_799_u64) {
            prop_assert_eq!(UnixTime(seconds).to_string().parse(), Ok(UnixTime(seconds)));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in ".{0,40}") {
            let _ = text.parse::<UnixTime>();
        }
    }
}
