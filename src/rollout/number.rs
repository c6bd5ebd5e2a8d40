//! Numbers as people write them, exact while they fit: fractions of 128-bit integers, else `f64`.
//!
//! So 0.1 + 0.2 is 0.3, and 1/3 * 3 is 1. For the calculator tool and for comparing final answers.

use std::cmp::Ordering;
use std::fmt;

/// A fraction in lowest terms, or a float where exactness ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Numerator and positive denominator, without a common divisor.
    Exact(i128, i128),
    /// A finite float.
    Real(f64),
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Number {
    /// An exact number without a fraction.
    pub fn whole(value: i128) -> Self {
        Self::Exact(value, 1)
    }

    /// `a / b` in lowest terms; `None` where it does not fit or `b` is 0.
    fn ratio(a: i128, b: i128) -> Option<Self> {
        if b == 0 || a == i128::MIN || b == i128::MIN {
            return None;
        }
        let divisor = gcd(a.unsigned_abs(), b.unsigned_abs()).max(1) as i128;
        let sign = b.signum();
        Some(Self::Exact(sign * a / divisor, sign * b / divisor))
    }

    /// `12`, `0.5`, `.5`, `1e-3`: digits with at most one point and an exponent, no sign.
    pub fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.chars().chain(part.chars());
        if digits().next().is_none() || !digits().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let exact = || {
            let value = format!("{whole}{part}").parse::<i128>().ok()?;
            let scale = exponent.checked_sub(i32::try_from(part.len()).ok()?)?;
            let power = 10i128.checked_pow(scale.unsigned_abs())?;
            if scale >= 0 { value.checked_mul(power).map(Self::whole) } else { Self::ratio(value, power) }
        };
        exact().or_else(|| Self::real(text.parse().ok()?))
    }

    /// A float, where it is finite.
    pub fn real(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self::Real(value))
    }

    /// The nearest `f64`.
    pub fn to_f64(self) -> f64 {
        match self {
            Self::Exact(a, b) => a as f64 / b as f64,
            Self::Real(x) => x,
        }
    }

    /// The whole number it is, if it is one and exact.
    pub fn as_whole(self) -> Option<i128> {
        match self {
            Self::Exact(a, 1) => Some(a),
            _ => None,
        }
    }

    fn both(
        self,
        other: Self,
        exact: impl Fn(i128, i128, i128, i128) -> Option<Self>,
        real: impl Fn(f64, f64) -> f64,
    ) -> Option<Self> {
        if let (Self::Exact(a, b), Self::Exact(c, d)) = (self, other)
            && let Some(value) = exact(a, b, c, d)
        {
            return Some(value);
        }
        Self::real(real(self.to_f64(), other.to_f64()))
    }

    /// The sum; `None` where it is not finite.
    pub fn plus(self, other: Self) -> Option<Self> {
        let exact = |a: i128, b: i128, c: i128, d: i128| {
            Self::ratio(a.checked_mul(d)?.checked_add(c.checked_mul(b)?)?, b.checked_mul(d)?)
        };
        self.both(other, exact, |x, y| x + y)
    }

    /// The number with its sign changed; exact stays exact.
    pub fn negated(self) -> Self {
        match self {
            Self::Exact(a, b) => Self::Exact(-a, b),
            Self::Real(x) => Self::Real(-x),
        }
    }

    /// The difference.
    pub fn minus(self, other: Self) -> Option<Self> {
        self.plus(other.negated())
    }

    /// The product.
    pub fn times(self, other: Self) -> Option<Self> {
        let exact = |a: i128, b: i128, c: i128, d: i128| Self::ratio(a.checked_mul(c)?, b.checked_mul(d)?);
        self.both(other, exact, |x, y| x * y)
    }

    /// The quotient; `None` also for a division by zero.
    pub fn over(self, other: Self) -> Option<Self> {
        if other.to_f64() == 0.0 {
            return None;
        }
        let exact = |a: i128, b: i128, c: i128, d: i128| Self::ratio(a.checked_mul(d)?, b.checked_mul(c)?);
        self.both(other, exact, |x, y| x / y)
    }

    /// The largest whole number that is not above.
    pub fn floor(self) -> Option<Self> {
        match self {
            Self::Exact(a, b) => Some(Self::whole(a.div_euclid(b))),
            Self::Real(x) => Self::real(x.floor()),
        }
    }

    /// The power; exact for whole exponents while it fits.
    pub fn power(self, exponent: Self) -> Option<Self> {
        let exact = |a: i128, b: i128, c: i128, d: i128| {
            if d != 1 {
                return None;
            }
            let n = u32::try_from(c.unsigned_abs()).ok()?;
            let (top, bottom) = (a.checked_pow(n)?, b.checked_pow(n)?);
            if c >= 0 { Self::ratio(top, bottom) } else { Self::ratio(bottom, top) }
        };
        self.both(exponent, exact, f64::powf)
    }

    /// Order; `None` never occurs, floats being finite.
    pub fn order(self, other: Self) -> Ordering {
        let exact = match (self, other) {
            (Self::Exact(a, b), Self::Exact(c, d)) => {
                a.checked_mul(d).zip(c.checked_mul(b)).map(|(x, y)| x.cmp(&y))
            }
            _ => None,
        };
        exact.unwrap_or_else(|| self.to_f64().total_cmp(&other.to_f64()))
    }

    /// Whether both are the same up to a relative difference (absolute below 1).
    pub fn near(self, other: Self, tolerance: f64) -> bool {
        let (a, b) = (self.to_f64(), other.to_f64());
        self.order(other) == Ordering::Equal || (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exact(a, 1) => write!(f, "{a}"),
            Self::Exact(a, b) => match decimals(b).and_then(|n| Some((n, 10i128.checked_pow(n)?))) {
                // A denominator of twos and fives ends: write all its digits.
                Some((n, power)) if a.checked_mul(power / b).is_some() => {
                    let digits = (a * (power / b)).unsigned_abs();
                    let (whole, part) = (digits / power.unsigned_abs(), digits % power.unsigned_abs());
                    let sign = if a < 0 { "-" } else { "" };
                    write!(f, "{sign}{whole}.{part:0width$}", width = n as usize)
                }
                _ => write!(f, "{}", self.to_f64()),
            },
            Self::Real(x) if x.abs() >= 1e16 || (x != 0.0 && x.abs() < 1e-5) => write!(f, "{x:e}"),
            Self::Real(x) => write!(f, "{x}"),
        }
    }
}

/// Digits after the point of `1/b`, where they end within 15.
fn decimals(b: i128) -> Option<u32> {
    (1..=15).find(|n| 10i128.pow(*n) % b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(n("0.1").plus(n("0.2")).unwrap().to_string(), "0.3");
        let third = n("1").over(n("3")).unwrap();
        assert_eq!(third.times(n("3")).unwrap().as_whole(), Some(1));
        assert_eq!(third.to_string(), "0.3333333333333333");
        assert_eq!(n("1.50").negated().to_string(), "-1.5");
        assert_eq!(n("1.05").to_string(), "1.05");
        assert_eq!(n("2").power(n("0.5")).unwrap().to_string(), "1.4142135623730951");
        assert_eq!(n("2").power(n("3").negated()).unwrap().to_string(), "0.125");
        assert_eq!(n("7").negated().over(n("2")).unwrap().floor().unwrap().to_string(), "-4");
    }

    #[test]
    fn what_does_not_fit_becomes_a_float_and_what_is_none_is_refused() {
        assert_eq!(n("10").power(n("30")).unwrap().to_string(), format!("1{}", "0".repeat(30)));
        assert!(matches!(n("10").power(n("50")), Some(Number::Real(_))));
        assert_eq!(n("1e300").times(n("1e300")), None);
        assert_eq!(n("1").over(n("0")), None);
        assert_eq!(n("0").power(n("1").negated()), None);
        for bad in ["", ".", "1.2.3", "abc", "-1", "1e", "0x10", "1 2"] {
            assert_eq!(Number::parse(bad), None, "{bad}");
        }
        assert!(n("170141183460469231731687303715884105727").plus(n("1")).is_some());
        assert!(n("0.3333333").near(n("1").over(n("3")).unwrap(), 1e-6));
        assert!(!n("3").near(n("3.1"), 1e-6));
    }
}
