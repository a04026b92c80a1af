//! Amounts of money and quantities of goods, as integers.

use std::{fmt, num::ParseIntError, str::FromStr};

/// Greatest amount: 2^53 - 1, which every JSON reader represents exactly.
pub const AMOUNT_MAX: u64 = (1 << 53) - 1;

/// Why a number is not an amount. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a plain decimal integer: empty, or with a sign, blank, point, exponent or letter.
    #[error("must be a plain decimal integer")]
    NotAnInteger,
    /// Above [`AMOUNT_MAX`].
    #[error("must be at most {AMOUNT_MAX}")]
    TooLarge,
}

/// Parses a plain decimal integer of at most [`AMOUNT_MAX`].
///
/// # Errors
/// [`AmountError`]; a retry does not help.
fn parse(text: &str) -> Result<u64, AmountError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AmountError::NotAnInteger);
    }
    let value: u64 = text.parse().map_err(|_: ParseIntError| AmountError::TooLarge)?;
    if value > AMOUNT_MAX { Err(AmountError::TooLarge) } else { Ok(value) }
}

/// The common interface of money and quantities, for code that treats both alike.
pub trait Amount: Copy + Ord + Default + fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The amount as a plain number.
    fn number(self) -> u64;
    /// The sum; none if it exceeds [`AMOUNT_MAX`].
    #[must_use]
    fn plus(self, other: Self) -> Option<Self>;
    /// The difference; none if it is below zero.
    #[must_use]
    fn minus(self, other: Self) -> Option<Self>;
}

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0);

            /// Makes an amount of a number of at most [`AMOUNT_MAX`].
            ///
            /// # Errors
            /// [`AmountError::TooLarge`]; a retry does not help.
            pub const fn new(value: u64) -> Result<Self, AmountError> {
                if value > AMOUNT_MAX { Err(AmountError::TooLarge) } else { Ok(Self(value)) }
            }

            /// The amount as a plain number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The sum; none if it exceeds [`AMOUNT_MAX`].
            #[must_use]
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).and_then(|sum| Self::new(sum).ok())
            }

            /// The difference; none if it is below zero.
            #[must_use]
            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).map(Self)
            }

            /// The product with a plain number; none if it exceeds [`AMOUNT_MAX`].
            #[must_use]
            pub fn checked_mul(self, factor: u64) -> Option<Self> {
                self.0.checked_mul(factor).and_then(|product| Self::new(product).ok())
            }
        }

        impl Amount for $name {
            fn number(self) -> u64 {
                self.0
            }

            fn plus(self, other: Self) -> Option<Self> {
                self.checked_add(other)
            }

            fn minus(self, other: Self) -> Option<Self> {
                self.checked_sub(other)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = AmountError;

            /// Reads a plain decimal integer: no sign, blank, point or exponent.
            fn from_str(text: &str) -> Result<Self, AmountError> {
                parse(text).map(Self)
            }
        }
    };
}

amount! {
    /// Money in minor units (cents), 0 to 2^53 - 1.
    Money
}

amount! {
    /// A number of units of an item, 0 to 2^53 - 1.
    Quantity
}

impl Money {
    /// The cost of `quantity` units at this price each; none if it exceeds [`AMOUNT_MAX`].
    #[must_use]
    pub fn times(self, quantity: Quantity) -> Option<Self> {
        self.checked_mul(quantity.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_decimal_integers_within_range_parse() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("007", Ok(7)),
            ("9007199254740991", Ok(AMOUNT_MAX)),
            ("9007199254740992", Err(AmountError::TooLarge)),
            ("99999999999999999999999", Err(AmountError::TooLarge)),
            ("", Err(AmountError::NotAnInteger)),
            ("+1", Err(AmountError::NotAnInteger)),
            ("-1", Err(AmountError::NotAnInteger)),
            (" 1", Err(AmountError::NotAnInteger)),
            ("1.0", Err(AmountError::NotAnInteger)),
            ("1e3", Err(AmountError::NotAnInteger)),
            ("\u{0661}", Err(AmountError::NotAnInteger)),
        ] {
            assert_eq!(text.parse::<Money>().map(Money::get), expected, "{text:?}");
        }
    }

    #[test]
    fn arithmetic_stops_at_both_ends() {
        let max = Money::new(AMOUNT_MAX).unwrap();
        let one = Money::new(1).unwrap();
        assert_eq!(max.checked_add(one), None);
        assert_eq!(Money::ZERO.checked_sub(one), None);
        assert_eq!(max.checked_sub(max), Some(Money::ZERO));
        assert_eq!(max.times(Quantity::new(2).unwrap()), None);
        assert!(Money::new(AMOUNT_MAX + 1).is_err());
    }
}
