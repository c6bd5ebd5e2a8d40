//! Multiple choice against a plain forward pass an answer.

use super::*;
use crate::model::{ModelOverrides, Params};

fn set_up() -> (tempfile::TempDir, CausalLm, Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    let text = "Question: what is the sky? Answer: red blue green A. B. C. D. 答案：";
    crate::data::tokenizer::train(std::iter::repeat_n(Ok(text.to_owned()), 4), 360, folder.path()).unwrap();
    let config = ModelOverrides {
        hidden_size: Some(32),
        num_hidden_layers: Some(2),
        num_attention_heads: Some(4),
        num_key_value_heads: Some(2),
        vocab_size: Some(360),
        max_position_embeddings: Some(512),
        ..ModelOverrides::default()
    };
    let config = config.resolve().unwrap();
    tch::manual_seed(4);
    let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    (folder, model, tokenizer)
}

fn settings(paths: &[PathBuf], batch_size: usize) -> ChoiceSettings<'_> {
    ChoiceSettings {
        paths,
        shots: 0,
        shots_from: None,
        chat: false,
        batch_size,
        max_seq_len: 512,
        limit: None,
        compute: Compute::Fp32,
    }
}

fn items() -> Subject {
    let item = |prompt: &str, choices: &[&str]| ChoiceItem {
        prompt: prompt.to_owned(),
        choices: choices.iter().map(|c| (*c).to_owned()).collect(),
        answer: 0,
    };
    let items = vec![
        item(
            "Question: what is the sky?\nAnswer:",
            &["blue", "red and green", "a long answer of many words"],
        ),
        item("the sky is", &["blue", "red"]),
        item("what?\nA. red\nB. blue\n答案：", &["A", "B"]),
    ];
    Subject { name: "s".into(), items }
}

/// One pass an answer, nothing shared.
fn plainly(model: &CausalLm, tokenizer: &Tokenizer, item: &ChoiceItem, choice: &str) -> (f64, usize) {
    let prompt = tokenizer.encode(&item.prompt).unwrap();
    let ids = wide(&tokenizer.encode(&format!("{} {choice}", item.prompt)).unwrap());
    let (hidden, _) = model.hidden(&Tensor::from_slice(&ids).unsqueeze(0), Mask::Causal, false);
    let logprobs = model.logits(&hidden).log_softmax(-1, Kind::Float).squeeze_dim(0);
    let sum = (prompt.len()..ids.len()).map(|at| logprobs.double_value(&[at as i64 - 1, ids[at]])).sum();
    (sum, ids.len() - prompt.len())
}

#[test]
fn likelihoods_equal_one_pass_an_answer() {
    let (_folder, model, tokenizer) = set_up();
    let subject = items();
    for batch_size in [1, 4] {
        let found = likelihoods(&model, &tokenizer, &subject, "", &settings(&[], batch_size)).unwrap();
        for (item, found) in subject.items.iter().zip(&found) {
            for (i, choice) in item.choices.iter().enumerate() {
                let (sum, tokens) = plainly(&model, &tokenizer, item, choice);
                assert!((found.sums[i] - sum).abs() < 1e-4, "{choice}: {found:?}, plainly {sum}");
                assert_eq!(found.tokens[i], tokens);
            }
        }
    }
}

#[test]
fn answers_that_are_one_token_share_a_pass() {
    let (_folder, model, tokenizer) = set_up();
    // In a chat the letter follows the template directly.
    let item = &items().items[2];
    let (prompt, answers) = encoded(&tokenizer, item, "", true).unwrap();
    assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    let subject = Subject { name: "s".into(), items: vec![item.clone()] };
    let found =
        likelihoods(&model, &tokenizer, &subject, "", &ChoiceSettings { chat: true, ..settings(&[], 2) })
            .unwrap();
    let (hidden, _) = model.hidden(&Tensor::from_slice(&wide(&prompt)).unsqueeze(0), Mask::Causal, false);
    let last = model.logits(&hidden).log_softmax(-1, Kind::Float).select(1, prompt.len() as i64 - 1);
    for (i, answer) in answers.iter().enumerate() {
        assert!((found[0].sums[i] - last.double_value(&[0, i64::from(answer[0])])).abs() < 1e-5);
    }
}

#[test]
fn readings_differ_by_length_and_chance_is_told() {
    let item = ChoiceItem {
        prompt: "?".into(),
        choices: vec!["ab".into(), "abcdefgh".into(), "abc".into()],
        answer: 1,
    };
    let mut tally = Tally::default();
    // Sums favour the short answer, bytes the long one, tokens the last.
    tally.count(&item, &Likelihoods { sums: vec![-1.0, -2.0, -3.0], tokens: vec![1, 2, 4] });
    assert_eq!((tally.sum, tally.per_byte, tally.per_token), (0, 1, 0));
    let metrics = tally.metrics();
    assert!((metrics["chance"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    assert!(
        metrics["accuracy_low"].as_f64().unwrap() < 1e-9 && metrics["accuracy_high"].as_f64().unwrap() > 0.5
    );
    // R: prop.test(30, 100, correct = FALSE).
    let (low, high) = wilson(30, 100);
    assert!((low - 0.218_948_9).abs() < 1e-6 && (high - 0.395_848_5).abs() < 1e-6, "{low} {high}");
}

#[test]
fn examples_come_from_another_file_and_folders_hold_subjects() {
    let (folder, model, tokenizer) = set_up();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    let rows = |n: usize| (0..n).map(|i| format!("{i},what {i}?,red,blue,C{i},D,A\n")).collect::<String>();
    let head = ",Question,A,B,C,D,Answer\n";
    write("test/one.csv", &format!("{head}{}", rows(3)));
    write("test/two.csv", &format!("{head}{}", rows(2)));
    write("dev/one.csv", &format!("{head}7,other?,a,b,c,d,B\n"));
    let paths = [folder.path().join("test")];
    let (metrics, subjects) = measure(&model, &tokenizer, &settings(&paths, 4)).unwrap();
    assert_eq!((metrics["questions"].as_u64(), metrics["chance"].as_f64()), (Some(5), Some(0.25)));
    assert_eq!(subjects.iter().map(|s| s["subject"].as_str().unwrap()).collect::<Vec<_>>(), ["one", "two"]);
    let dev = folder.path().join("dev");
    let only = [folder.path().join("test/one.csv")];
    let shots = ChoiceSettings { shots: 1, shots_from: Some(&dev), ..settings(&only, 4) };
    let subject = multiple_choice::read(&only[0]).unwrap();
    assert_eq!(examples(&only[0], &subject, &shots).unwrap(), "other?\nA. a\nB. b\nC. c\nD. d\n答案： B\n\n");
    assert!(measure(&model, &tokenizer, &shots).is_ok());
    let same = ChoiceSettings { shots: 1, shots_from: Some(&only[0]), ..settings(&only, 4) };
    assert!(measure(&model, &tokenizer, &same).unwrap_err().to_string().contains("also a question"));
    let many = ChoiceSettings { shots: 9, ..shots };
    assert!(measure(&model, &tokenizer, &many).unwrap_err().to_string().contains("lower the number"));
}
