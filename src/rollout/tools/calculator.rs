//! The calculator: a grammar of its own, exact numbers, nothing is ever evaluated as code.
//!
//! ```text
//! sum     = product (("+" | "-") product)*
//! product = unary (("*" | "/" | "//" | "%") unary)*
//! unary   = ("+" | "-") unary | power
//! power   = atom (("^" | "**") unary)?
//! atom    = number | name | name "(" sum ("," sum)* ")" | "(" sum ")", each with "!" or (unless a value follows) "%"
//! ```
//! As in Python, `%` between values is the remainder and `//` rounds down; `20% - 3` takes a percentage, as people write it. Next: `functions`,
//! `rollout::number`.

use super::functions::{call, divided, factorial, finite};
use crate::rollout::number::Number;

/// Deeper nesting is refused: the parser calls itself.
const MAX_DEPTH: usize = 64;
/// Longer expressions are refused.
const MAX_BYTES: usize = 4096;

/// The value of an expression.
///
/// # Errors
/// What is wrong with it, in words that a model can use.
pub fn evaluate(text: &str) -> Result<Number, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the expression is longer than {MAX_BYTES} bytes"));
    }
    let chars: Vec<char> = text.chars().map(plain).collect();
    let mut parser = Parser { chars: &chars, at: 0, depth: 0 };
    let value = parser.sum()?;
    // A model writes `2 + 2 =` as people do.
    parser.take("=");
    match parser.peek() {
        None => Ok(value),
        Some(c) => Err(format!("unexpected `{c}` at character {}", parser.at + 1)),
    }
}

/// The typographic signs of sums as ASCII.
fn plain(c: char) -> char {
    match c {
        '×' | '·' | '∙' | '＊' => '*',
        '÷' | '∕' | '／' => '/',
        '−' | '–' | '－' => '-',
        '＋' => '+',
        '（' => '(',
        '）' => ')',
        '，' => ',',
        '＝' => '=',
        '％' => '%',
        '０'..='９' => char::from_digit(c as u32 - '０' as u32, 10).unwrap_or(c),
        _ => c,
    }
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        while self.chars.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        self.peek();
        let found = word.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c));
        if found {
            self.at += word.chars().count();
        }
        found
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("the expression is nested too deep".to_owned());
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn sum(&mut self) -> Result<Number, String> {
        self.deeper(|p| {
            let mut value = p.product()?;
            loop {
                if p.take("+") {
                    value = finite(value.plus(p.product()?), "the sum")?;
                } else if p.take("-") {
                    value = finite(value.minus(p.product()?), "the difference")?;
                } else {
                    return Ok(value);
                }
            }
        })
    }

    fn product(&mut self) -> Result<Number, String> {
        let mut value = self.unary()?;
        loop {
            if self.take("//") {
                value = finite(divided(value, self.unary()?)?.floor(), "the quotient")?;
            } else if self.take("*") {
                value = finite(value.times(self.unary()?), "the product")?;
            } else if self.take("/") {
                value = divided(value, self.unary()?)?;
            } else if self.take("%") {
                let divisor = self.unary()?;
                let whole = finite(divided(value, divisor)?.floor(), "the quotient")?;
                value = finite(whole.times(divisor).and_then(|part| value.minus(part)), "the remainder")?;
            } else {
                return Ok(value);
            }
        }
    }

    fn unary(&mut self) -> Result<Number, String> {
        self.deeper(|p| {
            if p.take("-") {
                Ok(p.unary()?.negated())
            } else if p.take("+") {
                p.unary()
            } else {
                p.power()
            }
        })
    }

    fn power(&mut self) -> Result<Number, String> {
        let base = self.atom()?;
        if self.take("**") || self.take("^") {
            let exponent = self.unary()?;
            return finite(base.power(exponent), "the power");
        }
        Ok(base)
    }

    fn atom(&mut self) -> Result<Number, String> {
        let mut value = match self.peek() {
            Some('(') => {
                self.take("(");
                let value = self.sum()?;
                self.close()?;
                value
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number()?,
            Some(c) if c.is_alphabetic() => self.name()?,
            Some(c) => return Err(format!("unexpected `{c}` at character {}", self.at + 1)),
            None => return Err("the expression ends too early".to_owned()),
        };
        loop {
            if self.take("!") {
                value = factorial(value)?;
            } else if self.percent() {
                value = finite(value.over(Number::whole(100)), "the percentage")?;
            } else {
                return Ok(value);
            }
        }
    }

    /// A `%` that no value follows is a hundredth.
    fn percent(&mut self) -> bool {
        let start = self.at;
        if self.take("%") {
            match self.peek() {
                Some(c) if c.is_alphanumeric() || c == '(' || c == '.' => {}
                _ => return true,
            }
        }
        self.at = start;
        false
    }

    fn close(&mut self) -> Result<(), String> {
        if self.take(")") { Ok(()) } else { Err(format!("`)` is missing at character {}", self.at + 1)) }
    }

    fn number(&mut self) -> Result<Number, String> {
        let start = self.at;
        let digit = |p: &Self, i: usize| p.chars.get(i).is_some_and(char::is_ascii_digit);
        while digit(self, self.at) || self.chars.get(self.at) == Some(&'.') {
            self.at += 1;
        }
        // 1,234,567: groups of three, and nothing else that looks like it.
        if self.depth_of_call() == 0 {
            while self.chars.get(self.at) == Some(&',')
                && (1..4).all(|i| digit(self, self.at + i))
                && !digit(self, self.at + 4)
            {
                self.at += 4;
            }
            while self.chars.get(self.at) == Some(&'.') || digit(self, self.at) {
                self.at += 1;
            }
        }
        if matches!(self.chars.get(self.at), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.chars.get(self.at + 1), Some('+' | '-')));
            if digit(self, self.at + 1 + sign) {
                self.at += 1 + sign;
                while digit(self, self.at) {
                    self.at += 1;
                }
            }
        }
        let text: String = self.chars[start..self.at].iter().filter(|c| **c != ',').collect();
        Number::parse(&text).ok_or_else(|| format!("`{text}` is not a number"))
    }

    /// Open calls before here: in them a comma parts arguments.
    fn depth_of_call(&self) -> usize {
        let before = &self.chars[..self.at];
        let mut open = Vec::new();
        for (i, c) in before.iter().enumerate() {
            match c {
                '(' => open.push(i > 0 && before[i - 1].is_alphanumeric()),
                ')' => {
                    open.pop();
                }
                _ => {}
            }
        }
        open.into_iter().filter(|call| *call).count()
    }

    fn name(&mut self) -> Result<Number, String> {
        let start = self.at;
        while self.chars.get(self.at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
            self.at += 1;
        }
        let name: String = self.chars[start..self.at].iter().collect::<String>().to_lowercase();
        if self.chars.get(self.at) == Some(&'.') {
            // math.sqrt(2): the module's name is ignored.
            if name == "math" || name == "np" {
                self.at += 1;
                return self.name();
            }
            return Err(format!("`{name}.` is unknown"));
        }
        if self.take("(") {
            let mut arguments = vec![self.sum()?];
            while self.take(",") {
                arguments.push(self.sum()?);
            }
            self.close()?;
            return call(&name, &arguments);
        }
        match name.as_str() {
            "pi" | "π" => Ok(Number::Real(std::f64::consts::PI)),
            "e" => Ok(Number::Real(std::f64::consts::E)),
            _ => Err(format!("`{name}` is unknown")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_as_python_computes_them() {
        for (text, value) in [
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("-2 ** 2", "-4"),
            ("2 ** -1", "0.5"),
            ("2 ^ 3 ^ 2", "512"),
            ("7 // 2", "3"),
            ("-7 // 2", "-4"),
            ("-7 % 3", "2"),
            ("0.1 + 0.2", "0.3"),
            ("10 / 4", "2.5"),
            ("1/3 + 1/6", "0.5"),
            ("2 + 2 =", "4"),
            ("16 − 3 × 4 ÷ 2", "10"),
            ("20% * 50", "10"),
            ("50 * 20%", "10"),
            ("100 % 30", "10"),
            ("20% - 3", "-2.8"),
            ("5!", "120"),
            ("1,234 + 1", "1235"),
            ("1,234.5 * 2", "2469"),
            ("max(1,234)", "234"),
            ("max(1, 2, 3) - min(4, 5)", "-1"),
            ("sqrt(9/4)", "1.5"),
            ("math.sqrt(2)", "1.4142135623730951"),
            ("round(2.675, 2)", "2.68"),
            ("round(-2.5)", "-3"),
            ("ceil(-1.5) + floor(1.5)", "0"),
            ("1e3 + 1.5E-1", "1000.15"),
            ("pow(2, 100)", "1267650600228229401496703205376"),
            ("３＋４", "7"),
        ] {
            assert_eq!(evaluate(text).unwrap().to_string(), value, "{text}");
        }
        assert!((evaluate("sin(pi/2) + ln(e)").unwrap().to_f64() - 2.0).abs() < 1e-15);
    }

    #[test]
    fn what_is_no_sum_says_why() {
        for (text, part) in [
            ("", "too early"),
            ("1 +", "too early"),
            ("1 / 0", "zero"),
            ("5 % 0", "zero"),
            ("2 3", "unexpected `3`"),
            ("(1", "missing"),
            ("x + 1", "`x` is unknown"),
            ("__import__('os')", "unexpected"),
            ("os.system(1)", "unknown"),
            ("1.2.3", "not a number"),
            ("9 ** 9 ** 9 ** 9", "finite"),
            ("sqrt(-1)", "finite"),
            ("171!", "factorial"),
            ("log(1, 2, 3)", "arguments"),
            ("round(1, 99999999999)", "digits"),
        ] {
            let fault = evaluate(text).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
        }
        assert!(evaluate(&"(".repeat(4000)).unwrap_err().contains("deep"));
        assert!(evaluate(&"-".repeat(4000)).unwrap_err().contains("deep"));
        assert!(evaluate(&"1+".repeat(4000)).unwrap_err().contains("longer"));
    }
}
