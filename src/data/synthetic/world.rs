//! Who and what there is: entities with attributes, drawn by seed from fixed lists.
//!
//! Small on purpose: a model of one million parameters can learn all of it in minutes.

use crate::data::random::SplitMix64;

/// An attribute's English and Korean wording.
pub(super) struct Wording {
    /// `{e}` entity, `{v}` value: how prose says it.
    pub say: &'static [&'static str],
    /// `{e}` entity: how a user asks.
    pub ask: &'static [&'static str],
}

/// One fact.
pub(super) struct Fact {
    pub entity: &'static str,
    pub value: &'static str,
    /// The values it was drawn from.
    pub values: &'static [&'static str],
    pub wording: &'static Wording,
}

/// All facts of a seed.
pub(super) struct World {
    pub facts: Vec<Fact>,
    pub seed: u64,
}

type Attribute = (&'static [&'static str], Wording);

const TOWNS: &[&str] = &["Aldor", "Belmar", "Corvin", "Dunley", "Elster", "Fenwick"];

pub(super) const PEOPLE: &[&str] =
    &["Mira", "Tobin", "Lena", "Oskar", "Ruth", "Felix", "Nadia", "Hugo", "Clara", "Simon", "Vera", "Jonas"];
const PERSON: &[Attribute] = &[
    (
        TOWNS,
        Wording {
            say: &["{e} lives in {v}.", "The home of {e} is {v}.", "If you look for {e}, go to {v}."],
            ask: &[
                "Where does {e} live?",
                "In which town does {e} live?",
                "What is the home of {e}?",
                "Tell me the town of {e}.",
                "Where is the home of {e}?",
            ],
        },
    ),
    (
        &["baker", "doctor", "teacher", "farmer", "painter", "sailor"],
        Wording {
            say: &["{e} works as a {v}.", "The job of {e} is {v}.", "{e} is a {v}."],
            ask: &[
                "What does {e} do for work?",
                "What is the job of {e}?",
                "Tell me the job of {e}.",
                "What work does {e} do?",
                "Which job does {e} have?",
            ],
        },
    ),
    (
        &["red", "blue", "green", "yellow", "white", "black"],
        Wording {
            say: &["{e} likes the color {v}.", "The favorite color of {e} is {v}.", "{e} loves {v} things."],
            ask: &[
                "Which color does {e} like?",
                "What is the favorite color of {e}?",
                "Tell me the color {e} likes.",
                "What color does {e} love?",
                "Which is the favorite color of {e}?",
            ],
        },
    ),
];
const ANIMALS: &[&str] = &["fox", "owl", "horse", "otter", "goat", "heron", "hare", "badger"];
const ANIMAL: &[Attribute] = &[
    (
        &["grass", "fish", "mice", "fruit"],
        Wording {
            say: &["The {e} eats {v}.", "The food of the {e} is {v}.", "A hungry {e} looks for {v}."],
            ask: &[
                "What does the {e} eat?",
                "What is the food of the {e}?",
                "Tell me what the {e} eats.",
                "Which food does the {e} like?",
                "What does a hungry {e} look for?",
            ],
        },
    ),
    (
        &["forest", "river", "meadow", "hill"],
        Wording {
            say: &[
                "The {e} sleeps in the {v}.",
                "You find the {e} in the {v}.",
                "The place of the {e} is the {v}.",
            ],
            ask: &[
                "Where does the {e} sleep?",
                "Where do you find the {e}?",
                "What is the place of the {e}?",
                "Tell me where the {e} sleeps.",
                "In which place is the {e}?",
            ],
        },
    ),
];
const TOWN: &[Attribute] = &[(
    &["bread", "glass", "honey", "paper", "wool", "salt"],
    Wording {
        say: &["{e} is known for {v}.", "People in {e} make {v}.", "Good {v} comes from {e}."],
        ask: &[
            "What is {e} known for?",
            "What do people in {e} make?",
            "Tell me what {e} is known for.",
            "Which good comes from {e}?",
            "What does {e} make?",
        ],
    },
)];
pub(super) const KOREANS: &[&str] = &["민호", "지우", "서연", "도윤", "하은", "준서", "수아", "태민"];
const KOREAN: &[Attribute] = &[
    (
        &["서울", "부산", "대구", "광주", "제주"],
        Wording {
            say: &[
                "{e} 씨는 {v}에 삽니다.",
                "{e} 씨의 집은 {v}에 있습니다.",
                "{e} 씨가 사는 곳은 {v}입니다.",
            ],
            ask: &[
                "{e} 씨는 어디에 삽니까?",
                "{e} 씨의 집은 어디에 있습니까?",
                "{e} 씨가 사는 곳은 어디입니까?",
                "{e} 씨의 도시를 말해 주세요.",
                "{e} 씨는 어느 도시에 삽니까?",
            ],
        },
    ),
    (
        &["의사", "교사", "농부", "화가", "가수"],
        Wording {
            say: &["{e} 씨의 직업은 {v}입니다.", "{e} 씨는 {v}로 일합니다.", "{e} 씨가 하는 일은 {v}입니다."],
            ask: &[
                "{e} 씨의 직업은 무엇입니까?",
                "{e} 씨는 무슨 일을 합니까?",
                "{e} 씨가 하는 일은 무엇입니까?",
                "{e} 씨의 직업을 말해 주세요.",
                "{e} 씨의 일은 무엇입니까?",
            ],
        },
    ),
    (
        &["사과", "포도", "딸기", "수박", "감"],
        Wording {
            say: &[
                "{e} 씨가 좋아하는 과일은 {v}입니다.",
                "{e} 씨는 과일 중에서 {v}, 그것을 좋아합니다.",
                "{e} 씨에게 줄 과일은 {v}입니다.",
            ],
            ask: &[
                "{e} 씨가 좋아하는 과일은 무엇입니까?",
                "{e} 씨는 무슨 과일을 좋아합니까?",
                "{e} 씨에게 줄 과일은 무엇입니까?",
                "{e} 씨의 과일을 말해 주세요.",
                "{e} 씨는 어떤 과일을 먹습니까?",
            ],
        },
    ),
];

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = SplitMix64::new(seed, 100);
        let kinds = [(PEOPLE, PERSON), (ANIMALS, ANIMAL), (TOWNS, TOWN), (KOREANS, KOREAN)];
        let mut facts = Vec::new();
        for (entities, attributes) in kinds {
            for entity in entities {
                for (values, wording) in attributes {
                    facts.push(Fact { entity, value: random.pick::<&str>(values), values, wording });
                }
            }
        }
        Self { facts, seed }
    }
}
