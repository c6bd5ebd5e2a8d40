//! `minimind serve`: models over HTTP, with a page to talk to them.
//!
//! Turns flags into [`crate::serve`]'s settings and the closures that read models. Next: `serve`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::open::{HowArgs, open_named};
use super::pull;
use crate::checkpoint::adapter::Adapter;
use crate::error::{Error, Place, Result};
use crate::serve::{self, Limits, LoadModel, LoadedModel, ModelSource, Settings};

/// What is served, where, and within what limits.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to serve, as for chat; several by name (NAME=M), the first is the default.
    #[arg(long, value_name = "[NAME=]M", required = true)]
    model: Vec<String>,
    /// A LoRA adapter on one of the models (on the first without @MODEL), served under a name of its own.
    #[arg(long, value_name = "NAME=FILE[@MODEL]")]
    adapter: Vec<String>,
    #[command(flatten)]
    how: HowArgs,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 for any that is free.
    #[arg(long, default_value_t = 8998)]
    port: u16,
    /// What clients must show as `Authorization: Bearer K`.
    #[arg(long, value_name = "K")]
    api_key: Option<String>,
    /// A file whose first line is the key: other users of this machine cannot see it.
    #[arg(long, value_name = "FILE", conflicts_with = "api_key")]
    api_key_file: Option<PathBuf>,
    /// Listen beyond this machine without a key.
    #[arg(long)]
    insecure: bool,
    /// A page's origin that may call, such as `https://example.org`, or * for all.
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What a client cannot exceed.
#[derive(Debug, clap::Args)]
struct LimitArgs {
    /// Generations decoded together.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// Generations that may wait; beyond them clients get 429.
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: u32,
    /// Tokens of a prompt and its answer together, within what the model sees.
    #[arg(long, value_name = "TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(2..))]
    context: u32,
    /// Most new tokens of an answer.
    #[arg(long, value_name = "TOKENS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Largest body of a request.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    max_body_bytes: usize,
    /// Longest time of a request.
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_secs: u64,
    /// Longest time that a client may take nothing of its answer.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    write_timeout_secs: u64,
    /// Most open connections, within what the system allows (ulimit -n); idle ones make room for others.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    connections: u32,
    /// Time for what runs when the server is told to stop.
    #[arg(long, value_name = "S", default_value_t = 30)]
    drain_secs: u64,
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        let defaults = Limits::default();
        Limits {
            slots: self.slots as usize,
            queue: self.queue as usize,
            context: self.context as usize,
            new_tokens: self.max_new_tokens as usize,
            default_new_tokens: defaults.default_new_tokens.min(self.max_new_tokens as usize),
            body_bytes: self.max_body_bytes,
            request: Duration::from_secs(self.timeout_secs),
            drain: Duration::from_secs(self.drain_secs),
            write: Duration::from_secs(self.write_timeout_secs),
            connections: self.connections as usize,
            ..defaults
        }
    }
}

/// Serves until the process is told to stop.
///
/// # Errors
/// A flag is wrong, a model cannot be read, or the address cannot be bound.
pub fn run(args: Args) -> Result<()> {
    let api_key = match &args.api_key_file {
        Some(file) => Some(first_line(file)?),
        None => args.api_key.clone(),
    };
    if api_key.as_deref().is_some_and(str::is_empty) {
        return Err(Error::input("the API key is empty").hint("give a key, or none at all"));
    }
    let settings = Settings {
        host: address(&args.host)?,
        port: args.port,
        api_key,
        insecure: args.insecure,
        cors: args.cors.clone(),
        limits: args.limits.limits(),
    };
    if let Some(origin) = settings.cors.iter().find(|o| *o != "*" && !o.contains("://")) {
        return Err(
            Error::input(format!("--cors {origin} is not an origin")).hint("write it as https://example.org")
        );
    }
    serve::run(settings, sources(args)?)
}

/// Everything that is served, in the order given: models, then adapters on them.
fn sources(args: Args) -> Result<Vec<ModelSource>> {
    let how = Arc::new(args.how);
    let mut sources: Vec<ModelSource> = Vec::new();
    let mut add = |source: ModelSource| {
        if sources.iter().any(|s| s.name == source.name) {
            return Err(Error::input(format!("two models are called `{}`", source.name))
                .hint("give each a name: --model a=PATH --model b=PATH --adapter c=FILE"));
        }
        sources.push(source);
        Ok(())
    };
    let models: Vec<(String, &str)> = args.model.iter().map(|spec| named(spec)).collect();
    for (name, model) in &models {
        add(source(name, model, &how)?)?;
    }
    for spec in &args.adapter {
        let (name, file) = named(spec);
        let (file, (base, model)) = based(file, &models)?;
        let adapter = PathBuf::from(file);
        // Said now rather than when everything else is up.
        Adapter::read(&adapter)?;
        let origin = format!("{file} on {base}");
        add(ModelSource { name, origin, run: None, load: loader(model, Some(adapter), &how) })?;
    }
    Ok(sources)
}

/// An adapter's file and the model it stands on: the one behind the last `@`, else the first.
fn based<'a>(spec: &'a str, models: &'a [(String, &'a str)]) -> Result<(&'a str, &'a (String, &'a str))> {
    let (file, base) = match spec.rsplit_once('@') {
        Some(parts) if !Path::new(spec).exists() => parts,
        _ => return Ok((spec, &models[0])),
    };
    let found = models.iter().find(|(name, _)| name == base);
    found.map(|model| (file, model)).ok_or_else(|| {
        let known: Vec<&str> = models.iter().map(|(name, _)| name.as_str()).collect();
        Error::input(format!("--adapter {spec} stands on `{base}`, which is not served"))
            .hint(format!("served: {}", known.join(", ")))
    })
}

fn first_line(file: &Path) -> Result<String> {
    let text = crate::files::read_to_string(file).map_err(|e| Error::io("read the API key", file, e))?;
    match text.lines().next().map(str::trim) {
        Some(key) if !key.is_empty() => Ok(key.to_owned()),
        _ => Err(Error::input("the file's first line holds no key").at(Place::file(file))),
    }
}

fn address(host: &str) -> Result<IpAddr> {
    match host {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        _ => host.parse().map_err(|_| {
            Error::input(format!("--host {host} is not an address"))
                .hint("127.0.0.1 for this machine, 0.0.0.0 for all that can reach it")
        }),
    }
}

/// `NAME=M`, or `M` under the name of its folder or file.
fn named(spec: &str) -> (String, &str) {
    if let Some((name, model)) = spec.split_once('=')
        && !name.is_empty()
        && !name.contains(['/', '\\'])
        && !Path::new(spec).exists()
    {
        return (name.to_owned(), model);
    }
    let bare = spec.trim_end_matches('/');
    let last = bare.rsplit('/').next().unwrap_or(bare);
    let stem = [".pth", ".safetensors", ".gguf"].iter().find_map(|end| last.strip_suffix(end));
    (stem.unwrap_or(last).to_owned(), spec)
}

fn source(name: &str, model: &str, how: &Arc<HowArgs>) -> Result<ModelSource> {
    // Said now rather than when everything else is up.
    pull::locate(model)?;
    let folder = Path::new(model.rsplit_once(':').map_or(model, |(run, _)| run));
    let run =
        [Path::new(model), folder].into_iter().find(|f| f.join("plan.json").is_file()).map(Path::to_owned);
    Ok(ModelSource { name: name.to_owned(), origin: model.to_owned(), run, load: loader(model, None, how) })
}

/// Reads a model, with an adapter on it where one is given; again at each reload.
fn loader(model: &str, adapter: Option<PathBuf>, how: &Arc<HowArgs>) -> LoadModel {
    let (model, how) = (model.to_owned(), Arc::clone(how));
    Box::new(move || {
        let opened = open_named(&model, adapter.as_deref(), &how)?;
        opened.tokenizer()?;
        let tokenizer = opened.tokenizer.expect("a tokenizer was found");
        Ok(LoadedModel { model: opened.model, tokenizer, stop_ids: opened.ends, storage: opened.storage })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_the_name_given_or_its_own() {
        assert_eq!(named("small=out/x.pth"), ("small".into(), "out/x.pth"));
        assert_eq!(named("checkpoints/quickstart/"), ("quickstart".into(), "checkpoints/quickstart/"));
        assert_eq!(named("out/full_sft_768.pth").0, "full_sft_768");
        assert_eq!(named("runs/a:sft").0, "a:sft");
        assert_eq!(named("out/lr=3/x.pth").0, "x");
    }

    #[test]
    fn an_adapter_stands_on_the_model_named_or_the_first() {
        let models = [("a".to_owned(), "x.pth"), ("b".to_owned(), "y.pth")];
        assert_eq!(based("l.pth", &models).unwrap(), ("l.pth", &models[0]));
        assert_eq!(based("d@v/l.pth@b", &models).unwrap(), ("d@v/l.pth", &models[1]));
        let fault = based("l.pth@c", &models).unwrap_err().to_string();
        assert!(fault.contains("`c`, which is not served") && fault.contains("a, b"), "{fault}");
    }
}
