//! Compiles the C++ shim against the libtorch that torch-sys found, and writes libtorch's place into the
//! binary, so that it runs from any folder with no variable exported.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib =
        PathBuf::from(std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch lies"));
    let include = lib.join("../include");
    for file in ["shim.cpp", "shim.h"] {
        println!("cargo:rerun-if-changed=src/native/{file}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/native/shim.cpp")
        .compile("minimind_shim");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // libtorch_cpu's symbols are used by our own shim too, so it must follow it on the linker's line.
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-lib=stdc++");
    println!("cargo:rustc-env=MINIMIND_LIBTORCH_LIB={}", lib.display());
}
