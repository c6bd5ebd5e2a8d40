//! The batcher: answers that depend on their request alone, joining and leaving, limits, prefixes taken over.

use std::collections::HashMap;

use super::batcher::{Batcher, BatcherConfig};
use super::decoder::{Decoder, DecoderConfig};
use super::packing_tests::model;
use super::request::{Constraint, Finished, GenerateRequest, Logprobs, ScoredToken, TokenEvent};
use super::types::{FinishReason, SamplingParams};
use crate::error::Result;
use crate::model::{CausalLm, Era};

fn batcher<'m>(model: &'m CausalLm, config: BatcherConfig) -> Batcher<'m> {
    Batcher::new(Decoder::new(model, DecoderConfig::default()).unwrap(), config).unwrap()
}

/// All events of each request.
#[derive(Debug, Default, PartialEq)]
struct Received {
    tokens: Vec<u32>,
    logprobs: Vec<Logprobs>,
    prompt: Vec<ScoredToken>,
    done: Option<Finished>,
    failed: bool,
}

fn note(received: &mut HashMap<u64, Received>, events: Vec<(u64, TokenEvent)>) {
    for (id, event) in events {
        let one = received.entry(id).or_default();
        match event {
            TokenEvent::Prompt(tokens) => one.prompt = tokens,
            TokenEvent::Token(token) => {
                assert_eq!(one.done, None);
                one.tokens.push(token.id);
                one.logprobs.extend(token.logprobs);
            }
            TokenEvent::Done(finished) => assert_eq!(one.done.replace(finished), None),
            TokenEvent::Failed(_) => one.failed = true,
        }
    }
}

fn done(reason: FinishReason, prompt_tokens: usize, new_tokens: usize) -> Finished {
    Finished { reason, prompt_tokens, cached_tokens: 0, new_tokens }
}

fn drain(batcher: &mut Batcher<'_>, received: &mut HashMap<u64, Received>) {
    while !batcher.is_idle() {
        note(received, batcher.step().unwrap());
    }
}

fn prompt(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 13 + seed * 7 + 1) % 77).collect()
}

fn request(id: u64) -> GenerateRequest {
    let sampling = match id % 3 {
        0 => SamplingParams::GREEDY,
        1 => SamplingParams { temperature: 0.9, top_p: 0.9, seed: 4, ..SamplingParams::GREEDY },
        _ => SamplingParams {
            temperature: 1.2,
            top_k: 30,
            repetition_penalty: 1.2,
            seed: id,
            ..SamplingParams::GREEDY
        },
    };
    GenerateRequest {
        sampling,
        stream: id,
        stop_ids: (0..12).collect(),
        logprobs: Some(2),
        ..GenerateRequest::new(id, prompt(1 + (id as usize * 17) % 90, id as u32), 4 + (id as usize * 5) % 23)
    }
}

#[test]
fn an_answer_is_the_same_alone_and_among_others_that_come_and_go() {
    for (era, moe) in [(Era::MiniMind2, false), (Era::MiniMind3, true)] {
        let model = model(era, moe, 40);
        let mut alone = HashMap::new();
        for id in 0..12 {
            let mut one = batcher(&model, BatcherConfig::default());
            one.submit(request(id)).unwrap();
            drain(&mut one, &mut alone);
        }
        // Few rows, small chunks, a tight cache, and a new request every other step.
        let config = BatcherConfig { max_rows: 5, max_tokens: 512, prefill_chunk: 24 };
        let mut many = batcher(&model, config);
        let mut together = HashMap::new();
        for id in 0..12 {
            many.submit(request(id)).unwrap();
            note(&mut together, many.step().unwrap());
            assert!(many.active() <= 5);
            note(&mut together, many.step().unwrap());
        }
        drain(&mut many, &mut together);
        // What was taken over from a prompt that begins alike is reported, and changes nothing else.
        for received in alone.values_mut().chain(together.values_mut()) {
            received.done.iter_mut().for_each(|done| done.cached_tokens = 0);
        }
        assert_eq!(alone, together);
        assert!(alone.values().any(|t| t.done.unwrap().reason == FinishReason::Stop));
        assert!(alone.values().any(|t| t.done.unwrap().reason == FinishReason::Length));
        for (id, received) in &alone {
            let done = received.done.unwrap();
            let lengths = (request(*id).prompt.len(), received.tokens.len());
            assert_eq!((done.prompt_tokens, done.new_tokens), lengths);
            assert_eq!(done.reason == FinishReason::Stop, received.tokens.last().is_some_and(|&t| t < 12));
            assert!(received.logprobs.iter().all(|l| l.top.len() == 2 && l.top[0].1 >= l.logprob - 1e-6));
        }
    }
}

#[test]
fn the_packed_decoder_says_what_libtorch_says() {
    for (era, moe) in [(Era::MiniMind2, true), (Era::MiniMind3, false)] {
        let model = model(era, moe, 40);
        let run = |decoder| {
            let mut batcher = Batcher::new(decoder, BatcherConfig::default()).unwrap();
            let mut received = HashMap::new();
            for id in 0..6 {
                batcher.submit(GenerateRequest { prompt_logprobs: id == 3, ..request(id) }).unwrap();
            }
            drain(&mut batcher, &mut received);
            received
        };
        let packed = run(Decoder::new(&model, DecoderConfig::default()).unwrap());
        let plain = run(Decoder::reference(&model));
        for (id, received) in &packed {
            assert_eq!(received.tokens, plain[id].tokens);
            assert_eq!(
                received.prompt.len(),
                if *id == 3 { received.done.unwrap().prompt_tokens } else { 0 }
            );
            assert!(received.prompt.iter().enumerate().all(|(i, token)| token.logprobs.is_some() == (i > 0)));
            let of_prompt = |received: &Received| {
                received.prompt.iter().filter_map(|t| t.logprobs.clone()).collect::<Vec<_>>()
            };
            let (own, others) = (of_prompt(received), of_prompt(&plain[id]));
            let pairs = received.logprobs.iter().zip(&plain[id].logprobs).chain(own.iter().zip(&others));
            for (a, b) in pairs {
                assert!(
                    (a.logprob - b.logprob).abs() < 1e-4
                        && (a.sampled_logprob - b.sampled_logprob).abs() < 1e-4
                );
            }
        }
    }
}

#[test]
fn what_is_known_of_a_prompt_is_not_read_again() {
    let model = model(Era::MiniMind3, false, 40);
    let mut batcher = batcher(&model, BatcherConfig::default());
    let first = prompt(70, 1);
    let mut received = HashMap::new();
    // Three of the same at once: the first reads, the others take over all but the last token.
    for id in 0..3 {
        batcher.submit(GenerateRequest::new(id, first.clone(), 8)).unwrap();
    }
    drain(&mut batcher, &mut received);
    let cached = |received: &HashMap<u64, Received>, id| received[&id].done.unwrap().cached_tokens;
    assert_eq!([cached(&received, 0), cached(&received, 1), cached(&received, 2)], [0, 69, 69]);
    assert_eq!(received[&0].tokens, received[&1].tokens);
    // The next turn: the prompt, the answer (whose last token was never read), something new.
    let next = [first.as_slice(), &received[&0].tokens, &prompt(9, 3)].concat();
    batcher.submit(GenerateRequest::new(9, next.clone(), 8)).unwrap();
    drain(&mut batcher, &mut received);
    assert_eq!(cached(&received, 9), 77);
    let mut fresh = HashMap::new();
    let mut alone = self::batcher(&model, BatcherConfig::default());
    alone.submit(GenerateRequest::new(9, next, 8)).unwrap();
    drain(&mut alone, &mut fresh);
    assert_eq!(fresh[&9].tokens, received[&9].tokens);
}

#[test]
fn cancelling_frees_the_slot_and_faults_are_said() {
    let model = model(Era::MiniMind2, false, 40);
    let config = BatcherConfig { max_rows: 1, max_tokens: 96, prefill_chunk: 8 };
    let mut batcher = batcher(&model, config);
    let mut received = HashMap::new();
    for id in 0..3 {
        batcher.submit(GenerateRequest::new(id, prompt(10, id as u32), 60)).unwrap();
    }
    for _ in 0..4 {
        note(&mut received, batcher.step().unwrap());
    }
    batcher.cancel(0);
    batcher.cancel(1);
    batcher.cancel(77);
    note(&mut received, batcher.step().unwrap());
    assert_eq!((batcher.active(), batcher.queued()), (1, 0));
    drain(&mut batcher, &mut received);
    assert_eq!(received[&0].done.unwrap(), done(FinishReason::Cancelled, 10, received[&0].tokens.len()));
    assert_eq!(received[&1].done.unwrap().reason, FinishReason::Cancelled);
    assert_eq!((received[&2].done.unwrap().reason, received[&2].tokens.len()), (FinishReason::Length, 60));
    assert!(batcher.submit(GenerateRequest::new(4, Vec::new(), 1)).is_err());
    assert!(batcher.submit(GenerateRequest::new(4, vec![77], 1)).is_err());
    assert!(batcher.submit(GenerateRequest::new(4, vec![1; 60], 60)).unwrap_err().to_string().contains("96"));
    batcher.submit(GenerateRequest::new(4, vec![1], 1)).unwrap();
    assert!(
        batcher.submit(GenerateRequest::new(4, vec![1], 1)).unwrap_err().to_string().contains("in flight")
    );
    batcher
        .submit(GenerateRequest { prompt_logprobs: true, ..GenerateRequest::new(5, prompt(20, 2), 0) })
        .unwrap();
    batcher.submit(GenerateRequest::new(6, vec![1], 0)).unwrap();
    drain(&mut batcher, &mut received);
    assert_eq!((received[&5].prompt.len(), received[&5].tokens.len()), (20, 0));
    assert_eq!(received[&6].done.unwrap(), done(FinishReason::Length, 1, 0));
}

/// Allows one token after another, then ends; fails where the test asks for it.
struct Spell {
    word: Vec<u32>,
    at: usize,
    breaks: bool,
}

impl Constraint for Spell {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.breaks {
            return Err(crate::error::Error::failed("broken"));
        }
        for (token, logit) in logits.iter_mut().enumerate() {
            if token != self.word[self.at] as usize {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool> {
        assert_eq!(token, self.word[self.at]);
        self.at += 1;
        Ok(self.at == self.word.len())
    }
}

#[test]
fn a_constraint_decides_and_its_fault_is_its_requests_alone() {
    let model = model(Era::MiniMind2, false, 40);
    let mut batcher = batcher(&model, BatcherConfig::default());
    let spell =
        |breaks| Some(Box::new(Spell { word: vec![9, 8, 7], at: 0, breaks }) as Box<dyn Constraint + Send>);
    batcher
        .submit(GenerateRequest {
            constraint: spell(false),
            logprobs: Some(0),
            ..GenerateRequest::new(1, vec![3], 50)
        })
        .unwrap();
    batcher
        .submit(GenerateRequest { constraint: spell(true), ..GenerateRequest::new(2, vec![4], 50) })
        .unwrap();
    let mut received = HashMap::new();
    drain(&mut batcher, &mut received);
    assert_eq!(received[&1].tokens, [9, 8, 7]);
    assert_eq!(received[&1].done.unwrap().reason, FinishReason::Stop);
    // Greedy among one: certain as sampled, not as the model sees it.
    assert!(
        received[&1]
            .logprobs
            .iter()
            .all(|l| l.sampled_logprob == 0.0 && l.logprob < -0.1 && l.logprob.is_finite())
    );
    assert!(received[&2].failed && received[&2].done.is_none());
}
