//! Exports of small models of every shape, read back.

use super::*;
use crate::model::{CausalLm, ModelConfig, Params};
use tch::{Device, Kind};

/// Both eras, dense and with experts, tied and not, with a head size of its own.
pub fn configs() -> Vec<ModelConfig> {
    let made = |preset: &str, tied: bool, head_dim: Option<i64>| {
        let mut stated = crate::model::config::preset(preset).unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(2), Some(70));
        (stated.num_attention_heads, stated.num_key_value_heads) = (Some(4), Some(2));
        (stated.tie_word_embeddings, stated.head_dim) = (Some(tied), head_dim);
        stated.resolve().unwrap()
    };
    vec![
        made("minimind2", true, None),
        made("minimind2-moe", false, None),
        made("minimind3", false, Some(6)),
        made("minimind3-moe", true, None),
    ]
}

/// A source on disk with fresh weights that are far from zero.
pub fn source(folder: &Path, config: &ModelConfig) -> Source {
    tch::manual_seed(7);
    let model = CausalLm::new(config, Params::init(config, Device::Cpu).unwrap());
    for tensor in model.params().tensors().iter().filter(|t| t.dim() == 1) {
        let _ = tch::no_grad(|| tensor.shallow_clone().uniform_(0.5, 1.5));
    }
    let value = crate::engine::resume::weights_value(&model, Kind::Float).unwrap();
    let path = folder.join("sft_32.pth");
    let about = serde_json::json!({"config": config.to_json(), "recipe": "r", "tokenizer": "nowhere"});
    crate::checkpoint::pth::write(&path, &value, &[("minimind.json", about.to_string().as_bytes())]).unwrap();
    Source::open(&path, None, None).unwrap()
}

#[test]
fn files_hold_the_same_model_and_say_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    for config in configs() {
        let source = source(folder.path(), &config);
        for format in [Format::Pth, Format::Safetensors] {
            for precision in [None, Some(Precision::Fp16), Some(Precision::Bf16)] {
                let out = folder.path().join("deep/er").join(format.file_name("out"));
                let options = Options { precision, ..Options::default() };
                let report = export(format, &source, &out, &options).unwrap();
                assert_eq!(report.precision, precision.unwrap_or(Precision::Fp32));
                assert_eq!(report.check.unwrap().largest_difference, 0.0);
                assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
                let back = Source::open(&out, None, None).unwrap();
                assert_eq!(back.stored, report.precision.kind());
                assert_eq!(back.model.config(), &config);
                assert_eq!(back.metadata["recipe"], "r");
                assert_eq!(back.metadata["exported_from"], "sft_32.pth");
                assert!(!back.metadata.contains_key("tokenizer"));
            }
        }
    }
    let drafts = std::fs::read_dir(folder.path().join("deep/er")).unwrap().count();
    assert_eq!(drafts, 2, "no draft stays");
}

#[test]
fn a_wrong_export_is_refused_and_the_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source(folder.path(), &configs()[0]);
    let out = folder.path().join("out.pth");
    export(Format::Pth, &source, &out, &Options::default()).unwrap();
    let before = std::fs::read(&out).unwrap();
    let same = export(Format::Pth, &source, &folder.path().join("./sft_32.pth"), &Options::default());
    assert_eq!(same.unwrap_err().exit_code(), 2);
    // A model whose tables of positions are not what its file will say computes something else.
    source.model = source.model.with_yarn();
    let mut config = source.model.config().clone();
    let want = check::logits(&source.model, &check::random_ids(&source.model));
    config.rope_theta = 10.0;
    let params = Params::from_named(
        &config,
        source
            .model
            .params()
            .names()
            .iter()
            .cloned()
            .zip(source.model.params().tensors().iter().map(|t| t.copy()))
            .collect(),
        Device::Cpu,
        Kind::Float,
    );
    let other = CausalLm::new(&config, params.unwrap());
    let got = check::logits(&other, &check::random_ids(&other));
    let fault = check::compare(&want, &got, check::tolerance(Kind::Float), "logits").unwrap_err();
    assert!(fault.to_string().contains("largest difference of logits"), "{fault}");
    let nan = &want * f64::NAN;
    assert!(
        check::compare(&want, &nan, 1.0, "logits").is_err() && check::compare(&nan, &want, 1.0, "x").is_err()
    );
    // An export that fails on the way leaves what was there, and no draft.
    let frozen = Options { freeze: true, ..Options::default() };
    assert_eq!(export(Format::Pth, &source, &out, &frozen).unwrap_err().exit_code(), 2);
    assert_eq!(std::fs::read(&out).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn an_export_names_its_tokenizer_in_every_form() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = source(folder.path(), &configs()[0]);
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    source.tokenizer = Some(folder.path().to_owned());
    source.metadata.insert("base".into(), serde_json::json!({"path": ["/home/somebody/base.pth", "a/b"]}));
    for format in [Format::Pth, Format::Safetensors, Format::Torchscript] {
        let out = other.path().join(format.file_name("out"));
        export(format, &source, &out, &Options { verify: false, ..Options::default() }).unwrap();
        let found = crate::checkpoint::tokenizer_folder::find(&out).unwrap();
        let found = found.and_then(|found| found.canonicalize().ok());
        assert_eq!(found, Some(folder.path().canonicalize().unwrap()), "{}", format.name());
        let said = crate::checkpoint::metadata::read(&out).unwrap().unwrap()["tokenizer"].clone();
        let all = crate::checkpoint::metadata::read(&out).unwrap().unwrap();
        assert_eq!(all["base"], serde_json::json!({"path": ["base.pth", "a/b"]}));
        assert!(said.as_str().is_some_and(|way| way.starts_with("../")), "{said}");
    }
}

/// Whatever the draft is, its rename would put a file where a device or a pipe was.
#[cfg(unix)]
#[test]
fn a_pipe_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), &configs()[0]);
    let pipe = |path: &Path| {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let out = folder.path().join("pipe");
    pipe(&out);
    for format in [Format::Pth, Format::Safetensors, Format::Torchscript, Format::Huggingface] {
        let fault = export(format, &source, &out, &Options::default()).unwrap_err();
        assert_eq!(fault.exit_code(), 2, "{fault}");
    }
    let hf = folder.path().join("hf");
    std::fs::create_dir(&hf).unwrap();
    pipe(&hf.join("config.json"));
    assert_eq!(export(Format::Huggingface, &source, &hf, &Options::default()).unwrap_err().exit_code(), 2);
    assert_eq!(std::fs::read_dir(&hf).unwrap().count(), 1);
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        3,
        "the model, the pipe, the folder; no draft"
    );
}

#[test]
fn torchscript_of_every_shape_computes_the_same_and_is_read_as_data() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.pt");
    for config in configs() {
        let mut source = source(folder.path(), &config);
        for yarn in [false, true] {
            if yarn {
                source.model = source.model.with_yarn();
            }
            for (precision, freeze) in
                [(None, false), (None, true), (Some(Precision::Fp16), false), (Some(Precision::Bf16), true)]
            {
                let options = Options { precision, freeze, ..Options::default() };
                let report = export(Format::Torchscript, &source, &out, &options).unwrap();
                let check = report.check.unwrap();
                assert!(check.compared.iter().any(|what| what == "cached logits"), "{check:?}");
                let script = crate::checkpoint::pth::read_script(&out).unwrap();
                let about: serde_json::Value = serde_json::from_slice(&script.metadata.unwrap()).unwrap();
                assert_eq!(about["config"]["inference_rope_scaling"], yarn);
                for method in ["forward(input_ids: Tensor", "forward_cached(input_ids", "generate(input_ids"]
                {
                    assert!(script.methods.iter().any(|m| m.starts_with(method)), "{:?}", script.methods);
                }
                let constants: usize = script.constants.iter().map(|t| t.numel()).sum();
                if freeze {
                    assert!(script.tensors.is_empty() && constants as u64 >= report.parameters);
                    let fault = Source::open(&out, None, None).unwrap_err();
                    assert!(fault.to_string().contains("frozen"), "{fault}");
                    continue;
                }
                let state = crate::engine::resume::state_dict(&source.model);
                let want: Vec<_> = state.iter().map(|(name, t)| (name.clone(), t.size())).collect();
                let got: Vec<_> = script.tensors.iter().map(|(n, t)| (n.clone(), t.shape())).collect();
                assert_eq!(got, want, "upstream's names in upstream's order");
                let dtype = script.tensors[0].1.dtype().kind();
                assert_eq!(dtype, report.precision.kind());
                // Its weights are a model again, whatever the program does with them.
                let back = Source::open(&out, None, None).unwrap();
                assert_eq!((back.stored, back.model.config()), (dtype, source.model.config()));
                let rounded = source.model_as(dtype).unwrap();
                for (a, b) in back.model.params().tensors().iter().zip(rounded.params().tensors()) {
                    assert!(a.equal(&b.to_kind(Kind::Float)));
                }
            }
        }
    }
}

#[test]
fn a_script_that_computes_something_else_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.pt");
    let mut source = source(folder.path(), &configs()[2]);
    torchscript::write(&source, Precision::Fp32, torchscript::WeightForm::Parameters, &out).unwrap();
    torchscript::compare(&source, Kind::Float, &out).unwrap();
    let norm = source.model.params().get("model.norm.weight");
    let _ = tch::no_grad(|| norm.shallow_clone().g_mul_scalar_(1.001));
    let fault = torchscript::compare(&source, Kind::Float, &out).unwrap_err();
    assert!(fault.to_string().contains("does not compute"), "{fault}");
    source.model = source.model.with_yarn();
    assert!(torchscript::compare(&source, Kind::Float, &out).is_err());
}
