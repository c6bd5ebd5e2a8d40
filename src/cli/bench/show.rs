//! How `minimind bench` prints its results: one JSON object, or a table.

use serde_json::{Value, json};
use tch::Device;

use super::load::Loaded;
use super::{Args, Figure, Limits};
use crate::engine::device;
use crate::model::{CausalLm, params};
use crate::native::instruction_set;

/// Everything that was measured.
pub(super) struct Results<'a> {
    pub model: &'a CausalLm,
    pub threads: usize,
    pub limits: Limits,
    pub figures: Vec<Figure>,
    pub loaded: Option<Loaded>,
}

/// Prints the results to stdout.
pub(super) fn show(args: &Args, results: &Results<'_>) {
    if args.json {
        return println!("{}", to_json(results));
    }
    machine_line(results);
    if let Some(loaded) = &results.loaded {
        load_line(loaded);
    }
    if results.figures.is_empty() {
        return;
    }
    println!(
        "{:<8} {:<9} {:>4} {:>10} {:>10} {:>6}  bound by",
        "what", "weights", "rows", "tokens/s", "limit", "share"
    );
    results.figures.iter().for_each(figure_line);
}

fn to_json(results: &Results<'_>) -> Value {
    let Results { model, threads, limits, figures, loaded } = results;
    let (parameters, _) = params::count(model.config());
    let load = loaded.iter().map(|l| {
        json!({
            "what": "load", "precision": "fp32", "bytes": l.bytes, "seconds": l.seconds,
            "copy_seconds": l.copy_seconds, "share_of_limit": l.copy_seconds / l.seconds,
            "added_memory_bytes": l.added_bytes,
        })
    });
    let results: Vec<Value> = figures.iter().map(figure_json).chain(load).collect();
    let machine = json!({
        "device": device::name(model.device()), "threads": threads, "instructions": instruction_set(),
        "read_bytes_per_s": limits.read, "flops": limits.flops,
    });
    json!({"machine": machine, "parameters": parameters, "results": results})
}

fn figure_json(figure: &Figure) -> Value {
    let mut row = json!({
        "what": figure.what, "precision": figure.precision, "rows": figure.rows,
        "tokens_per_s": figure.tokens_per_s, "limit_tokens_per_s": figure.limit, "bound": figure.bound,
        "share_of_limit": figure.tokens_per_s / figure.limit,
    });
    if let Some(trained) = &figure.trained {
        row["peak_memory_bytes"] = json!(trained.peak_bytes);
        row["operations_per_token"] = json!(trained.operations / trained.tokens as f64);
        row["processor_seconds"] = json!(trained.processor_seconds);
        row["matrix_flops"] = json!(trained.matrix_flops);
        row["loss"] = json!(trained.loss);
    }
    row
}

fn machine_line(results: &Results<'_>) {
    let Results { model, threads, limits, .. } = results;
    let millions = params::count(model.config()).0 as f64 / 1e6;
    let (read, flops) = (limits.read / 1e9, limits.flops / 1e9);
    match model.device() {
        Device::Cpu => println!(
            "{millions:.1} M parameters, {threads} threads ({}), memory {read:.1} GB/s, fp32 arithmetic {flops:.0} GFLOP/s",
            instruction_set()
        ),
        other => println!(
            "{millions:.1} M parameters, {}, memory {read:.0} GB/s, products at {flops:.0} GFLOP/s",
            device::name(other)
        ),
    }
}

fn load_line(loaded: &Loaded) {
    let memory = loaded.added_bytes.map_or_else(String::new, |added| {
        format!("; {:.2} times the model in memory", added / loaded.bytes as f64)
    });
    println!(
        "load     {:.0} MB in {:.3} s, a copy of as many bytes in {:.3} s{memory}",
        loaded.bytes as f64 / 1e6,
        loaded.seconds,
        loaded.copy_seconds
    );
}

fn figure_line(figure: &Figure) {
    let share = 100.0 * figure.tokens_per_s / figure.limit;
    println!(
        "{:<8} {:<9} {:>4} {:>10.1} {:>10.1} {:>5.0}%  {}",
        figure.what, figure.precision, figure.rows, figure.tokens_per_s, figure.limit, share, figure.bound
    );
    if let Some(trained) = &figure.trained {
        let (peak, matrix) = (trained.peak_bytes as f64 / 1e9, trained.matrix_flops / 1e9);
        println!(
            "{:<8} beside products at {matrix:.0} GFLOP/s; peak memory {peak:.2} GB, last loss {:.3}",
            "", trained.loss
        );
    }
}
