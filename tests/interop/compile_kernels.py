"""Compiles the GPU's kernels (src/native/cuda_ops/kernels) with the NVRTC that comes with torch, for an Ampere and a Hopper: no GPU is
needed for that. Prints how many were made."""

import ctypes
import pathlib
import sys

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "src/native/cuda_ops/kernels"
# As the .cpp files of cuda_ops ask for them: call, arguments, lanes of a team.
ASKED = [
    ("norm<6, float, bf16, float, bf16>", "NormArgs", 32), ("norm<1, bf16, bf16, bf16, bf16>", "NormArgs", 256),
    ("norm<4, float, float, float, float>", "NormArgs", 32), ("norm_back<6, float, bf16, float, bf16>", "NormBackArgs", 32),
    ("norm_back<32, float, float, float, float>", "NormBackArgs", 32),
    ("heads<16, 1, bf16, float>", "HeadsArgs", 32), ("heads<8, 1, float, float>", "HeadsArgs", 32), ("heads<32, 2, bf16, bf16>", "HeadsArgs", 32),
    ("heads_back<16, 1, bf16, float>", "HeadsBackArgs", 32), ("heads_back<8, 1, float, float>", "HeadsBackArgs", 32),
    ("heads_back<32, 2, bf16, bf16>", "HeadsBackArgs", 32),
    ("gate<bf16>", "GateArgs", 32), ("gate<float>", "GateArgs", 256), ("gate_back<bf16>", "GateBackArgs", 32), ("gate_back<float>", "GateBackArgs", 32),
    ("entropy<7, bf16>", "EntropyArgs", 256), ("entropy<8, float>", "EntropyArgs", 256), ("entropy<0, bf16>", "EntropyArgs", 256),
    ("attend<1, bf16>", "AttendArgs", 256), ("attend<4, float>", "AttendArgs", 256),
    ("normed<1, bf16, bf16>", "NormedArgs", 256), ("normed<4, bf16, float>", "NormedArgs", 256), ("normed<1, float, float>", "NormedArgs", 256),
    ("matvec<1, bf16, bf16>", "MatvecArgs", 32), ("matvec<4, float, float>", "MatvecArgs", 32),
]


def main():
    import torch

    found = sorted(pathlib.Path(torch.__file__).parents[1].glob("nvidia/**/libnvrtc.so.*"))
    if not found:
        sys.exit("this torch brings no NVRTC")
    for library in sorted(found[0].parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(found[0]))
    text = "".join((KERNELS / name).read_text() for name in ("common.h", "rows.h", "heads.h", "decode.h"))
    for architecture in ("sm_80", "sm_90"):
        for call, arguments, width in ASKED:
            source = text + (
                f'\nextern "C" __global__ void __launch_bounds__(256) run(const {arguments} a) {{ long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x; '
                f"{call}((int)(thread % WIDTH), thread / WIDTH, (long long)gridDim.x * blockDim.x / WIDTH, a); }}\n")
            program = ctypes.c_void_p()
            assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
            options = [f"--gpu-architecture={architecture}".encode(), f"-DWIDTH={width}".encode(), b"-DMM_GPU", b"--std=c++17"]
            if nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
                size = ctypes.c_size_t()
                nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
                log = ctypes.create_string_buffer(size.value)
                nvrtc.nvrtcGetProgramLog(program, log)
                sys.exit(f"{call} for {architecture}: {log.value.decode()}")
            nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    print(f"compiled {2 * len(ASKED)} kernels")


if __name__ == "__main__":
    main()
