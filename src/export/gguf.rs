//! GGUF for llama.cpp and Ollama: the model with its tokenizer in one file, and a Modelfile beside it.
//!
//! `checkpoint::gguf` writes the file; here the model's tokenizer is added and both are checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use tch::{Device, Kind};

use super::check::{self, Check};
use super::options::Precision;
use super::source::Source;
use crate::atomic;
use crate::checkpoint::eos;
use crate::checkpoint::gguf::{self, Contents, Vocabulary};
use crate::checkpoint::{convert, load};
use crate::data::Tokenizer;
use crate::data::tokenizer::gguf::vocabulary;
use crate::data::tokenizer::{self, RenderOptions};
use crate::error::{Error, Place, Result};
use crate::model::{CausalLm, Params};

/// The tokenizer for the file: the folder's, else that of a GGUF as source.
fn tokenizer(source: &Source) -> Result<Vocabulary> {
    if let Some(folder) = &source.tokenizer {
        return vocabulary(folder);
    }
    let own = match gguf::is_gguf(&source.path) {
        true => Vocabulary::of(&gguf::open(&source.path)?).map_err(|e| e.at(Place::file(&source.path)))?,
        false => None,
    };
    own.ok_or_else(|| {
        Error::input(
            "no tokenizer was found beside the model, and llama.cpp takes none but the one in the GGUF",
        )
        .hint("name one with --tokenizer DIR")
    })
}

/// EOS ids. A GGUF as source has its tokenizer inside, which `Source` does not read.
fn eos_token_ids(source: &Source, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
    if source.tokenizer.is_some() {
        return Ok(source.ends.clone());
    }
    let words = Tokenizer::from_vocabulary(vocabulary, &source.path)?;
    Ok(tokenizer::eos_token_ids(Some(&words), &eos::token_ids(&source.path)?))
}

fn stored(precision: Precision) -> gguf::FileType {
    match precision {
        Precision::Fp32 => gguf::FileType::F32,
        Precision::Fp16 => gguf::FileType::F16,
        Precision::Bf16 => gguf::FileType::Bf16,
        Precision::Q8_0 => gguf::FileType::Q8_0,
        Precision::Q4_0 => gguf::FileType::Q4_0,
    }
}

/// Writes the file.
///
/// # Errors
/// There is no tokenizer; llama.cpp has no such architecture; the disk fails.
pub fn write(source: &Source, precision: Precision, path: &Path) -> Result<()> {
    let vocabulary = tokenizer(source)?;
    let params = source.model.params();
    let hosts = convert::borrow_all(params.tensors().iter())?;
    let weights: HashMap<_, _> = params.names().iter().cloned().zip(hosts).collect();
    let name = source.path.file_stem().map_or("minimind".into(), |s| s.to_string_lossy());
    let contents = Contents {
        config: source.model.config(),
        vocabulary: Some(&vocabulary),
        eos_token_ids: &eos_token_ids(source, &vocabulary)?,
        name: &name,
        file_type: stored(precision),
    };
    gguf::write(path, &contents, &weights)
}

/// Loads the file and compares it in fp32 with the source after the same rounding, so that what is left is a fault of
/// the format. The effect of the rounding itself is reported, not judged: a router close to a tie may choose another
/// expert, however small the change.
///
/// # Errors
/// It cannot be loaded; logits or the tokenizer differ.
pub fn compare(source: &Source, precision: Precision, path: &Path) -> Result<Check> {
    let back = load::load_model(path, None, Device::Cpu, Kind::Float)?;
    let ids = check::random_ids(&source.model);
    let got = check::logits(&back.model, &ids);
    let want = check::logits(&rounded(source, precision)?, &ids);
    let logits = check::compare(&want, &got, check::tolerance(Kind::Float), "logits of the rounded weights")?;
    let exact = check::logits(&source.model, &ids);
    let cost =
        (&exact - got).norm().double_value(&[]) / exact.norm().double_value(&[]).max(f64::MIN_POSITIVE);
    let (before, after) = (tokenizer(source)?, Vocabulary::of(&gguf::open(path)?)?);
    let kept = after.is_some_and(|after| {
        let n = before.tokens.len();
        (after.tokens.get(..n), &after.merges, &after.template)
            == (Some(&before.tokens[..]), &before.merges, &before.template)
    });
    if !kept {
        return Err(Error::failed("the export's tokenizer is not its source's"));
    }
    let cost = format!("the rounding moves logits by {:.2}% (root mean square)", cost * 100.0);
    Ok(Check { compared: [logits.compared, vec!["tokenizer".to_owned(), cost]].concat(), ..logits })
}

/// The source with its weights rounded as in a file of this precision.
fn rounded(source: &Source, precision: Precision) -> Result<CausalLm> {
    let (config, params) = (source.model.config(), source.model.params());
    let rounded = Params::build(config, |spec| {
        let weight =
            gguf::rounded(&spec.name, &convert::to_host(&params.get(&spec.name))?, stored(precision))?;
        convert::to_tensor(&weight)
    })?;
    Ok(CausalLm::new(config, rounded))
}

/// Writes Ollama's `Modelfile` for `file` beside it; returns its path.
///
/// # Errors
/// The tokenizer cannot be read; the disk fails.
pub fn modelfile(source: &Source, file: &Path) -> Result<PathBuf> {
    let path = file.with_file_name("Modelfile");
    let vocabulary = tokenizer(source)?;
    let words = Tokenizer::from_vocabulary(&vocabulary, file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut text = format!("# ollama create NAME -f Modelfile\nFROM ./{name}\n");
    match template(&words) {
        Some(template) => text += &format!("TEMPLATE \"\"\"{template}\"\"\"\n"),
        None => {
            text += "# The chat template of this model does not fit Ollama's language; llama.cpp uses it from the GGUF.\n"
        }
    }
    // What `minimind chat` samples with.
    for id in eos_token_ids(source, &vocabulary)? {
        text += &format!("PARAMETER stop {}\n", words.decode(&[id], false)?);
    }
    text += "PARAMETER temperature 0.85\nPARAMETER top_p 0.85\n";
    atomic::write_bytes(&path, text.as_bytes())?;
    Ok(path)
}

/// The chat template in Ollama's language (Go's `text/template`), where it is turns between marks: what it
/// renders is compared with what the template itself does, and a template of another form is left out.
fn template(words: &Tokenizer) -> Option<String> {
    let (open, close) = (words.bos_token().unwrap_or("<|im_start|>"), words.eos_token());
    let options = RenderOptions::prompt();
    let render =
        |messages: &serde_json::Value| words.apply_chat_template(messages, None, options.clone()).ok();
    let turn = |role: &str, text: &str| format!("{open}{role}\n{text}{close}\n");
    let answer = format!("{open}assistant\n");

    let alone = render(&json!([{"role": "user", "content": "Q"}]))?;
    let (before, opening) = alone.split_once(&turn("user", "Q"))?;
    let opening = opening.strip_prefix(&answer)?;
    let rendered = render(&json!([
        {"role": "system", "content": "S"}, {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"}, {"role": "user", "content": "R"},
    ]))?;
    // A template may open earlier answers as it opens the next, with an empty think block.
    let expected = |past: &str| {
        let past = turn("assistant", &format!("{past}A"));
        [turn("system", "S"), turn("user", "Q"), past, turn("user", "R"), format!("{answer}{opening}")]
            .concat()
    };
    let past = ["", opening].into_iter().find(|past| rendered == expected(past))?;
    let quoted =
        [open, close, before, opening].iter().any(|part| part.contains("{{") || part.contains("\"\"\""));
    if quoted {
        return None;
    }
    let default = if before.is_empty() {
        String::new()
    } else {
        format!("{{{{ if not .System }}}}{before}{{{{ end }}}}")
    };
    let past = match past {
        "" => String::new(),
        past => format!("{{{{ if eq .Role \"assistant\" }}}}{past}{{{{ end }}}}"),
    };
    Some(format!(
        "{default}{{{{ range .Messages }}}}{open}{{{{ .Role }}}}\n{past}{{{{ .Content }}}}{close}\n{{{{ end }}}}{answer}{opening}"
    ))
}
