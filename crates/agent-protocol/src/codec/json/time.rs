//! Points in time as RFC 3339 text, in UTC.
//!
//! The calendar is counted in years that begin in March, so that a leap day
//! is the last day of its year, and in eras of 400 years, after which the
//! Gregorian calendar repeats.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;

/// The last second of the year 9999, after which RFC 3339 has no more years.
const LAST_SECOND: u64 = 253_402_300_799;

/// Appends the time without quotes, with as many digits of the second's
/// fraction as it has: none, three, six or nine. Times that cannot be written
/// become the nearest that can.
pub(super) fn write(out: &mut Vec<u8>, time: SystemTime) {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let since_epoch = since_epoch.min(Duration::from_secs(LAST_SECOND));
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date_of((seconds / SECONDS_PER_DAY) as i64);
    let second_of_day = seconds % SECONDS_PER_DAY;
    digits(out, year as u64, 4);
    for (separator, value) in [
        (b'-', month),
        (b'-', day),
        (b'T', second_of_day / 3600),
        (b':', second_of_day / 60 % 60),
        (b':', second_of_day % 60),
    ] {
        out.push(separator);
        digits(out, value, 2);
    }
    fraction(out, since_epoch.subsec_nanos());
    out.push(b'Z');
}

fn fraction(out: &mut Vec<u8>, nanoseconds: u32) {
    let (value, width) = match nanoseconds {
        0 => return,
        n if n.is_multiple_of(1_000_000) => (n / 1_000_000, 3),
        n if n.is_multiple_of(1_000) => (n / 1_000, 6),
        n => (n, 9),
    };
    out.push(b'.');
    digits(out, value.into(), width);
}

fn digits(out: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
    }
}

/// Reads a time with any offset; `None` when it is not one.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let mut rest = text.as_bytes();
    let year = number(&mut rest, 4)?;
    let month = after(&mut rest, b"-").and_then(|()| number(&mut rest, 2))?;
    let day = after(&mut rest, b"-").and_then(|()| number(&mut rest, 2))?;
    let hour = after(&mut rest, b"Tt ").and_then(|()| number(&mut rest, 2))?;
    let minute = after(&mut rest, b":").and_then(|()| number(&mut rest, 2))?;
    let second = after(&mut rest, b":").and_then(|()| number(&mut rest, 2))?;
    let nanoseconds = if rest.first() == Some(&b'.') {
        read_fraction(&mut rest)?
    } else {
        0
    };
    let offset_seconds = read_offset(rest)?;
    // 60 is a leap second, which this calendar does not know: the next one.
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_to(year, month, day)?;
    let seconds = days * SECONDS_PER_DAY as i64 + hour * 3600 + minute * 60 + second;
    let seconds = seconds - offset_seconds;
    let whole = if seconds < 0 {
        UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs()))?
    } else {
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds.unsigned_abs()))?
    };
    whole.checked_add(Duration::from_nanos(nanoseconds))
}

fn number(rest: &mut &[u8], width: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(width)?;
    *rest = tail;
    head.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn after(rest: &mut &[u8], one_of: &[u8]) -> Option<()> {
    let (head, tail) = rest.split_first()?;
    *rest = tail;
    one_of.contains(head).then_some(())
}

fn read_fraction(rest: &mut &[u8]) -> Option<u64> {
    let after_point = &rest[1..];
    let length = after_point
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    *rest = &after_point[length..];
    // What is finer than a nanosecond is cut off.
    let known = &after_point[..length.min(9)];
    let value = known
        .iter()
        .fold(0, |value, byte| value * 10 + u64::from(byte - b'0'));
    (length > 0).then(|| value * 10_u64.pow(9 - known.len() as u32))
}

fn read_offset(mut rest: &[u8]) -> Option<i64> {
    let sign = match rest.split_first()? {
        (b'Z' | b'z', []) => return Some(0),
        (b'+', tail) => {
            rest = tail;
            1
        }
        (b'-', tail) => {
            rest = tail;
            -1
        }
        _ => return None,
    };
    let hours = number(&mut rest, 2)?;
    let minutes = after(&mut rest, b":").and_then(|()| number(&mut rest, 2))?;
    let valid = rest.is_empty() && hours < 24 && minutes < 60;
    valid.then_some(sign * (hours * 3600 + minutes * 60))
}

// Year, month and day of a day counted from 1970-01-01.
fn date_of(day_since_epoch: i64) -> (i64, u64, u64) {
    let days = day_since_epoch + DAYS_TO_EPOCH;
    let (era, day_of_era) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    // The leap days before this day within the era are taken out first.
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March have 153 days, again and again.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u64, day as u64)
}

// The day counted from 1970-01-01; `None` when the month has no such day.
fn days_to(year: i64, month: i64, day: i64) -> Option<i64> {
    let year_from_march = year - i64::from(month <= 2);
    let (era, year_of_era) = (
        year_from_march.div_euclid(400),
        year_from_march.rem_euclid(400),
    );
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * DAYS_PER_ERA + day_of_era - DAYS_TO_EPOCH;
    (date_of(days) == (year, month as u64, day as u64)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(time: SystemTime) -> String {
        let mut out = Vec::new();
        write(&mut out, time);
        String::from_utf8(out).unwrap()
    }

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    #[test]
    fn known_times() {
        let table = [
            (at(0, 0), "1970-01-01T00:00:00Z"),
            (at(951_782_400, 0), "2000-02-29T00:00:00Z"),
            (at(1_782_907_200, 0), "2026-07-01T12:00:00Z"),
            (at(1_782_907_200, 5_000_000), "2026-07-01T12:00:00.005Z"),
            (at(1_782_907_200, 5_000), "2026-07-01T12:00:00.000005Z"),
            (
                at(1_782_907_200, 123_456_789),
                "2026-07-01T12:00:00.123456789Z",
            ),
            (at(4_107_542_399, 0), "2100-02-28T23:59:59Z"),
            (at(4_107_542_400, 0), "2100-03-01T00:00:00Z"),
            (at(LAST_SECOND, 0), "9999-12-31T23:59:59Z"),
        ];
        for (time, expected) in table {
            assert_eq!(text(time), expected);
            assert_eq!(parse(expected), Some(time), "{expected}");
        }
    }

    #[test]
    fn other_spellings_of_a_time() {
        let noon = at(1_782_907_200, 0);
        let table = [
            ("2026-07-01T14:00:00+02:00", Some(noon)),
            ("2026-07-01t12:00:00z", Some(noon)),
            ("2026-07-01 06:30:00-05:30", Some(noon)),
            (
                "2026-07-01T12:00:00.1234567891Z",
                Some(at(1_782_907_200, 123_456_789)),
            ),
            ("2026-07-01T11:59:60Z", Some(noon)),
            (
                "1969-12-31T23:59:59.5Z",
                UNIX_EPOCH.checked_sub(Duration::from_millis(500)),
            ),
            ("", None),
            ("2026-07-01", None),
            ("2026-07-01T12:00:00", None),
            ("2026-02-29T12:00:00Z", None),
            ("2026-00-01T12:00:00Z", None),
            ("2026-13-01T12:00:00Z", None),
            ("2026-01-00T12:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T12:00:00.Z", None),
            ("2026-01-01T12:00:00Zjunk", None),
            ("2026-01-01T12:00:00+0200", None),
            ("２026-01-01T12:00:00Z", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn times_out_of_range_become_the_nearest() {
        let table = [
            ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59Z"),
            ("0000-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ];
        for (given, expected) in table {
            assert_eq!(text(parse(given).unwrap()), expected);
        }
    }

    #[test]
    fn every_day_of_an_era_comes_back() {
        for day in (0..DAYS_PER_ERA).step_by(7) {
            let (year, month, of_month) = date_of(day);
            assert_eq!(days_to(year, month as i64, of_month as i64), Some(day));
        }
    }
}
