//! Finds libtorch where torch-sys found it and writes that place into the binary, so that it runs from any folder.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch lies");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}
