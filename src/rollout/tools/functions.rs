//! The calculator's functions: exact where the result is a fraction that fits, else floats.

use crate::rollout::number::Number;

/// The value, or an error that names what has none.
pub(super) fn finite(value: Option<Number>, what: &str) -> Result<Number, String> {
    value.ok_or_else(|| format!("{what} has no finite value"))
}

/// `a / b`; an error for a division by zero.
pub(super) fn divided(a: Number, b: Number) -> Result<Number, String> {
    if b.to_f64() == 0.0 {
        return Err("division by zero".to_owned());
    }
    finite(a.over(b), "the quotient")
}

/// The factorial of a whole number from 0 to 170.
pub(super) fn factorial(value: Number) -> Result<Number, String> {
    let n = value.as_whole().filter(|n| (0..=170).contains(n));
    let n = n.ok_or("a factorial needs a whole number from 0 to 170")?;
    finite((1..=n).try_fold(Number::whole(1), |product, i| product.times(Number::whole(i))), "the factorial")
}

/// A function of the calculator by name; trigonometry is in radians, `log` with one argument is natural.
pub(super) fn call(name: &str, arguments: &[Number]) -> Result<Number, String> {
    let real = |f: fn(f64) -> f64, x: Number| finite(Number::real(f(x.to_f64())), &format!("`{name}`"));
    match (name, arguments) {
        ("abs", [x]) => Ok(if x.to_f64() < 0.0 { x.negated() } else { *x }),
        ("floor", [x]) => finite(x.floor(), "`floor`"),
        ("ceil", [x]) => finite(x.negated().floor().map(Number::negated), "`ceil`"),
        ("int", [x]) if x.to_f64() < 0.0 => finite(x.negated().floor().map(Number::negated), "`int`"),
        ("int", [x]) => finite(x.floor(), "`int`"),
        ("float", [x]) => Ok(*x),
        ("round", [x]) => round(*x, 0),
        ("round", [x, digits]) => round(*x, digits.as_whole().ok_or("`round` needs whole digits")?),
        ("sqrt", [x]) => root(*x),
        ("pow", [x, y]) => finite(x.power(*y), "`pow`"),
        ("factorial", [x]) => factorial(*x),
        ("exp", [x]) => real(f64::exp, *x),
        ("ln" | "log", [x]) => real(f64::ln, *x),
        ("log", [x, base]) => finite(Number::real(x.to_f64().log(base.to_f64())), "`log`"),
        ("log2", [x]) => real(f64::log2, *x),
        ("log10", [x]) => real(f64::log10, *x),
        ("sin", [x]) => real(f64::sin, *x),
        ("cos", [x]) => real(f64::cos, *x),
        ("tan", [x]) => real(f64::tan, *x),
        ("asin", [x]) => real(f64::asin, *x),
        ("acos", [x]) => real(f64::acos, *x),
        ("atan", [x]) => real(f64::atan, *x),
        ("radians", [x]) => real(f64::to_radians, *x),
        ("degrees", [x]) => real(f64::to_degrees, *x),
        ("min", [first, rest @ ..]) => {
            Ok(rest.iter().fold(*first, |a, b| if b.order(a).is_lt() { *b } else { a }))
        }
        ("max", [first, rest @ ..]) => {
            Ok(rest.iter().fold(*first, |a, b| if b.order(a).is_gt() { *b } else { a }))
        }
        ("sum", numbers) => finite(numbers.iter().try_fold(Number::whole(0), |a, b| a.plus(*b)), "`sum`"),
        _ => Err(format!("`{name}` is unknown or takes another number of arguments")),
    }
}

/// Rounds half away from zero, as people do (Python rounds half to even).
fn round(x: Number, digits: i128) -> Result<Number, String> {
    let digits =
        i32::try_from(digits).ok().filter(|d| d.abs() <= 30).ok_or("`round` takes up to 30 digits")?;
    let scale = finite(Number::whole(10).power(Number::whole(i128::from(digits))), "`round`")?;
    let size = if x.to_f64() < 0.0 { x.negated() } else { x };
    let half = finite(Number::whole(1).over(Number::whole(2)), "`round`")?;
    let whole = size.times(scale).and_then(|y| y.plus(half)).and_then(Number::floor);
    let rounded = finite(whole.and_then(|y| y.over(scale)), "`round`")?;
    Ok(if x.to_f64() < 0.0 { rounded.negated() } else { rounded })
}

/// Exact for squares of fractions.
fn root(x: Number) -> Result<Number, String> {
    if let Number::Exact(a, b) = x
        && a >= 0
    {
        let (top, bottom) = (a.isqrt(), b.isqrt());
        if top * top == a && bottom * bottom == b {
            return finite(Number::whole(top).over(Number::whole(bottom)), "`sqrt`");
        }
    }
    finite(Number::real(x.to_f64().sqrt()), "`sqrt`")
}
