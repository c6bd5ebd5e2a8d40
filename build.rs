//! Compiles the C++ against the libtorch that torch-sys found, declares its functions in Rust (`build/c_header.rs`), and
//! writes libtorch's place into the binary, so that it runs from any folder with no variable exported.

#[path = "build/c_header.rs"]
mod c_header;

use std::path::{Path, PathBuf};

/// Writes the table of the recipes that lie in `recipes/`.
fn embed_recipes() {
    println!("cargo:rerun-if-changed=recipes");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("recipes"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    let rows: String = files
        .iter()
        .map(|file| format!("    ({:?}, include_str!({:?})),\n", file.file_stem().expect("a name"), file))
        .collect();
    let table = format!(
        "/// Name and text of each built-in recipe.\npub const RECIPES: &[(&str, &str)] = &[\n{rows}];\n"
    );
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("recipes.rs"), table).expect("the build folder can be written");
}

/// Runs this script again when a C++ file under `folder` changes, headers included, and not when a Rust file does.
fn watch_cpp(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("the folder of the C++").flatten() {
        let path = entry.path();
        if path.is_dir() {
            watch_cpp(&path);
        } else if path.extension().is_some_and(|ending| ending == "cpp" || ending == "h") {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
}

/// Writes Rust's declarations of what native's C headers declare.
fn declare_ffi() {
    let read = |header: &str| {
        let path = Path::new("src/native").join(header);
        c_header::rust_from(&std::fs::read_to_string(&path).expect("a header of native"))
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let write = |name: &str, text: String| {
        std::fs::write(out.join(name), text).expect("the build folder can be written");
    };
    write("ffi.rs", read("ffi.h") + &read("collectives/collectives.h"));
    write("cpu_decoder.rs", read("cpu_decoder/abi.h"));
}

/// What the inner loops are compiled with, once for every set of instructions that may be met; always optimised, so that
/// a debug build is fast in them.
fn for_kernels() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(3).warnings(false).flag_if_supported("-ffp-contract=fast");
    if is_x86() {
        build.define("MM_X86", None);
    }
    build
}

fn is_x86() -> bool {
    std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64")
}

/// `source` for every set of instructions, which it knows by `MM_ISA`: objects for `build`.
fn for_each_isa(build: &mut cc::Build, source: &Path, more: &[&str]) {
    let avx2 = ["-mavx2", "-mfma", "-mf16c"];
    let avx512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"];
    let mut sets: Vec<(&str, Vec<&str>)> = vec![("base", vec![])];
    if is_x86() {
        sets.push(("avx2", avx2.to_vec()));
        sets.push(("avx512", [avx2.as_slice(), avx512.as_slice()].concat()));
    }
    for (name, flags) in sets {
        let mut one = for_kernels();
        for flag in flags {
            one.flag(flag);
        }
        for flag in more {
            one.flag_if_supported(flag);
        }
        one.define("MM_ISA", name).file(source);
        // cc names an object by its source: a folder for each keeps them apart.
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join(name);
        for object in one.out_dir(out).compile_intermediates() {
            build.object(object);
        }
    }
}

/// Compiles the decoder's kernels.
fn compile_kernels() {
    let folder = PathBuf::from("src/native/cpu_decoder");
    let mut all = for_kernels();
    all.file(folder.join("dispatch.cpp")).file(folder.join("pool.cpp"));
    for_each_isa(&mut all, &folder.join("forward.cpp"), &[]);
    all.compile("minimind_cpu_decoder");
}

/// A C++ compiler that sees libtorch.
fn over_libtorch(include: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false);
    build.include(include).include(include.join("torch/csrc/api/include"));
    build
}

/// Compiles what lets processes train together, with gloo's headers where scripts/setup found or fetched them.
fn compile_collectives(include: &Path) {
    println!("cargo:rerun-if-env-changed=MINIMIND_GLOO");
    let found =
        std::env::var_os("MINIMIND_GLOO").map(PathBuf::from).filter(|folder| folder.join("gloo").exists());
    let mut build = over_libtorch(include);
    if let Some(folder) = &found {
        build.include(folder).define("MM_GLOO", None).define("USE_C10D_GLOO", None);
    }
    println!("cargo:rustc-env=MINIMIND_RANKS={}", if found.is_some() { "yes" } else { "no" });
    build
        .files(["c10d", "nccl"].map(|name| format!("src/native/collectives/{name}.cpp")))
        .compile("minimind_collectives");
}

fn main() {
    compile_kernels();
    embed_recipes();
    declare_ffi();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    let lib =
        PathBuf::from(std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch lies"));
    let include = lib.join("../include");
    watch_cpp(Path::new("src/native"));
    over_libtorch(&include)
        .files(["ffi", "jit", "allocator"].map(|name| format!("src/native/{name}.cpp")))
        .compile("minimind_ffi");
    compile_collectives(&include);
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag_if_supported("-fopenmp")
        .file("src/native/wait_policy.cpp")
        .compile("minimind_wait_policy");
    // Optimised in a debug build too: these are inner loops of training. OpenMP is libtorch's own.
    let mut cpu_ops = over_libtorch(&include);
    if is_x86() {
        cpu_ops.define("MM_X86", None);
    }
    // Or a comparison inside a loop keeps it from becoming vector code: exp's clamp, 4 times slower.
    let vector = ["-fno-math-errno", "-fno-trapping-math"];
    for_each_isa(&mut cpu_ops, Path::new("src/native/cpu_ops/attention_kernels.cpp"), &vector);
    cpu_ops
        .opt_level(3)
        .flag_if_supported("-fopenmp")
        .flag_if_supported(vector[0])
        .flag_if_supported(vector[1])
        .files(
            ["attention", "norm_rope", "linear", "experts"]
                .map(|name| format!("src/native/cpu_ops/{name}.cpp")),
        )
        .compile("minimind_cpu_ops");
    over_libtorch(&include)
        .opt_level(2)
        .file("src/native/cuda_graph.cpp")
        .files(
            ["cross_entropy", "decode", "launch", "linear", "norm", "qkv_rope"]
                .map(|name| format!("src/native/cuda_ops/{name}.cpp")),
        )
        .compile("minimind_cuda_ops");
    println!("cargo:rustc-link-lib=gomp");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // libtorch_cpu's symbols are used by our own C++ too, so it must follow it on the linker's line.
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-lib=stdc++");
    println!("cargo:rustc-env=MINIMIND_LIBTORCH_LIB={}", lib.display());
}
