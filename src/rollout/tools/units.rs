//! Units of length, mass, time, area, volume, speed, data, energy, pressure and temperature, with exact factors.
//!
//! Factors are the international definitions (the inch is 25.4 mm, the pound 0.45359237 kg, NIST SP 811).

use crate::rollout::number::Number;

/// Names of a unit, what it measures, and how many base units it is, as a fraction.
type Unit = (&'static [&'static str], &'static str, &'static str);

const UNITS: &[Unit] = &[
    (&["m", "meter", "metre", "米", "公尺"], "length", "1"),
    (&["km", "kilometer", "kilometre", "千米", "公里"], "length", "1000"),
    (&["dm", "decimeter", "decimetre", "分米"], "length", "0.1"),
    (&["cm", "centimeter", "centimetre", "厘米"], "length", "0.01"),
    (&["mm", "millimeter", "millimetre", "毫米"], "length", "0.001"),
    (&["um", "µm", "micrometer", "micrometre", "微米"], "length", "0.000001"),
    (&["nm", "nanometer", "nanometre", "纳米"], "length", "0.000000001"),
    (&["in", "inch", "英寸"], "length", "0.0254"),
    (&["ft", "foot", "feet", "英尺"], "length", "0.3048"),
    (&["yd", "yard", "码"], "length", "0.9144"),
    (&["mi", "mile", "英里"], "length", "1609.344"),
    (&["nmi", "nautical mile", "海里"], "length", "1852"),
    (&["kg", "kilogram", "千克", "公斤"], "mass", "1"),
    (&["g", "gram", "克"], "mass", "0.001"),
    (&["mg", "milligram", "毫克"], "mass", "0.000001"),
    (&["t", "ton", "tonne", "吨"], "mass", "1000"),
    (&["lb", "lbs", "pound", "磅"], "mass", "0.45359237"),
    (&["oz", "ounce", "盎司"], "mass", "0.028349523125"),
    (&["斤"], "mass", "0.5"),
    (&["s", "sec", "second", "秒"], "time", "1"),
    (&["ms", "millisecond", "毫秒"], "time", "0.001"),
    (&["min", "minute", "分钟"], "time", "60"),
    (&["h", "hr", "hour", "小时"], "time", "3600"),
    (&["d", "day", "天"], "time", "86400"),
    (&["week", "周"], "time", "604800"),
    (&["m2", "m²", "square meter", "square metre", "平方米"], "area", "1"),
    (&["km2", "km²", "square kilometer", "square kilometre", "平方千米", "平方公里"], "area", "1000000"),
    (&["cm2", "cm²", "square centimeter", "square centimetre", "平方厘米"], "area", "0.0001"),
    (&["ha", "hectare", "公顷"], "area", "10000"),
    (&["acre", "英亩"], "area", "4046.8564224"),
    (&["ft2", "ft²", "square foot", "square feet", "平方英尺"], "area", "0.09290304"),
    (&["l", "liter", "litre", "升"], "volume", "1"),
    (&["ml", "milliliter", "millilitre", "毫升"], "volume", "0.001"),
    (&["m3", "m³", "cubic meter", "cubic metre", "立方米"], "volume", "1000"),
    (&["cm3", "cm³", "cubic centimeter", "cubic centimetre", "立方厘米"], "volume", "0.001"),
    (&["gal", "gallon", "加仑"], "volume", "3.785411784"),
    (&["qt", "quart"], "volume", "0.946352946"),
    (&["pt", "pint"], "volume", "0.473176473"),
    (&["cup"], "volume", "0.2365882365"),
    (&["m/s", "mps", "米每秒"], "speed", "1"),
    (&["km/h", "kmh", "kph", "千米每小时", "公里每小时"], "speed", "1000/3600"),
    (&["mph", "英里每小时"], "speed", "0.44704"),
    (&["knot", "kn", "节"], "speed", "1852/3600"),
    (&["byte", "b", "字节"], "data", "1"),
    (&["bit"], "data", "0.125"),
    (&["kb", "kilobyte"], "data", "1000"),
    (&["mb", "megabyte"], "data", "1000000"),
    (&["gb", "gigabyte"], "data", "1000000000"),
    (&["tb", "terabyte"], "data", "1000000000000"),
    (&["kib", "kibibyte"], "data", "1024"),
    (&["mib", "mebibyte"], "data", "1048576"),
    (&["gib", "gibibyte"], "data", "1073741824"),
    (&["j", "joule", "焦耳"], "energy", "1"),
    (&["kj", "kilojoule", "千焦"], "energy", "1000"),
    (&["cal", "calorie", "卡"], "energy", "4.184"),
    (&["kcal", "kilocalorie", "千卡", "大卡"], "energy", "4184"),
    (&["kwh", "kilowatt hour", "度电"], "energy", "3600000"),
    (&["pa", "pascal", "帕"], "pressure", "1"),
    (&["kpa", "kilopascal", "千帕"], "pressure", "1000"),
    (&["bar"], "pressure", "100000"),
    (&["atm", "atmosphere"], "pressure", "101325"),
    (&["c", "°c", "celsius", "摄氏度"], "temperature", "c"),
    (&["f", "°f", "fahrenheit", "华氏度"], "temperature", "f"),
    (&["k", "kelvin", "开尔文"], "temperature", "k"),
];

fn find(name: &str) -> Result<&'static Unit, String> {
    let name = name.trim().to_lowercase().replace('_', " ");
    let named = |name: &str| UNITS.iter().find(|(names, ..)| names.contains(&name));
    // metres, kilometers per hour, inches: the plural, and `per` for the stroke.
    let spelled = name.replace("kilometers per hour", "km/h").replace("kilometres per hour", "km/h");
    let spelled = spelled
        .replace("meters per second", "m/s")
        .replace("metres per second", "m/s")
        .replace("miles per hour", "mph");
    let without = |end: &str| {
        spelled.strip_suffix(end).and_then(|stem| if stem.len() > 2 { named(stem) } else { None })
    };
    named(&name)
        .or_else(|| named(&spelled))
        .or_else(|| without("s"))
        .or_else(|| without("es"))
        .ok_or_else(|| format!("unknown unit `{name}`"))
}

/// `a/b`, or a decimal.
fn factor(text: &str) -> Option<Number> {
    match text.split_once('/') {
        Some((a, b)) => Number::parse(a)?.over(Number::parse(b)?),
        None => Number::parse(text),
    }
}

/// To kelvin, as slope and offset before it: `(value + before) * slope`.
fn kelvin(scale: &str) -> Option<(Number, Number)> {
    Some(match scale {
        "c" => (Number::parse("273.15")?, Number::whole(1)),
        "f" => (Number::parse("459.67")?, Number::whole(5).over(Number::whole(9))?),
        _ => (Number::whole(0), Number::whole(1)),
    })
}

/// The value in the other unit. Units are named as people write them (`km`, `kilometers`).
///
/// # Errors
/// A unit that is unknown, two that measure different things.
pub fn convert(value: Number, from: &str, to: &str) -> Result<Number, String> {
    let ((_, kind, per), (_, other, target)) = (find(from)?, find(to)?);
    if kind != other {
        return Err(format!("`{from}` measures {kind}, `{to}` measures {other}"));
    }
    let result = if *kind == "temperature" {
        let both = kelvin(per).zip(kelvin(target));
        both.and_then(|((before, slope), (after, other))| {
            value.plus(before)?.times(slope)?.over(other)?.minus(after)
        })
    } else {
        factor(per).zip(factor(target)).and_then(|(a, b)| value.times(a)?.over(b))
    };
    result.ok_or_else(|| "the result is not finite".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str, from: &str, to: &str) -> String {
        convert(Number::parse(value).unwrap(), from, to).unwrap().to_string()
    }

    #[test]
    fn conversions_are_exact() {
        assert_eq!(shown("5", "km", "m"), "5000");
        assert_eq!(shown("1", "mile", "kilometers"), "1.609344");
        assert_eq!(shown("100", "celsius", "°F"), "212");
        assert_eq!(shown("98.6", "F", "C"), "37");
        assert_eq!(shown("0", "C", "K"), "273.15");
        assert_eq!(shown("36", "km/h", "meters per second"), "10");
        assert_eq!(shown("3", "小时", "分钟"), "180");
        assert_eq!(shown("12", "inches", "ft"), "1");
        assert_eq!(shown("1", "gib", "mib"), "1024");
    }

    #[test]
    fn unknown_and_unlike_units_are_refused() {
        assert!(convert(Number::whole(1), "parsnip", "m").unwrap_err().contains("parsnip"));
        assert!(convert(Number::whole(1), "kg", "m").unwrap_err().contains("mass"));
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut seen = std::collections::HashSet::new();
        for (names, _, per) in UNITS {
            for name in *names {
                assert!(seen.insert(name), "{name}");
            }
            assert!(factor(per).is_some() || "cfk".contains(per), "{per}");
        }
    }
}
