//! The http engine against servers that answer in SGLang's and OpenAI's shapes.

use super::*;
use crate::rollout::service::testing;

fn config() -> CompletionConfig {
    let sampling = SamplingParams { temperature: 1.0, seed: 5, ..SamplingParams::GREEDY };
    CompletionConfig { max_new_tokens: 4, sampling, eos_ids: vec![2], seed: 1 }
}

fn engine(url: String, protocol: Protocol, batch_size: usize) -> HttpEngine {
    let service = ServiceConfig { retries: 1, timeout_secs: 5.0, ..ServiceConfig::new(url) };
    HttpEngine::new(&HttpEngineConfig { service, protocol, model: Some("policy".into()), batch_size })
}

/// An answer as SGLang gives it.
fn generated(ids: &[u32], finish: Value) -> Value {
    let logprobs: Vec<Value> =
        ids.iter().map(|id| json!([-0.5 - f64::from(*id) / 100.0, id, null])).collect();
    json!({
        "text": "?",
        "output_ids": ids,
        "meta_info": {
            "id": "3a", "finish_reason": finish, "prompt_tokens": 2, "weight_version": "default",
            "input_token_logprobs": [], "output_token_logprobs": logprobs,
            "completion_tokens": ids.len(), "cached_tokens": 0, "e2e_latency": 0.01,
        },
    })
}

#[test]
fn sglang_gives_ids_and_logprobs_and_takes_weights() {
    let (url, asked) = testing::serve(|path, body| match path {
        "/generate" => {
            let answers: Vec<Value> = body["input_ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|prompt| match prompt[0].as_u64().unwrap() {
                    7 => generated(&[9, 2], json!({"type": "stop", "matched": 2})),
                    _ => generated(&[5, 6, 5, 6], json!({"type": "length", "length": 4})),
                })
                .collect();
            // A list of one prompt still gets a list; a single prompt would get an object.
            (200, Value::from(answers).to_string())
        }
        "/update_weights_from_disk" => {
            (200, json!({"success": true, "message": "Succeeded.", "num_paused_requests": 0}).to_string())
        }
        _ => (404, String::new()),
    });
    let engine = engine(format!("{url}/"), Protocol::Sglang, 3);
    engine.update_weights(Path::new("/weights/step-3")).unwrap();
    let answers = engine.generate_completions(&[vec![7, 1], vec![8]], 2, &config()).unwrap();
    assert_eq!(answers.iter().map(|a| a.prompt).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert_eq!((answers[0].ids.as_slice(), answers[0].finish), (&[9, 2][..], FinishReason::Stop));
    assert_eq!((answers[3].ids.len(), answers[3].finish), (4, FinishReason::Length));
    assert!((answers[0].logprobs[0] + 0.59).abs() < 1e-6 && answers[0].logprobs == answers[0].model_logprobs);
    let asked: Vec<_> = asked.try_iter().collect();
    assert_eq!(
        asked.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["/update_weights_from_disk", "/generate", "/generate"]
    );
    assert_eq!(asked[0].1["model_path"], "/weights/step-3");
    assert_eq!(asked[1].1["input_ids"], json!([[7, 1], [7, 1], [8]]));
    assert_eq!(asked[1].1["sampling_params"]["stop_token_ids"], json!([2]));
    assert_eq!(asked[1].1["return_logprob"], true);
}

#[test]
fn openai_servers_must_send_token_ids() {
    let (url, asked) = testing::serve(|_, body| {
        let choice = |index: usize, more: Value| {
            let mut one = json!({"index": index, "text": "?", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.25, -1.5]}});
            for (key, value) in more.as_object().unwrap() {
                one[key] = value.clone();
            }
            one
        };
        let tokens = json!(["token_id:11", "token_id:2"]);
        let choices = match body["prompt"].as_array().unwrap().len() {
            1 => vec![choice(0, json!({}))],
            _ => vec![
                choice(1, json!({"logprobs": {"tokens": tokens, "token_logprobs": [-0.25, -1.5]}})),
                choice(0, json!({"token_ids": [10, 2]})),
            ],
        };
        (200, json!({"choices": choices}).to_string())
    });
    let engine = engine(url, Protocol::Openai, 8);
    let answers = engine.generate_completions(&[vec![7], vec![8]], 1, &config()).unwrap();
    assert_eq!([answers[0].ids.as_slice(), answers[1].ids.as_slice()], [[10, 2], [11, 2]]);
    assert_eq!(answers[1].logprobs, [-0.25, -1.5]);
    let text = engine.generate_completions(&[vec![7]], 1, &config()).unwrap_err().to_string();
    assert!(text.contains("no token ids"), "{text}");
    assert_eq!(asked.try_iter().next().unwrap().1["model"], "policy");
}

#[test]
fn faults_of_a_server_are_clear() {
    let fault = |status: u16, answer: Value| {
        let (url, _asked) = testing::serve(move |_, _| (status, answer.to_string()));
        engine(url, Protocol::Sglang, 8)
            .generate_completions(&[vec![7]], 1, &config())
            .unwrap_err()
            .to_string()
    };
    assert!(fault(200, json!({"text": "no numbers"})).contains("output_token_logprobs"));
    assert!(fault(200, json!([])).contains("0 answers came for 1"));
    assert!(fault(200, generated(&[5], json!({"type": "abort"}))).contains("abort"));
    let mut other = generated(&[5], json!({"type": "stop"}));
    other["output_ids"] = json!([6]);
    assert!(fault(200, other).contains("different tokens"));
    assert!(fault(400, json!({"error": "bad"})).contains("status 400"));
    assert!(fault(500, json!("down")).contains("after 2 tries"));
    let (url, _asked) =
        testing::serve(|_, _| (200, json!({"success": false, "message": "no such folder"}).to_string()));
    let text =
        engine(url.clone(), Protocol::Sglang, 8).update_weights(Path::new("/x")).unwrap_err().to_string();
    assert!(text.contains("no such folder") && text.contains("/x"), "{text}");
    let mut cut = config();
    cut.sampling.top_p = 0.9;
    let text =
        engine(url, Protocol::Sglang, 8).generate_completions(&[vec![7]], 1, &cut).unwrap_err().to_string();
    assert!(text.contains("temperature 1") && text.contains("native"), "{text}");
}
