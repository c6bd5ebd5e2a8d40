//! Rollouts from our own server: token ids come back, with the log-probabilities that the model itself gives them.

mod common;

use common::served::{model, shared};
use minimind::checkpoint::load::load_model;
use minimind::data::Tokenizer;
use minimind::model::Mask;
use minimind::rollout::http::{HttpEngine, HttpEngineConfig, Protocol};
use minimind::rollout::service::ServiceConfig;
use minimind::rollout::{CompletionConfig, FinishReason, SamplingParams};
use tch::{Device, Kind, Tensor};

#[test]
fn our_server_gives_ids_with_the_models_own_logprobs() {
    let server = shared();
    let run = model();
    let weights = minimind::checkpoint::resolve_model_path(run.to_str().expect("a path")).expect("weights");
    let tokenizer = Tokenizer::load(&run.join("tok")).expect("a tokenizer");
    let policy = load_model(&weights, None, Device::Cpu, Kind::Float).expect("the model").model;
    let engine = HttpEngine::new(&HttpEngineConfig {
        service: ServiceConfig {
            timeout_secs: 60.0,
            ..ServiceConfig::new(format!("http://{}", server.address))
        },
        protocol: Protocol::Openai,
        model: None,
        batch_size: 3,
    });
    let ask = |text: &str| {
        let messages = serde_json::json!([{"role": "user", "content": text}]);
        let options = minimind::data::tokenizer::RenderOptions::prompt();
        tokenizer
            .encode(&tokenizer.apply_chat_template(&messages, None, options).expect("a prompt"))
            .expect("ids")
    };
    let prompts = [ask("What is 2 + 3?"), ask("What is a crow?")];
    let config = CompletionConfig {
        max_new_tokens: 24,
        sampling: SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY },
        eos_ids: vec![tokenizer.eos_id()],
        seed: 3,
    };
    let answers = engine.generate_completions(&prompts, 2, &config).expect("answers");
    assert_eq!(answers.iter().map(|a| a.prompt).collect::<Vec<_>>(), [0, 0, 1, 1]);
    let mut ended = 0;
    for answer in &answers {
        let prompt = &prompts[answer.prompt];
        let ids: Vec<i64> = prompt.iter().chain(&answer.ids).map(|&id| i64::from(id)).collect();
        let (hidden, _) = policy.hidden(&Tensor::from_slice(&ids).unsqueeze(0), Mask::Causal, false);
        let own = policy.logits(&hidden).log_softmax(-1, Kind::Float).squeeze_dim(0);
        for (i, logprob) in answer.logprobs.iter().enumerate() {
            let at = prompt.len() + i;
            let expected = own.double_value(&[at as i64 - 1, ids[at]]);
            assert!(
                (f64::from(*logprob) - expected).abs() < 1e-4,
                "token {i}: {logprob}, the model says {expected}"
            );
        }
        if answer.finish == FinishReason::Stop {
            assert_eq!(answer.ids.last(), Some(&tokenizer.eos_id()));
            ended += 1;
        } else {
            assert_eq!(answer.ids.len(), 24);
        }
    }
    // It knows these answers by heart, so that most of them end.
    assert!(ended >= 2, "{ended} answers ended");
}
