//! Tool tasks of the built-in world: sums, units and prices that a tool answers, each with the whole exchange.
//!
//! Rows have upstream's agent form, `{"conversations", "gt"}`; the exchange after the question is for fine-tuning
//! and is left out of prompts. A held-out question has numbers that training never puts together.

use serde_json::{Value, json};

use crate::data::random::{SplitMix64, chance};
use crate::data::tool_specs;

/// What the shops of the world sell.
const GOODS: [&str; 12] =
    ["bread", "glass", "honey", "paper", "wool", "salt", "apples", "fish", "rope", "candles", "boots", "tea"];

/// Every good with its price.
pub fn prices(seed: u64) -> Vec<(&'static str, u64)> {
    let mut random = SplitMix64::new(seed, 140);
    GOODS.iter().map(|good| (*good, 2 + random.below(28) as u64)).collect()
}

/// A task: what is asked, the calls with their results, and the answer.
struct Errand {
    ask: String,
    tools: Vec<Value>,
    calls: Vec<(&'static str, Value, String)>,
    answer: String,
}

/// Units with whole factors: from, to, how many of `to` make one `from`.
const FACTORS: [(&str, &str, u64); 8] = [
    ("km", "m", 1000),
    ("m", "cm", 100),
    ("kg", "g", 1000),
    ("h", "min", 60),
    ("min", "s", 60),
    ("ft", "in", 12),
    ("lb", "oz", 16),
    ("day", "h", 24),
];

const SUMS: [&str; 3] = ["What is {x}?", "How much is {x}?", "Please calculate {x}."];
const CONVERSIONS: [&str; 3] =
    ["How many {t} are {n} {f}?", "Convert {n} {f} to {t}.", "What is {n} {f} in {t}?"];
const PRICES: [&str; 3] =
    ["What is the price of {g}?", "How much does {g} cost?", "Tell me the price of {g}."];
const TOTALS: [&str; 2] = ["How much do {n} {g} cost?", "What is the price of {n} {g}?"];

/// Rows of one split, drawn by `random`.
pub(super) fn rows(seed: u64, heldout: bool, mut random: SplitMix64) -> impl Iterator<Item = Value> {
    let prices = prices(seed);
    std::iter::from_fn(move || Some(row(&errand(seed, heldout, &prices, &mut random))))
}

/// Whether the task with these numbers is held out.
fn held(seed: u64, kind: u64, a: u64, b: u64) -> bool {
    chance(seed, (kind << 40) | (a << 20) | b, 141) < 0.15
}

fn errand(seed: u64, heldout: bool, prices: &[(&'static str, u64)], random: &mut SplitMix64) -> Errand {
    loop {
        let kind = random.below(4) as u64;
        let (errand, a, b) = match kind {
            0 => sum(random),
            1 => conversion(random),
            2 => {
                let which = random.below(prices.len());
                // Every price is learned in two of three wordings, and asked for in the third.
                let form = random.below(PRICES.len());
                (price(prices[which], PRICES[form]), which as u64, form as u64)
            }
            _ => total(*random.pick(prices), 2 + random.below(19) as u64, random),
        };
        let is_held = match kind {
            2 => (chance(seed, a, 142) * PRICES.len() as f64) as u64 == b,
            _ => held(seed, kind, a, b),
        };
        if is_held == heldout {
            return errand;
        }
    }
}

fn calculation(expression: &str, result: u64) -> (&'static str, Value, String) {
    (tool_specs::CALCULATOR, json!({"expression": expression}), result.to_string())
}

fn sum(random: &mut SplitMix64) -> (Errand, u64, u64) {
    let (a, b) = (10 + random.below(90) as u64, 10 + random.below(90) as u64);
    let (sign, result, low, high) = match random.below(3) {
        0 => ('+', a + b, a, b),
        1 => ('-', a.max(b) - a.min(b), a.max(b), a.min(b)),
        _ => ('*', a * b, a, b),
    };
    let expression = format!("{low} {sign} {high}");
    let errand = Errand {
        ask: random.pick(&SUMS).replace("{x}", &expression),
        tools: vec![tool_specs::calculator()],
        calls: vec![calculation(&expression, result)],
        answer: result.to_string(),
    };
    (errand, low, high)
}

fn conversion(random: &mut SplitMix64) -> (Errand, u64, u64) {
    let which = random.below(FACTORS.len());
    let ((from, to, factor), value) = (FACTORS[which], 2 + random.below(98) as u64);
    let result = (value * factor).to_string();
    let ask =
        random.pick(&CONVERSIONS).replace("{n}", &value.to_string()).replace("{f}", from).replace("{t}", to);
    let arguments = json!({"value": value, "from_unit": from, "to_unit": to});
    let errand = Errand {
        ask,
        tools: vec![tool_specs::units()],
        calls: vec![(tool_specs::UNITS, arguments, result.clone())],
        answer: result,
    };
    (errand, which as u64, value)
}

fn price((good, price): (&'static str, u64), form: &str) -> Errand {
    Errand {
        ask: form.replace("{g}", good),
        tools: vec![tool_specs::lookup()],
        calls: vec![(tool_specs::LOOKUP, json!({"key": good}), price.to_string())],
        answer: price.to_string(),
    }
}

fn total((good, price): (&'static str, u64), count: u64, random: &mut SplitMix64) -> (Errand, u64, u64) {
    let result = price * count;
    let errand = Errand {
        ask: random.pick(&TOTALS).replace("{n}", &count.to_string()).replace("{g}", good),
        tools: vec![tool_specs::lookup(), tool_specs::calculator()],
        calls: vec![
            (tool_specs::LOOKUP, json!({"key": good}), price.to_string()),
            calculation(&format!("{count} * {price}"), result),
        ],
        answer: result.to_string(),
    };
    (errand, count, price)
}

fn row(errand: &Errand) -> Value {
    let mut turns = vec![
        json!({"role": "system", "content": "", "tools": Value::from(errand.tools.clone()).to_string()}),
        json!({"role": "user", "content": errand.ask}),
    ];
    for (name, arguments, result) in &errand.calls {
        let calls = json!([{"name": name, "arguments": arguments}]);
        turns.push(json!({"role": "assistant", "content": "", "tool_calls": calls.to_string()}));
        turns.push(json!({"role": "tool", "content": result}));
    }
    turns.push(json!({"role": "assistant", "content": errand.answer}));
    json!({"conversations": turns, "gt": [errand.answer], "answer": errand.answer})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn asked(heldout: bool) -> HashSet<String> {
        let rows = rows(7, heldout, SplitMix64::new(7, u64::from(heldout))).take(4000);
        rows.map(|row| row["conversations"][1]["content"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn splits_share_no_question() {
        let (train, held) = (asked(false), asked(true));
        assert!(train.len() > 1500 && held.len() > 300, "{} {}", train.len(), held.len());
        assert_eq!(train.intersection(&held).count(), 0);
        let priced = |all: &HashSet<String>| {
            all.iter().filter(|ask| PRICES.iter().any(|p| ask.starts_with(&p[..12]))).count()
        };
        assert!(priced(&held) > 6);
    }

    #[test]
    fn a_row_holds_the_whole_exchange() {
        let row = rows(7, false, SplitMix64::new(1, 2))
            .find(|row| row["conversations"].as_array().unwrap().len() == 7)
            .unwrap();
        let turns = row["conversations"].as_array().unwrap();
        let roles: Vec<_> = turns.iter().map(|t| t["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]);
        assert_eq!(row["gt"][0], turns[6]["content"]);
        let tools: Value = serde_json::from_str(turns[0]["tools"].as_str().unwrap()).unwrap();
        assert_eq!(tools[1]["function"]["name"], tool_specs::CALCULATOR);
    }
}
