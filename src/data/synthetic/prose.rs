//! The built-in world as running text: three to five sentences, each a fact, a sum, a comparison or small talk.
//!
//! Sums that are held out are never shown.

use super::asked::{SUM_MAX, fill, sum_held};
use super::world::World;
use crate::data::random::SplitMix64;

const SUMS: [&str; 5] = [
    "{a} + {b} = {c}.",
    "{a} plus {b} is {c}.",
    "The sum of {a} and {b} is {c}.",
    "Add {a} and {b}: {c}.",
    "{a} + {b} 은 {c} 입니다.",
];
const COMPARISONS: [&str; 5] = [
    "Of {a} and {b}, {c} is larger and {d} is smaller.",
    "Take {a} or {b}: the larger is {c}.",
    "{c} is larger than {d}.",
    "{d} is smaller than {c}.",
    "{a} 와 {b} 중에서 큰 수는 {c}, 작은 수는 {d} 입니다.",
];

/// A paragraph.
pub(super) fn paragraph(world: &World, random: &mut SplitMix64) -> String {
    let count = 3 + random.below(3);
    let sentences: Vec<String> = (0..count).map(|_| sentence(world, random)).collect();
    sentences.join(" ")
}

fn sentence(world: &World, random: &mut SplitMix64) -> String {
    match random.below(100) {
        0..55 => {
            let fact = random.pick(&world.facts);
            random.pick(fact.wording.say).replace("{e}", fact.entity).replace("{v}", fact.value)
        }
        55..80 => loop {
            let (a, b) =
                (random.below(SUM_MAX as usize + 1) as u64, random.below(SUM_MAX as usize + 1) as u64);
            if !sum_held(world.seed, a, b) {
                break fill(random.pick::<&str>(&SUMS), a, b).replace("{c}", &(a + b).to_string());
            }
        },
        _ => {
            let (a, b) = (random.below(31) as u64, random.below(30) as u64);
            let b = if b >= a { b + 1 } else { b };
            let text = fill(random.pick::<&str>(&COMPARISONS), a, b);
            text.replace("{c}", &a.max(b).to_string()).replace("{d}", &a.min(b).to_string())
        }
    }
}
