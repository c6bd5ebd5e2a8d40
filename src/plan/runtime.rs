//! `runtime:` of a recipe: device, precision, threads, processes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::resolve::Resolver;
use super::schema::NumberOrText;
use crate::engine::device::Wanted;
use crate::engine::{Compute, DdpBackend};
use crate::recipe::faults::hint;

/// Where and how tensors are computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Runtime {
    /// auto, cpu, cuda, cuda:N or mps; auto is resolved when the run starts.
    #[serde(skip_deserializing, default = "automatic")]
    #[schemars(!skip_deserializing, with = "String")]
    pub device: Wanted,
    /// Arithmetic of forward and backward.
    #[schemars(extend("default" = "auto"))]
    pub precision: Precision,
    /// Threads of the CPU, or auto (all cores, shared by the processes of --nproc).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "NumberOrText")]
    pub threads: Option<usize>,
    /// With several processes: each keeps a part of the optimizer's state.
    #[schemars(extend("default" = false))]
    pub shard_optimizer: bool,
    /// With several processes, what adds gradients up: nccl between GPUs, gloo through the host, or auto (nccl where each
    /// process has a GPU of its own).
    #[schemars(extend("default" = "auto"))]
    pub ddp_backend: DdpBackend,
}

/// Arithmetic of the forward and backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// fp32 on the CPU, bf16 on a GPU.
    Auto,
    /// 32-bit.
    Fp32,
    /// bf16 autocast.
    Bf16,
    /// fp16 autocast with loss scaling.
    Fp16,
}

impl Precision {
    /// The arithmetic on a device: `auto` is fp32 on the CPU and bf16 on a GPU.
    pub fn compute(self, device: tch::Device) -> Compute {
        match self {
            Precision::Fp32 => Compute::Fp32,
            Precision::Bf16 => Compute::Bf16,
            Precision::Fp16 => Compute::Fp16,
            Precision::Auto if matches!(device, tch::Device::Cuda(_)) => Compute::Bf16,
            Precision::Auto => Compute::Fp32,
        }
    }
}

fn automatic() -> Wanted {
    Wanted::Auto
}

/// `auto`, `cpu`, `cuda`, `cuda:N`, `mps`; `None` for another word.
pub fn parse_device(text: &str) -> Option<Wanted> {
    Some(match text {
        "auto" => Wanted::Auto,
        "cpu" => Wanted::Cpu,
        "cuda" => Wanted::Cuda(0),
        "mps" => Wanted::Mps,
        _ => Wanted::Cuda(text.strip_prefix("cuda:")?.parse().ok()?),
    })
}

impl Resolver<'_> {
    pub(super) fn runtime(&mut self) -> Option<Runtime> {
        let s = self.section(&["runtime".to_owned()]);
        let device = s.text("device").unwrap_or("auto");
        let device = parse_device(device).unwrap_or_else(|| {
            let hint = hint(device, &["auto", "cpu", "cuda", "cuda:0", "mps"], "allowed");
            self.fault(&s.at("device"), format!("`device` is `{device}`"), hint);
            Wanted::Auto
        });
        let threads = match s.map.get("threads") {
            None => None,
            Some(Value::String(text)) if text == "auto" => None,
            Some(Value::Number(n))
                if n.as_f64().is_some_and(|n| n.fract() == 0.0 && (1.0..=1024.0).contains(&n)) =>
            {
                n.as_f64()
            }
            Some(other) => {
                let shown = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                let hint = "give auto or a whole number from 1 to 1024";
                self.fault(&s.at("threads"), format!("`threads` is `{shown}`"), hint);
                None
            }
        };
        let config: Runtime = self.read(&s, &[])?;
        Some(Runtime { device, threads: threads.map(|n| n as usize), ..config })
    }
}
