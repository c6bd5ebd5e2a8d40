//! A user's folder, with what upstream's scripts leave there.

use std::path::PathBuf;
use std::process::{Command, Output};

use minimind::checkpoint::pth;
use minimind::data::tokenizer::builtin::BuiltinTokenizer;
use minimind::engine::resume::weights_value;
use minimind::model::{CausalLm, ModelOverrides, Params};
use tch::{Device, Kind};

use super::{minimind, succeed};

/// A folder of a user's, with caches of its own.
pub struct Home(pub tempfile::TempDir);

impl Home {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file in it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Weights as upstream's scripts write them: a plain state_dict, nothing said of it.
    pub fn weights(&self, name: &str, preset: &str, rows: i64) {
        let mut stated: ModelOverrides = minimind::model::config::preset(preset).unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(1), Some(rows));
        stated.num_attention_heads = Some(8);
        stated.num_key_value_heads = Some(4);
        let config = stated.resolve().unwrap();
        tch::manual_seed(1);
        let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        pth::write(&path, &weights_value(&model, Kind::Half).unwrap(), &[]).unwrap();
    }

    /// One of MiniMind's tokenizers, in a folder.
    pub fn tokenizer(&self, folder: &str, standard: BuiltinTokenizer) {
        let made = standard.folder(&self.path("elsewhere")).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            self.write(&format!("{folder}/{file}"), std::fs::read(made.join(file)).unwrap());
        }
    }

    /// The program, at home there.
    pub fn run(&self, arguments: &[&str]) -> Command {
        let mut command = minimind();
        command.current_dir(self.0.path()).args(arguments);
        command.env("HOME", self.0.path()).env("XDG_CACHE_HOME", self.path("cache")).env_remove("RUST_LOG");
        command
    }
}

/// What the program said, on both ways.
pub fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What it said of a fault of the input.
pub fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{command:?}\n{}", told(&output));
    told(&output)
}

/// Two tokens, the likeliest.
pub const GREET: [&str; 5] = ["--prompt", "hi", "--greedy", "--max-new-tokens", "2"];

/// What `generate` says.
pub fn generate(home: &Home, model: &str, more: &[&str]) -> String {
    let arguments = [&["generate", "--model", model][..], &GREET, more].concat();
    told(&succeed(&mut home.run(&arguments)))
}
