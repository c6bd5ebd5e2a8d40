//! The server from outside, over plain sockets: what it answers. How it bears load and rude clients: `serve_load`.

mod common;

use common::number;
use common::served::{SCRIPT, asked, content, joined, model, shared, tool, with};
use minimind::checkpoint::load::load_model;
use minimind::model::Mask;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

#[test]
fn small_answers() {
    let server = shared();
    assert_eq!(server.get("/health").json()["status"], "ok");
    assert_eq!(server.get("/version").json()["version"], env!("CARGO_PKG_VERSION"));
    let models = server.get("/v1/models").json();
    assert_eq!((models["object"].as_str(), &models["data"][0]["id"]), (Some("list"), &json!("run")));
    assert_eq!(server.get("/v1/models/run").json()["object"], "model");
    assert_eq!(server.get("/v1/models/none").json()["error"]["code"], "model_not_found");
    let ids = server.post("/tokenize", &json!({"prompt": "What is 2 + 3?"})).json();
    assert_eq!(ids["tokens"].as_array().expect("ids").len() as u64, ids["count"]);
    let text = server.post("/detokenize", &json!({"tokens": ids["tokens"]})).json();
    assert_eq!(text["prompt"], "What is 2 + 3?");
    let chat = server.post(
        "/tokenize",
        &json!({"messages": [{"role": "user", "content": "x"}], "return_token_strs": true}),
    );
    assert_eq!(chat.json()["token_strs"][0], "<|im_start|>");
    let report = server.get("/report");
    assert!(
        report.status == 200
            && report.text().contains("sft")
            && report.header("content-security-policy").is_some()
    );
    let metrics = server.get("/metrics");
    assert!(metrics.text().contains("minimind_http_requests_total{path=\"/health\",status=\"200\"}"));
}

#[test]
fn a_chat_answer_in_one_piece() {
    let answer = shared().chat(&asked("What is 2 + 3?"));
    assert_eq!((content(&answer), &answer["choices"][0]["finish_reason"]), ("The sum is 5.", &json!("stop")));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("run")));
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    let usage = &answer["usage"];
    assert!(number(usage, "completion_tokens") > 2.0);
    assert_eq!(
        number(usage, "total_tokens"),
        number(usage, "prompt_tokens") + number(usage, "completion_tokens")
    );
}

#[test]
fn a_stream_by_the_book() {
    let body =
        with(asked("Count."), json!({"n": 2, "stream_options": {"include_usage": true}, "max_tokens": 30}));
    let chunks = shared().stream("/v1/chat/completions", &body);
    let (last, rest) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(number(&last["usage"], "completion_tokens"), 60.0);
    for index in 0..2 {
        let own: Vec<&Value> =
            rest.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
        assert_eq!(own[0]["delta"], json!({"role": "assistant", "content": ""}));
        assert!(own[1..].iter().all(|c| c["delta"]["role"].is_null()));
        let ends: Vec<&Value> = own.iter().map(|c| &c["finish_reason"]).filter(|r| !r.is_null()).collect();
        assert_eq!(ends, ["length"]);
        assert_eq!(own[own.len() - 1]["delta"], json!({}));
    }
    assert!(
        rest.iter()
            .all(|c| c["id"] == last["id"] && c["usage"].is_null() && c["object"] == "chat.completion.chunk")
    );
    let whole = shared().chat(&with(asked("Count."), json!({"max_tokens": 30})));
    assert_eq!(joined(rest, 0, "content"), content(&whole));
    assert_eq!(joined(rest, 1, "content"), content(&whole));
}

#[test]
fn stop_strings_end_an_answer_and_are_not_in_it() {
    let server = shared();
    for (stop, want) in [(json!("17 18"), "16 "), (json!(["none", "9 1"]), "7 8 "), (json!("1 2"), "")] {
        let body = with(asked("Count."), json!({"stop": stop}));
        let answer = server.chat(&body);
        assert!(content(&answer).ends_with(want) && !content(&answer).contains("17 18"), "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let chunks = server.stream("/v1/chat/completions", &body);
        assert_eq!(joined(&chunks, 0, "content"), content(&answer));
    }
}

#[test]
fn limits_seeds_and_biases() {
    let server = shared();
    let short = server.chat(&with(asked("Count."), json!({"max_completion_tokens": 3})));
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    assert_eq!(short["usage"]["completion_tokens"], 3);
    // More than the server or the model's room gives is no fault.
    let long = server.chat(&with(asked("What is 2 + 3?"), json!({"max_tokens": 1_000_000})));
    assert_eq!(content(&long), "The sum is 5.");
    let wild = |seed: i64| {
        let body = with(asked("Count."), json!({"temperature": 2, "seed": seed, "max_tokens": 20, "n": 2}));
        server.chat(&body)["choices"]
            .as_array()
            .expect("choices")
            .iter()
            .map(|c| c["message"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(wild(5), wild(5));
    assert_ne!(wild(5), wild(6));
    assert_ne!(wild(5)[0], wild(5)[1]);
    let body = with(asked("What is 2 + 3?"), json!({"logprobs": true, "max_tokens": 1}));
    let first = server.chat(&body)["choices"][0]["logprobs"]["content"][0]["token"].clone();
    let text = first.as_str().expect("a token");
    let id = server.post("/tokenize", &json!({"prompt": text})).json()["tokens"][0].to_string();
    let other = server.chat(&with(body, json!({"logit_bias": {id: -100}})));
    assert_ne!(other["choices"][0]["logprobs"]["content"][0]["token"], first);
}

#[test]
fn logprobs_belong_to_the_text() {
    let server = shared();
    let body = with(asked("What is 2 + 3?"), json!({"logprobs": true, "top_logprobs": 3}));
    let answer = server.chat(&body);
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().expect("entries").clone();
    assert_eq!(entries.len() as u64, answer["usage"]["completion_tokens"]);
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|e| e["bytes"].as_array().expect("bytes").iter().map(|b| b.as_u64().expect("a byte") as u8))
        .collect();
    assert_eq!(String::from_utf8(bytes).expect("text"), content(&answer));
    for entry in &entries {
        let top = entry["top_logprobs"].as_array().expect("three");
        assert_eq!(
            (top.len(), &top[0]["token"], &top[0]["logprob"]),
            (3, &entry["token"], &entry["logprob"])
        );
        assert!(
            number(&top[0], "logprob") >= number(&top[1], "logprob") && number(&top[0], "logprob") <= 0.0
        );
    }
    let chunks = server.stream("/v1/chat/completions", &body);
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed, entries);
}

#[test]
fn thinking_stands_apart() {
    let server = shared();
    for more in [json!({"chat_template_kwargs": {"open_thinking": true}}), json!({"open_thinking": true})] {
        let body = with(asked("What is a crow?"), more);
        let answer = server.chat(&body);
        let message = &answer["choices"][0]["message"];
        assert_eq!(
            (&message["reasoning_content"], content(&answer)),
            (&json!("A crow has wings."), "A crow is a bird.")
        );
        let chunks = server.stream("/v1/chat/completions", &body);
        assert_eq!(joined(&chunks, 0, "reasoning_content"), "A crow has wings.");
        assert_eq!(joined(&chunks, 0, "content"), "A crow is a bird.");
    }
    assert!(server.chat(&asked("What is 2 + 3?"))["choices"][0]["message"]["reasoning_content"].is_null());
}

#[test]
fn tools_are_called() {
    let server = shared();
    let body = with(asked("What is 12 * 3?"), json!({"tools": [tool()]}));
    let answer = server.chat(&body);
    let choice = &answer["choices"][0];
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null),
        "{answer}"
    );
    assert_eq!(call["function"], json!({"name": "calculate_math", "arguments": "{\"expression\":\"12*3\"}"}));
    assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")));

    let chunks = server.stream("/v1/chat/completions", &body);
    let calls: Vec<&Value> =
        chunks.iter().map(|c| &c["choices"][0]["delta"]["tool_calls"][0]).filter(|c| !c.is_null()).collect();
    assert_eq!(calls[0]["function"]["name"], "calculate_math");
    let arguments: String = calls.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"expression\":\"12*3\"}");
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "tool_calls");

    let mut told = body.clone();
    told["messages"].as_array_mut().expect("messages").extend([
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": call["id"], "content": "36"}),
    ]);
    assert_eq!(content(&server.chat(&told)), "It is 36.");

    let named = json!({"type": "function", "function": {"name": "calculate_math"}});
    for choice in [json!("required"), named] {
        let forced = server.chat(&with(body.clone(), json!({"tool_choice": choice})));
        assert_eq!(forced["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "calculate_math");
    }
    let none = server.chat(&with(body, json!({"tool_choice": "none"})));
    assert!(none["choices"][0]["message"]["tool_calls"].is_null());
}

#[test]
fn what_a_model_says_is_passed_on_unchanged() {
    assert_eq!(content(&shared().chat(&asked("Say the script."))), SCRIPT);
}

#[test]
fn completions_take_every_form_of_prompt() {
    let server = shared();
    let text = "<|im_start|>user\nCount.<|im_end|>\n";
    let ids = server.post("/tokenize", &json!({"prompt": text})).json()["tokens"].clone();
    let ask = |prompt: Value| {
        let answer =
            server.post("/v1/completions", &json!({"prompt": prompt, "temperature": 0, "max_tokens": 4}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let one = ask(json!(text));
    assert_eq!((&one["object"], &one["choices"][0]["logprobs"]), (&json!("text_completion"), &Value::Null));
    assert_eq!(ask(ids.clone())["choices"], one["choices"]);
    for list in [json!([text, "x"]), json!([ids, [5, 6]])] {
        let two = ask(list);
        assert_eq!(
            (&two["choices"][0]["text"], &two["choices"][1]["index"]),
            (&one["choices"][0]["text"], &json!(1))
        );
    }
    let echo = json!({"prompt": text, "temperature": 0, "max_tokens": 4, "echo": true});
    let echoed = server.post("/v1/completions", &echo).json();
    assert_eq!(
        echoed["choices"][0]["text"],
        format!("{text}{}", one["choices"][0]["text"].as_str().expect("text"))
    );
    // A character may be several tokens: all of them stand where it does, and what follows is not pushed on.
    let split = with(echo.clone(), json!({"prompt": "é x", "logprobs": 0}));
    let split = server.post("/v1/completions", &split).json()["choices"][0]["logprobs"].clone();
    let places: Vec<(usize, &str)> = std::iter::zip(
        split["text_offset"]
            .as_array()
            .expect("places")
            .iter()
            .map(|n| n.as_u64().expect("a place") as usize),
        split["tokens"].as_array().expect("tokens").iter().map(|t| t.as_str().expect("a token")),
    )
    .collect();
    assert_eq!(places[..2], [(0, "bytes:\\xc3"), (0, "bytes:\\xa9")]);
    let mut chars = 1;
    for (place, token) in &places[2..] {
        assert_eq!(*place, chars, "{places:?}");
        chars += token.chars().count();
    }
    let chunks = server.stream("/v1/completions", &echo);
    let streamed: String = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, echoed["choices"][0]["text"].as_str().expect("text"));
}

/// Log-probabilities of a text's tokens after the first, from the library itself.
fn own_logprobs(ids: &[i64]) -> Vec<f64> {
    let path = minimind::checkpoint::resolve_model_path(&model().display().to_string()).expect("weights");
    let loaded = load_model(&path, None, Device::Cpu, Kind::Float).expect("a model");
    let input = Tensor::from_slice(ids).view([1, -1]);
    let (hidden, _) = tch::no_grad(|| loaded.model.hidden(&input, Mask::Causal, false));
    let rows = loaded.model.logits(&hidden).squeeze_dim(0).log_softmax(-1, Kind::Float);
    ids.iter().enumerate().skip(1).map(|(i, &id)| rows.double_value(&[i as i64 - 1, id])).collect()
}

/// The very requests of lm-evaluation-harness' `local-completions` (`lm_eval/models/openai_completions.py` and
/// `api_models.py`): context and continuation as token ids, `echo`, one new token, the likeliest beside each.
#[test]
fn evaluation_harnesses_get_the_numbers_of_our_own_loss() {
    let server = shared();
    let texts = ["What is 2 + 3? The sum is 5.", "A crow is a bird, 세계!", "17 18 19 20 21"];
    let ids: Vec<Vec<i64>> = texts
        .iter()
        .map(|t| {
            serde_json::from_value(server.post("/tokenize", &json!({"prompt": t})).json()["tokens"].clone())
                .expect("ids")
        })
        .collect();
    for max_tokens in [1, 0] {
        let body = json!({
            "model": "run", "prompt": ids, "temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "seed": 1234, "echo": true,
        });
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        for (i, ids) in ids.iter().enumerate() {
            let choice = &answer["choices"][i];
            let logprobs = &choice["logprobs"];
            let got: Vec<Option<f64>> =
                serde_json::from_value(logprobs["token_logprobs"].clone()).expect("numbers");
            assert_eq!((got.len(), got[0]), (ids.len() + max_tokens, None));
            assert_eq!(logprobs["tokens"].as_array().expect("tokens").len(), got.len());
            for (place, want) in own_logprobs(ids).into_iter().enumerate() {
                let value = got[place + 1].expect("a number");
                assert!((value - want).abs() < 2e-4, "{place}: {value} {want}");
                // The harness calls a token greedy when it is the largest of its place.
                let top: Vec<f64> = logprobs["top_logprobs"][place + 1]
                    .as_object()
                    .expect("a map")
                    .values()
                    .filter_map(Value::as_f64)
                    .collect();
                assert!(top.contains(&value) && top.iter().all(|t| *t >= value));
            }
            assert!(choice["text"].as_str().expect("text").starts_with(texts[i]));
        }
    }
}

#[test]
fn embeddings_are_the_mean_of_the_last_hidden_state() {
    let server = shared();
    let ids = server.post("/tokenize", &json!({"prompt": "A crow is a bird."})).json()["tokens"].clone();
    let answer = server
        .post("/v1/embeddings", &json!({"model": "run", "input": ["A crow is a bird.", "Count."]}))
        .json();
    let got: Vec<f64> = serde_json::from_value(answer["data"][0]["embedding"].clone()).expect("numbers");
    let path = minimind::checkpoint::resolve_model_path(&model().display().to_string()).expect("weights");
    let loaded = load_model(&path, None, Device::Cpu, Kind::Float).expect("a model");
    let input = Tensor::from_slice(&serde_json::from_value::<Vec<i64>>(ids).expect("ids")).view([1, -1]);
    let (hidden, _) = tch::no_grad(|| loaded.model.hidden(&input, Mask::Causal, false));
    let want: Vec<f64> = Vec::try_from(hidden.mean_dim(1, false, Kind::Double).view([-1])).expect("numbers");
    assert_eq!((got.len(), answer["data"].as_array().map(Vec::len)), (64, Some(2)));
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?}\n{want:?}");
    let packed =
        server.post("/v1/embeddings", &json!({"input": "Count.", "encoding_format": "base64"})).json();
    // 64 floats are 256 bytes, four characters for each three.
    assert_eq!(packed["data"][0]["embedding"].as_str().map(str::len), Some(344));
    assert_eq!(server.post("/v1/embeddings", &json!({"input": "x", "dimensions": 5})).status, 400);
}
