//! Both forms, there and back; the merge beside upstream's; faults.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::{Adapter, LoraPair, merge, peft};
use crate::checkpoint::load::{load_model, named_tensors};
use crate::checkpoint::weights::METADATA;
use crate::checkpoint::{Value, convert, metadata, pth, tokenizer_folder};
use crate::model::{CausalLm, Mask, ModelOverrides, Params};

fn pair(rank: i64, scale: f64) -> LoraPair {
    let host = |t: Tensor| convert::to_host(&t).unwrap();
    let a = host(Tensor::randn([rank, 8], (Kind::Float, Device::Cpu)));
    let b = host(Tensor::randn([8, rank], (Kind::Float, Device::Cpu)));
    LoraPair::new("q", a, b, scale).unwrap()
}

fn adapter(pairs: &[(&str, LoraPair)]) -> Adapter {
    let pairs = pairs.iter().map(|(name, pair)| ((*name).to_owned(), pair.clone())).collect();
    Adapter { pairs, ..Adapter::default() }
}

fn deltas(adapter: &Adapter) -> Vec<(String, Tensor)> {
    adapter.pairs.iter().map(|(name, pair)| (name.clone(), pair.delta().unwrap())).collect()
}

fn same(left: &Adapter, right: &Adapter) {
    let (left, right) = (deltas(left), deltas(right));
    assert_eq!(left.len(), right.len());
    for ((a, x), (b, y)) in left.iter().zip(&right) {
        assert_eq!(a, b);
        assert!((x - y).abs().max().double_value(&[]) < 1e-5, "{a}");
    }
}

#[test]
fn both_forms_hold_the_same_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("lora_x_8.pth"), folder.path().join("peft"));
    let name = |layer: usize, part: &str| format!("model.layers.{layer}.self_attn.{part}");
    let (q0, q1, o0) = (name(0, "q_proj"), name(1, "q_proj"), name(0, "o_proj"));
    let cases = [
        adapter(&[(&q0, pair(2, 1.0)), (&q1, pair(2, 1.0))]),
        adapter(&[(&q0, pair(4, 0.75)), (&q1, pair(4, 0.75))]),
        adapter(&[(&o0, pair(4, 2.0)), (&q0, pair(2, 0.5))]),
        adapter(&[("model.layers.10.mlp.down_proj", pair(3, 1.0))]),
    ];
    for case in &cases {
        peft::write(case, Some("base"), &out).unwrap();
        let read = Adapter::read(&out).unwrap();
        same(&read, case);
        assert_eq!(read.base.as_deref(), Some("base"));
        read.write_pth(&file).unwrap();
        let back = Adapter::read(&file).unwrap();
        same(&back, case);
        assert!(back.pairs.iter().all(|(_, pair)| pair.scale == 1.0));
        assert_eq!(back.fingerprint().unwrap(), case.fingerprint().unwrap());
    }
    assert_ne!(cases[0].fingerprint().unwrap(), cases[1].fingerprint().unwrap());
    let config = |case: &Adapter| -> serde_json::Value {
        peft::write(case, None, &out).unwrap();
        serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (all, some) = (config(&cases[1]), config(&cases[3]));
    assert_eq!(
        (&all["target_modules"], &all["r"], &all["lora_alpha"]),
        (&serde_json::json!(["q_proj"]), &4.into(), &3.into())
    );
    assert_eq!(some["target_modules"], serde_json::json!(["model.layers.10.mlp.down_proj"]));
}

#[test]
fn other_adapters_and_damage_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("peft");
    let good = adapter(&[("model.layers.0.self_attn.q_proj", pair(2, 1.0))]);
    peft::write(&good, None, &out).unwrap();
    let file = out.join("adapter_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    // Every key that changes numbers and is not in the weights, or not computed, is refused by its name.
    for (from, to, key) in [
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"bias\": \"none\"", "\"bias\": \"some\"", "bias"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "IA3"),
        ("\"task_type\": \"CAUSAL_LM\"", "\"task_type\": \"SEQ_CLS\"", "task_type"),
        ("\"r\": 2", "\"r\": 3", "rank 3"),
        ("\"lora_alpha\": 2", "\"lora_alpha\": null", "lora_alpha"),
        ("[\n    \"q_proj\"\n  ]", "[\"k_proj\"]", "target_modules"),
        ("[\n    \"q_proj\"\n  ]", "\".*k_proj\"", "target_modules"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_(\": 2}", "rank_pattern"),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let fault = Adapter::read(&out).unwrap_err().to_string();
        assert!(fault.contains(key), "{key}: {fault}");
    }
    let added = |more: &str| {
        let (all, _) = text.rsplit_once('}').unwrap();
        std::fs::write(&file, format!("{all}, {more}}}")).unwrap();
        Adapter::read(&out).map(|adapter| adapter.pairs[0].1.scale).map_err(|fault| fault.to_string())
    };
    for key in [
        "\"layer_replication\": [[0, 1]]",
        "\"target_parameters\": [\"a\"]",
        "\"alora_invocation_tokens\": [1]",
        "\"use_qalora\": true",
        "\"use_bdlora\": {\"nblocks\": 2}",
        "\"kasa_config\": {\"beta\": 1}",
        "\"arrow_config\": {\"top_k\": 1}",
        "\"megatron_config\": {\"a\": 1}",
        "\"velora_config\": {\"a\": 1}",
        "\"monteclora_config\": {\"a\": 1}",
        "\"lora_bias\": true",
        "\"trainable_token_indices\": [1]",
        "\"init_lora_weights\": \"pissa_niter_4\"",
        "\"init_lora_weights\": \"corda\"",
        "\"init_lora_weights\": \"loftq\"",
        "\"init_lora_weights\": \"new\"",
        "\"exclude_modules\": [\"q_proj\"]",
        "\"exclude_modules\": \".*q_proj\"",
        "\"layers_to_transform\": [1]",
        "\"modules_to_save\": [\"q_proj\"]",
        "\"of_a_later_version\": 3",
        "\"enable_lora\": [true]",
    ] {
        let name = key.split('"').nth(1).unwrap();
        let fault = added(key).unwrap_err();
        assert!(fault.contains(&format!("`{name}`")), "{key}: {fault}");
    }
    for key in [
        "\"layer_replication\": null, \"use_qalora\": false, \"target_parameters\": [], \"of_a_later_version\": null",
        "\"init_lora_weights\": \"gaussian\", \"loftq_config\": {\"a\": 1}, \"qalora_group_size\": 16",
        "\"init_lora_weights\": \"eva\", \"eva_config\": {\"rho\": 2.0}, \"megatron_core\": \"megatron.core\"",
        "\"bias\": \"all\", \"fan_in_fan_out\": true, \"merge_weights\": true, \"revision\": \"main\"",
        "\"layers_to_transform\": 0, \"layers_pattern\": \"layers\", \"exclude_modules\": [\"k_proj\"]",
        "\"target_modules\": \"all-linear\"",
        "\"target_modules\": \".*(q|v)_proj$\"",
    ] {
        assert_eq!(added(key), Ok(1.0), "{key}");
    }
    assert_eq!(added("\"alpha_pattern\": {\"layers\\\\.0\\\\..*q_proj\": 8, \"q_proj\": 2}"), Ok(4.0));
    std::fs::write(&file, text.replace("\"use_rslora\": false", "\"use_rslora\": true")).unwrap();
    let scale = Adapter::read(&out).unwrap().pairs[0].1.scale;
    assert!((scale - 2.0f64.sqrt()).abs() < 1e-12, "{scale}");

    let half = folder.path().join("half.pth");
    let mut named = good.to_upstream().unwrap();
    named.pop();
    let dict = named.into_iter().map(|(name, t)| (name, crate::checkpoint::Value::Tensor(t)));
    pth::write(&half, &crate::checkpoint::Value::dict(dict), &[]).unwrap();
    assert!(Adapter::read(&half).unwrap_err().what().contains("lacks its A or its B"));
    assert!(Adapter::read(folder.path()).is_err() && Adapter::read(&folder.path().join("none")).is_err());
}

#[test]
fn merging_is_recorded_and_not_done_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let json = serde_json::json!({"era": "minimind3", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1});
    let config = ModelOverrides::from_json(&json).unwrap().resolve().unwrap();
    let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
    let value = crate::engine::resume::weights_value(&model, Kind::Float).unwrap();
    pth::write(&path("base.pth"), &value, &[("minimind.json", br#"{"recipe": "r"}"#)]).unwrap();
    let name = "model.layers.0.self_attn.q_proj";
    let one = adapter(&[(name, pair(2, 0.5))]);
    one.write_pth(&path("lora.pth")).unwrap();
    peft::write(&one, None, &path("peft")).unwrap();
    for out in ["merged.pth", "merged.safetensors"] {
        let done = merge::merge(&path("base.pth"), &path("lora.pth"), &path(out), None).unwrap();
        assert_eq!((done.modules, done.kind), (1, Kind::Float));
        let (old, new) = (named_tensors(&path("base.pth")).unwrap(), named_tensors(&path(out)).unwrap());
        let key = format!("{name}.weight");
        let want = &old[&key] + &deltas(&one)[0].1;
        assert!((&new[&key] - want).abs().max().double_value(&[]) < 1e-6);
        assert!(new["model.norm.weight"].equal(&old["model.norm.weight"]));
        load_model(&path(out), None, Device::Cpu, Kind::Float).unwrap();
        // The same numbers in either form are the same adapter.
        for again in ["lora.pth", "peft"] {
            let text =
                merge::merge(&path(out), &path(again), &path("twice.pth"), None).unwrap_err().to_string();
            assert!(text.contains("merged into these weights already") && text.contains("hint"), "{text}");
        }
    }
    let other = adapter(&[(name, pair(2, 1.0))]);
    other.write_pth(&path("other.pth")).unwrap();
    merge::merge(&path("merged.pth"), &path("other.pth"), &path("both.pth"), Some(Kind::BFloat16)).unwrap();
    let record = pth::read_extra(&path("both.pth"), "minimind.json").unwrap().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!((record["merged"].as_array().unwrap().len(), &record["recipe"]), (2, &"r".into()));
    let stray = adapter(&[("model.layers.7.self_attn.q_proj", pair(2, 1.0)), ("lm_head", pair(1, 1.0))]);
    stray.write_pth(&path("stray.pth")).unwrap();
    let text =
        merge::merge(&path("base.pth"), &path("stray.pth"), &path("x.pth"), None).unwrap_err().to_string();
    assert!(text.contains("no such Linear: model.layers.7") && text.contains("lm_head"), "{text}");
    assert!(merge::merge(&path("base.pth"), &path("lora.pth"), &path("x.bin"), None).is_err());
}

#[test]
fn our_own_files_state_their_scale() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora_8.pth");
    let one = adapter(&[("model.layers.0.self_attn.q_proj", pair(2, 1.0))]);
    let named = one.to_upstream().unwrap().into_iter().map(|(n, t)| (n, crate::checkpoint::Value::Tensor(t)));
    pth::write(
        &path,
        &crate::checkpoint::Value::dict(named),
        &[("minimind.json", br#"{"adapter": {"scale": 2.5}}"#)],
    )
    .unwrap();
    let read = Adapter::read(&path).unwrap();
    assert_eq!(read.pairs[0].1.scale, 2.5);
    assert_ne!(read.fingerprint().unwrap(), one.fingerprint().unwrap());
}

fn farthest(left: &Path, right: &Path) -> f64 {
    let (left, right) = (named_tensors(left).unwrap(), named_tensors(right).unwrap());
    let far = |(name, a): (&String, &Tensor)| {
        let b = right[name].to_kind(Kind::Float);
        (a.to_kind(Kind::Float) - b).abs().max().double_value(&[])
    };
    left.iter().map(far).fold(0.0, f64::max)
}

#[test]
fn the_references_adapters_are_read_and_merged_as_it_does() {
    let folder = tempfile::tempdir().unwrap();
    for variant in ["minimind3/tiny", "minimind2/tiny"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(variant);
        let read = Adapter::read(&root.join("lora.pth")).unwrap();
        assert_eq!((read.pairs.len(), read.pairs[0].1.rank()), (2, 2), "{variant}");
        let out = folder.path().join("merged.pth");
        // fp32: the logits are those with the adapter in place, up to the rounding of the stored adapter.
        merge::merge(&root.join("weights_fp32.pth"), &root.join("lora.pth"), &out, None).unwrap();
        let model = load_model(&out, None, Device::Cpu, Kind::Float).unwrap().model;
        let forward = named_tensors(&root.join("lora_forward.safetensors")).unwrap();
        let _no_grad = tch::no_grad_guard();
        let logits = model.logits(&model.hidden(&forward["input_ids"], Mask::Causal, false).0);
        let far = (logits - &forward["logits"]).abs().max().double_value(&[]);
        let tolerance = if variant.starts_with("minimind3") { 2e-3 } else { 2e-5 };
        println!("{variant}: logits {far:.1e}");
        assert!(far < tolerance, "{variant}: {far:.1e}");
        let upstream = root.join("lora_merged_fp16.pth");
        if upstream.exists() {
            let half = Some(Kind::Half);
            merge::merge(&root.join("weights_fp32.pth"), &root.join("lora.pth"), &out, half).unwrap();
            let far = farthest(&out, &upstream);
            println!("{variant}: fp16 merge {far:.1e}");
            assert!(far == 0.0, "{variant}: {far:.1e}");
        }
    }
}

/// A run whose last stage trained an adapter; and where the new file's tokenizer lies.
#[test]
fn a_merge_takes_a_model_and_keeps_its_tokenizer() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for folder in ["run/tok", "other", "elsewhere"] {
        std::fs::create_dir_all(path(folder)).unwrap();
    }
    std::fs::write(path("run/tok/tokenizer.json"), "{}").unwrap();
    let mut stated = crate::model::config::preset("minimind2").unwrap();
    (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(1), Some(48));
    let config = stated.resolve().unwrap();
    let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
    let value = crate::engine::resume::weights_value(&model, Kind::Float).unwrap();
    let write = |name: &str, value: &Value, said: serde_json::Value| {
        pth::write(&path(name), value, &[(METADATA, said.to_string().as_bytes())]).unwrap();
    };
    let matrix = |shape: [i64; 2]| {
        Value::Tensor(convert::to_host(&Tensor::ones(shape, (Kind::Float, Device::Cpu))).unwrap())
    };
    let halves = [("A", matrix([2, 32])), ("B", matrix([32, 2]))];
    let lora = Value::dict(
        halves.map(|(half, m)| (format!("model.layers.0.self_attn.q_proj.lora.{half}.weight"), m)),
    );
    write("run/sft_32.pth", &value, serde_json::json!({"config": config.to_json(), "tokenizer": "tok"}));
    write("other/plain_32.pth", &value, serde_json::json!({"config": config.to_json()}));
    let said = serde_json::json!({"tokenizer": "../run/tok", "adapter": {"base": "../run/sft_32.pth"}});
    write("other/lora_32.pth", &lora, said);

    let lora = path("other/lora_32.pth");
    let fault = merge::merge(&lora, &lora, &path("m.pth"), None).unwrap_err();
    assert_eq!((fault.what(), fault.exit_code()), ("this is an adapter, not a model", 2));
    assert!(fault.hint_text().unwrap().contains("../run/sft_32.pth"), "{fault}");

    let tok = path("run/tok").canonicalize().unwrap();
    for (base, out, named) in [
        ("run/sft_32.pth", "run/merged.pth", "tok"),
        ("run/sft_32.pth", "elsewhere/merged.safetensors", tok.to_str().unwrap()),
        ("other/plain_32.pth", "elsewhere/merged.pth", tok.to_str().unwrap()),
    ] {
        merge::merge(&path(base), &lora, &path(out), None).unwrap();
        assert_eq!(metadata::read(&path(out)).unwrap().unwrap()["tokenizer"], named, "{out}");
        let found = tokenizer_folder::find(&path(out)).unwrap().unwrap();
        assert_eq!(found.canonicalize().unwrap(), tok, "{out}");
    }
}

/// What peft takes out of the model's weights, and the lengths that DoRA gives its rows.
#[test]
fn kinds_beyond_plain_lora_are_added_as_in_peft() {
    use super::{apply::merged, lora::BaseInit};
    tch::manual_seed(5);
    let weight = Tensor::randn([8, 8], (Kind::Float, Device::Cpu));
    let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-5;
    let host = |t: &Tensor| convert::to_host(&t.contiguous()).unwrap();
    let kind = |pair: &LoraPair| merged(&weight, pair, Kind::Float).unwrap();
    // The parts that these kinds begin as give the model's own weights again.
    let (u, s, v) = weight.svd(true, true);
    let root = (s.narrow(0, 0, 3) / 0.5).sqrt();
    let a = (v.narrow(1, 0, 3) * &root).transpose(0, 1);
    let mut pissa = LoraPair::new("q", host(&a), host(&(u.narrow(1, 0, 3) * &root)), 0.5).unwrap();
    assert!(!near(&kind(&pissa), &weight));
    pissa.start = BaseInit::Pissa;
    assert!(near(&kind(&pissa), &weight));
    let (q, r) = Tensor::linalg_qr(&weight, "reduced");
    let mut olora = LoraPair::new("q", host(&r.narrow(0, 0, 3)), host(&q.narrow(1, 0, 3)), 0.5).unwrap();
    olora.start = BaseInit::Olora;
    assert!(near(&kind(&olora), &weight));
    for (embedding, across) in [(false, 1i64), (true, 0)] {
        let mut dora = pair(3, 0.5);
        dora.embedding = embedding;
        let sum = &weight + dora.delta().unwrap();
        let lengths = sum.norm_scalaropt_dim(2, across, false);
        dora.magnitude = Some(host(&(&lengths * 2)));
        assert!(near(&kind(&dora), &(&sum * 2)), "{embedding}");
        dora.magnitude = Some(host(&lengths.narrow(0, 0, 5)));
        assert!(merged(&weight, &dora, Kind::Float).is_err());
    }
}
