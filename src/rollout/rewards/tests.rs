//! Parity of rewards with the reference's recorded totals, and what happens where a reward fails.

use serde_json::{Value, json};

use super::*;
use crate::rollout::service::{ServiceConfig, testing};

/// Numbers in the order asked, as the recorded reward model gave them.
#[derive(Debug)]
struct Recorded(std::sync::Mutex<std::iter::Cycle<std::vec::IntoIter<f64>>>);

impl BatchReward for Recorded {
    fn score(&self, inputs: &[RewardInput<'_>]) -> Result<Vec<f64>> {
        let mut next = self.0.lock().unwrap();
        Ok(inputs.iter().map(|_| next.next().unwrap().clamp(-3.0, 3.0)).collect())
    }
}

fn prepared(configs: &[RewardConfig]) -> Result<Rewards> {
    Rewards::new(configs, &RewardContext::default())
}

fn upstreams() -> Vec<RewardConfig> {
    [
        RewardKind::Length(LengthConfig::default()),
        RewardKind::Format(FormatConfig::default()),
        RewardKind::Repetition(RepetitionConfig::default()),
    ]
    .map(RewardConfig::new)
    .to_vec()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn totals_equal_the_references() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rewards");
    let mut seen = 0;
    for shape in ["dense", "moe"] {
        for name in ["grpo", "cispo", "ppo"] {
            let file = root.join(format!("{shape}_{name}.json"));
            let fixture: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            let cycle = numbers(&fixture["reward_model_scores_cycle"]);
            let mut rewards = prepared(&upstreams()).unwrap();
            let recorded = Recorded(std::sync::Mutex::new(cycle.into_iter().cycle()));
            rewards.add("model", 1.0, OnError::Stop, Box::new(recorded));
            for (step, completions) in fixture["completions"].as_array().unwrap().iter().enumerate() {
                let row = Value::Null;
                let inputs: Vec<RewardInput<'_>> = completions
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|text| RewardInput {
                        prompt_messages: &[],
                        prompt: "",
                        completion: text.as_str().unwrap(),
                        row: &row,
                    })
                    .collect();
                let expected = numbers(&fixture["rewards"][step]);
                for (scores, expected) in rewards.score(&inputs).unwrap().iter().zip(&expected) {
                    assert!(
                        (scores.total - expected).abs() < 2e-5,
                        "{shape} {name} {step}: {scores:?}, expected {expected}"
                    );
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 2 * (24 + 24 + 8), "{seen} rows were compared");
}

fn input<'a>(completion: &'a str, row: &'a Value) -> RewardInput<'a> {
    RewardInput { prompt_messages: &[], prompt: "2 + 2 = ", completion, row }
}

#[test]
fn weights_parts_and_defaults() {
    let mut math = RewardConfig::new(RewardKind::Math(MathConfig::default()));
    math.weight = 2.0;
    let pattern = |on| RegexConfig { pattern: "^4$".into(), on, found: 1.0, missing: -1.0 };
    let regex = RewardConfig::new(RewardKind::Regex(pattern(Part::Answer)));
    let (good, bare) = (json!({"gt": ["4"]}), json!({}));
    let rewards = prepared(&[math.clone(), regex.clone()]).unwrap();
    let scores = rewards.score(&[input("hm</think> 4", &good), input("5", &good)]).unwrap();
    assert_eq!(scores[0].parts, [("math".to_owned(), 1.0), ("regex".to_owned(), 1.0)]);
    assert_eq!((scores[0].total, scores[1].total), (3.0, -1.0));
    let text = rewards.score(&[input("4", &good), input("4", &bare)]).unwrap_err().to_string();
    assert!(text.contains("reward `math` failed for 1 of 2") && text.contains("no `gt`"), "{text}");
    math.on_error = OnError::Value(-0.5);
    let scores = prepared(&[math]).unwrap().score(&[input("4", &good), input("4", &bare)]).unwrap();
    assert_eq!((scores[0].total, scores[1].total), (2.0, -1.0));
    assert_eq!((scores[0].failed.len(), scores[1].failed.as_slice()), (0, &["math".to_owned()][..]));
    let broken = RegexConfig { pattern: "(".into(), ..pattern(Part::Answer) };
    assert!(prepared(&[RewardConfig::new(RewardKind::Regex(broken))]).is_err());
    assert!(rewards.score(&[]).unwrap().is_empty());
}

fn command(script: &str, on_error: OnError) -> Rewards {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let kind = RewardKind::Command(CommandRewardConfig { command, timeout_secs: 0.5 });
    prepared(&[RewardConfig { on_error, ..RewardConfig::new(kind) }]).unwrap()
}

#[test]
fn a_program_scores_lines_and_its_failures_are_named() {
    let row = json!({"gt": "x"});
    let two = [input("a", &row), input("b", &row)];
    // One line in, one line out; the program stays from call to call.
    let counting =
        command("n=0; while read line; do n=$((n+1)); echo \"{\\\"score\\\": $n.5}\"; done", OnError::Stop);
    let totals = |scores: Vec<Scores>| scores.iter().map(|s| s.total).collect::<Vec<_>>();
    assert_eq!(totals(counting.score(&two).unwrap()), [1.5, 2.5]);
    assert_eq!(totals(counting.score(&two).unwrap()), [3.5, 4.5]);
    let seen = command(
        "while read line; do case \"$line\" in *'\"completion\":\"b\"'*) echo 1;; *) echo 0;; esac; done",
        OnError::Stop,
    );
    assert_eq!(totals(seen.score(&two).unwrap()), [0.0, 1.0]);
    for (script, part) in [
        ("read line; echo 1; exit 2", "exit status: 2"),
        ("cat > /dev/null", "in time"),
        ("while read line; do echo good; done", "no score"),
        ("while read line; do echo NaN; done", "no score"),
    ] {
        let text = command(script, OnError::Stop).score(&two).unwrap_err().to_string();
        assert!(
            text.contains("reward `command` failed for 2 of 2") && text.contains(part),
            "{script}: {text}"
        );
    }
    let default = command("exit 1", OnError::Value(-2.0));
    for _ in 0..2 {
        let scores = default.score(&two).unwrap();
        assert_eq!((scores[0].total, scores[0].failed.len()), (-2.0, 1));
    }
    let absent = CommandRewardConfig { command: vec!["/no/such/program".into()], timeout_secs: 1.0 };
    assert!(prepared(&[RewardConfig::new(RewardKind::Command(absent))]).is_err());
}

#[test]
fn a_service_scores_in_batches_and_its_failures_are_named() {
    let row = json!({"gt": "x"});
    let (url, asked) = testing::serve(|_, body| {
        let rows = body["rows"].as_array().unwrap();
        let scores: Vec<f64> = rows.iter().map(|r| r["completion"].as_str().unwrap().len() as f64).collect();
        (200, json!({"scores": scores}).to_string())
    });
    let http = |url: String, on_error| {
        let service = ServiceConfig { retries: 0, timeout_secs: 5.0, ..ServiceConfig::new(url) };
        let kind = RewardKind::Http(HttpRewardConfig { service, batch_size: 2 });
        prepared(&[RewardConfig { on_error, ..RewardConfig::new(kind) }]).unwrap()
    };
    let inputs = ["a", "bb", "ccc"].map(|text| input(text, &row));
    let scores = http(url, OnError::Stop).score(&inputs).unwrap();
    assert_eq!(scores.iter().map(|s| s.total).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    let asked: Vec<_> = asked.try_iter().map(|(_, body)| body).collect();
    assert_eq!((asked.len(), &asked[0]["rows"][1]["row"]), (2, &row));
    assert_eq!(asked[0]["rows"][0]["prompt"], "2 + 2 = ");
    let (url, _asked) = testing::serve(|_, _| (200, r#"{"scores": [1]}"#.into()));
    let text = http(url.clone(), OnError::Stop).score(&inputs).unwrap_err().to_string();
    assert!(text.contains("asked for 2 scores"), "{text}");
    assert_eq!(http(url, OnError::Value(0.25)).score(&inputs).unwrap()[2].total, 0.25);
    assert!(http("http://127.0.0.1:1".into(), OnError::Stop).score(&inputs).is_err());
}
