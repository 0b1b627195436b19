//! The signal that asks a service to end: the forms in which images and people write it, and the one that is measured.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The names of the signals 1 to 31 on Linux, without `SIG`.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of `SIGRTMIN`: the first real-time signal that C libraries leave to programs, as container engines count.
const RTMIN: u8 = 34;

/// The number of `SIGRTMAX`.
const RTMAX: u8 = 64;

/// What may be written, for error messages.
const ALLOWED: &str =
    "allowed: a signal's name, \"SIGQUIT\" or \"QUIT\", \"SIGRTMIN+3\", or its number, \"3\"";

/// A signal of Linux that a program may send: 1 to 31 and 34 to 64.
///
/// Measured as its name: `SIGTERM`, or `SIGRTMIN` and `SIGRTMIN+1` to `SIGRTMIN+30`. Read from text in every form that
/// images have: with and without `SIG`, in either case, as a number, and counted from `RTMAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(u8);

impl StopSignal {
    /// What cannot be refused.
    pub const KILL: Self = Self(9);

    /// What every program gets unless something else is said.
    pub const TERM: Self = Self(15);

    /// Its number on Linux: 1 to 31, or 34 to 64.
    pub fn number(self) -> u8 {
        self.0
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::TERM
    }

    fn from_number(number: u8) -> Option<Self> {
        matches!(number, 1..=31 | RTMIN..=RTMAX).then_some(Self(number))
    }

    fn from_name(name: &str) -> Option<Self> {
        if let Some(up) = name.strip_prefix("RTMIN") {
            return Self::from_number(RTMIN.checked_add(distance(up, '+')?)?);
        }
        if let Some(down) = name.strip_prefix("RTMAX") {
            return Self::from_number(RTMAX.checked_sub(distance(down, '-')?)?);
        }
        let name = match name {
            "IOT" => "ABRT",
            "CLD" => "CHLD",
            "POLL" => "IO",
            "UNUSED" => "SYS",
            other => other,
        };
        let index = NAMES.iter().position(|known| *known == name)?;
        u8::try_from(index).ok().and_then(|index| index.checked_add(1)).map(Self)
    }
}

/// The number in `+3`, or 0 in nothing.
fn distance(text: &str, sign: char) -> Option<u8> {
    if text.is_empty() { Some(0) } else { decimal(text.strip_prefix(sign)?) }
}

/// Digits and nothing else: no sign.
fn decimal(text: &str) -> Option<u8> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

impl Default for StopSignal {
    fn default() -> Self {
        Self::TERM
    }
}

impl FromStr for StopSignal {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(number) = decimal(text) {
            return Self::from_number(number).ok_or(ALLOWED);
        }
        let upper = text.to_ascii_uppercase();
        Self::from_name(upper.strip_prefix("SIG").unwrap_or(&upper)).ok_or(ALLOWED)
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_sub(RTMIN) {
            Some(0) => f.write_str("SIGRTMIN"),
            Some(above) => write!(f, "SIGRTMIN+{above}"),
            None => {
                let index = usize::from(self.0).wrapping_sub(1);
                write!(f, "SIG{}", NAMES.get(index).expect("a signal below 32 has a name"))
            }
        }
    }
}

impl Serialize for StopSignal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StopSignal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_that_images_have_means_one_signal() {
        let cases = [
            (3, "SIGQUIT", ["SIGQUIT", "QUIT", "3", "sigquit"]),
            (15, "SIGTERM", ["SIGTERM", "term", "15", "015"]),
            (6, "SIGABRT", ["SIGIOT", "ABRT", "6", "IOT"]),
            (34, "SIGRTMIN", ["RTMIN", "SIGRTMIN+0", "34", "RTMAX-30"]),
            (37, "SIGRTMIN+3", ["SIGRTMIN+3", "RTMIN+3", "37", "SIGRTMAX-27"]),
            (64, "SIGRTMIN+30", ["SIGRTMAX", "RTMIN+30", "64", "RTMAX-0"]),
        ];
        for (number, canonical, forms) in cases {
            for form in forms {
                let signal: StopSignal = form.parse().unwrap();
                assert_eq!((signal.number(), signal.to_string().as_str()), (number, canonical), "{form}");
            }
        }
    }

    #[test]
    fn what_is_no_signal_of_a_program_is_refused() {
        for text in [
            "", "0", "32", "33", "65", "999", "-9", "+9", "SIG", "SIGFOO", "RTMIN+31", "RTMIN+", "RTMIN3",
            " 9",
        ] {
            assert!(text.parse::<StopSignal>().unwrap_err().contains("allowed"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_name_is_read_back(number in 0_u8..=255) {
            if let Some(signal) = StopSignal::from_number(number) {
                prop_assert_eq!(signal.to_string().parse(), Ok(signal));
                prop_assert_eq!(number.to_string().parse(), Ok(signal));
            } else {
                prop_assert!(number.to_string().parse::<StopSignal>().is_err());
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(SIG)?(RTM(IN|AX))?\\PC{0,8}") {
            let _ = text.parse::<StopSignal>();
        }
    }
}
