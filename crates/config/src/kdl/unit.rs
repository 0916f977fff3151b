//! Quantities with units: durations and sizes, as text.

use crate::{
    diagnostic::list,
    model::{ByteSize, Share},
};
use std::time::Duration;

/// Why a text is not a quantity, and what to do about it.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: String,
}

/// A unit and how many of the smallest unit it is.
type Unit = (&'static str, u64);

const DURATION_UNITS: &[Unit] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: &[Unit] = &[
    ("B", 1),
    ("KB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// What people write elsewhere, without a plural `s`, and what it is here.
const ALIASES: &[(&str, &str)] = &[
    ("msec", "ms"),
    ("milli", "ms"),
    ("sec", "s"),
    ("second", "s"),
    ("min", "m"),
    ("minute", "m"),
    ("hour", "h"),
    ("k", "KiB"),
    ("m", "MiB"),
    ("g", "GiB"),
];

/// `250ms`, `10s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    quantity(text, DURATION_UNITS, "10s").map(Duration::from_millis)
}

/// `64KiB`, `10MB`, `512B`.
pub(super) fn size(text: &str) -> Result<ByteSize, Wrong> {
    quantity(text, SIZE_UNITS, "64KiB").map(ByteSize)
}

fn quantity(text: &str, units: &[Unit], such_as: &str) -> Result<u64, Wrong> {
    let wrong = |message: &str, help: String| {
        Err(Wrong {
            message: message.to_owned(),
            help,
        })
    };
    let names = || units.iter().map(|(name, _)| *name);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return wrong(
            "it does not begin with a digit",
            format!("write a whole number and its unit, such as \"{such_as}\""),
        );
    }
    if unit.starts_with(['.', ',']) {
        return wrong(
            "fractions are not allowed",
            "write a whole number of a smaller unit".to_owned(),
        );
    }
    if unit.is_empty() {
        return wrong(
            "it has no unit",
            format!("add {}, such as \"{such_as}\"", list(names(), "or")),
        );
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let unit_lower = unit.trim().to_ascii_lowercase();
        let meant = ALIASES
            .iter()
            .filter(|(alias, _)| *alias == unit_lower.trim_end_matches('s'))
            .map(|(_, name)| *name);
        let help = names()
            .find(|name| name.eq_ignore_ascii_case(&unit_lower))
            .or_else(|| {
                meant
                    .into_iter()
                    .find(|meant| names().any(|name| name == *meant))
            })
            .map_or_else(
                || format!("the units are {}", list(names(), "and")),
                |name| format!("write \"{number}{name}\""),
            );
        return wrong(&format!("there is no unit `{unit}`"), help);
    };
    let total = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor));
    total.map_or_else(
        || wrong("it is too large", "write a smaller number".to_owned()),
        Ok,
    )
}

/// `100/s`, `6000/m`, `10/h`: how many, and in which time.
pub(super) fn rate(text: &str) -> Result<(u32, Duration), Wrong> {
    let wrong = |message: &str, help: &str| {
        Err(Wrong {
            message: message.to_owned(),
            help: help.to_owned(),
        })
    };
    let such_as = "write a whole number, a slash and `s`, `m` or `h`, such as \"100/s\"";
    let Some((number, unit)) = text.split_once('/') else {
        return wrong("it has no `/` and a unit of time", such_as);
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong("it does not begin with a whole number", such_as);
    }
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return wrong(&format!("there is no unit `{unit}`"), such_as),
    };
    match number.parse() {
        Ok(number) => Ok((number, Duration::from_secs(seconds))),
        Err(_) => wrong("it is too large", "write a smaller number"),
    }
}

/// `5%`, `0.25%`.
pub(super) fn share(text: &str) -> Result<Share, Wrong> {
    let wrong = |message: &str| {
        Err(Wrong {
            message: message.to_owned(),
            help: "write percent with at most two digits behind the point, such as \"5%\" or \"0.25%\""
                .to_owned(),
        })
    };
    let Some(number) = text.strip_suffix('%') else {
        return wrong("it does not end with `%`");
    };
    let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str, most: usize| {
        (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !digits(whole, 3) || !digits(rest, 2) {
        return wrong("it is not a number of percent");
    }
    let parsed = format!("{whole}{rest:0<2}").parse::<u16>();
    match parsed {
        Ok(hundredths) if hundredths <= Share::WHOLE => Ok(Share::of_hundredths(hundredths)),
        _ => wrong("it is more than 100%"),
    }
}

/// The largest unit that divides the duration without rest.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let (name, factor) = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| ms.is_multiple_of(u128::from(*factor)))
        .unwrap_or(&("ms", 1));
    format!("{}{name}", ms / u128::from(*factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(size(text), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn rates_are_read() {
        for (text, read) in [
            ("100/s", Some((100, 1))),
            ("6000/m", Some((6000, 60))),
            ("10/h", Some((10, 3600))),
            ("100", None),
            ("/s", None),
            ("100/", None),
            ("100/d", None),
            ("100 /s", None),
            ("-1/s", None),
            ("1.5/s", None),
            ("99999999999/s", None),
        ] {
            let read = read.map(|(number, seconds)| (number, Duration::from_secs(seconds)));
            assert_eq!(rate(text).ok(), read, "{text}");
        }
    }

    #[test]
    fn shares_are_read() {
        for (text, hundredths) in [
            ("0%", Some(0)),
            ("5%", Some(500)),
            ("0.5%", Some(50)),
            ("0.05%", Some(5)),
            ("12.34%", Some(1234)),
            ("100%", Some(10_000)),
            ("100.01%", None),
            ("101%", None),
            ("5", None),
            ("%", None),
            (".5%", None),
            ("5.%", None),
            ("0.005%", None),
            ("-5%", None),
            ("+5%", None),
            ("5 %", None),
        ] {
            let read = share(text).ok().map(Share::hundredths);
            assert_eq!(read, hundredths, "{text}");
        }
    }

    #[test]
    fn wrong_quantities_say_what_to_write() {
        for (text, message, help) in [
            (
                "10",
                "it has no unit",
                "add `ms`, `s`, `m` or `h`, such as \"10s\"",
            ),
            ("10 s", "there is no unit ` s`", "write \"10s\""),
            ("10S", "there is no unit `S`", "write \"10s\""),
            ("10secs", "there is no unit `secs`", "write \"10s\""),
            (
                "10d",
                "there is no unit `d`",
                "the units are `ms`, `s`, `m` and `h`",
            ),
            (
                "1.5s",
                "fractions are not allowed",
                "write a whole number of a smaller unit",
            ),
            (
                "-1s",
                "it does not begin with a digit",
                "write a whole number and its unit, such as \"10s\"",
            ),
            (
                "",
                "it does not begin with a digit",
                "write a whole number and its unit, such as \"10s\"",
            ),
            (
                "99999999999999999999h",
                "it is too large",
                "write a smaller number",
            ),
        ] {
            let wrong = Wrong {
                message: message.to_owned(),
                help: help.to_owned(),
            };
            assert_eq!(duration(text), Err(wrong), "{text}");
        }
        assert_eq!(
            size("64K").map_err(|wrong| wrong.help),
            Err("write \"64KiB\"".to_owned())
        );
        assert_eq!(
            size("64kib").map_err(|wrong| wrong.help),
            Err("write \"64KiB\"".to_owned())
        );
    }
}
