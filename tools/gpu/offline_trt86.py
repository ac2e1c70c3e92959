"""Prepares TensorRT 8.6.0 + Python 3.9 + pycuda + numpy as one folder, for a GPU machine without a network.

    python tools/gpu/offline_trt86.py --work /tmp/trt86 --out /tmp/trt86/parts   (gcc, g++, nm, apt-get; 6 GB of disk)
    # on the GPU machine, after the parts have been carried there:
    python3 unpack.py /opt/trt86 && /opt/trt86/python tools/gpu_check.py --json gpu.json

Everything comes from PyPI and Debian through pip and apt-get. NVIDIA's files are packed as they are (their licence
allows no change) and must not be committed or published; the parts are for your own machine. What is written here, in
the folder `stubs`, are three small libraries that let TensorRT's plugin library load without cuBLAS and cuDNN: every
function of theirs answers "not initialised", so plans are built with tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN.
Exit code 0: the parts are in --out; 1: one line on stderr says which step failed.
"""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PART_BYTES = 59 << 20
BUILDER = "libnvinfer_builder_resource"  # 1 GB, needed to build plans and not to run them
TENSORRT = "tensorrt==8.6.0"
WHEELS = ("numpy==1.26.4", "cuda-bindings==12.9.4", "cuda-pathfinder<2", "pytools<2026", "platformdirs<5", "mako<2")
BUILD_WHEELS = ("setuptools<80", "wheel", "numpy==1.26.4", "nvidia-cuda-runtime-cu12==12.0.146")
PYCUDA = "pycuda==2026.1"
SUITE = "deb http://deb.debian.org/debian bullseye main"
ARCHIVED = "deb http://archive.debian.org/debian bullseye main"  # where a suite moves when its support ends
DEBS = (
    "python3.9-minimal libpython3.9-minimal libpython3.9-stdlib libexpat1 zlib1g libssl1.1 libffi7 libmpdec3 "
    "libbz2-1.0 liblzma5 libuuid1"
).split()
BUILD_DEBS = ("libpython3.9-dev",)
PLATFORMS = ("manylinux1_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
STUBBED = {"libcublas.so.12": "cublas", "libcublasLt.so.12": "cublasLt", "libcudnn.so.8": "cudnn"}

# CUDA's wheels carry cuda.h and not this header; weak, since drivers for CUDA 13 need not have the functions.
PROFILER_H = """#include <cuda.h>
typedef enum CUoutput_mode_enum { CU_OUT_KEY_VALUE_PAIR = 0, CU_OUT_CSV = 1 } CUoutput_mode;
extern "C" {
__attribute__((weak)) CUresult cuProfilerInitialize(const char*, const char*, CUoutput_mode);
__attribute__((weak)) CUresult cuProfilerStart(void);
__attribute__((weak)) CUresult cuProfilerStop(void);
}
"""
LAUNCHER = """#!/bin/sh
# Python 3.9 of this folder with TensorRT, pycuda and numpy; the driver's libcuda comes from the machine.
here=$(cd "$(dirname "$0")" && pwd)
lib="$here/stubs:$here/site/tensorrt:$here/debian/usr/lib/x86_64-linux-gnu:$here/debian/lib/x86_64-linux-gnu"
export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}:/usr/local/nvidia/lib64"
export PYTHONHOME="$here/debian/usr" PYTHONPATH="$here/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONNOUSERSITE=1
exec "$here/debian/usr/bin/python3.9" "$@"
"""
UNPACK = '''"""python3 unpack.py FOLDER [--run-only]: checks the parts beside this file and unpacks them into FOLDER."""
import hashlib, io, json, lzma, os, sys, tarfile

here = os.path.dirname(os.path.abspath(__file__))
archives = json.load(open(os.path.join(here, "parts.json")))


class Parts(io.RawIOBase):
    """The parts of one archive, one after the other, each checked before a byte of it is used."""

    def __init__(self, parts):
        self.parts, self.data = list(parts), b""

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self.data and self.parts:
            name, digest = self.parts.pop(0)
            with open(os.path.join(here, name), "rb") as file:
                self.data = file.read()
            if hashlib.sha256(self.data).hexdigest() != digest:
                sys.exit("unpack: %s is damaged; carry it again" % name)
        size = min(len(buffer), len(self.data))
        buffer[:size], self.data = self.data[:size], self.data[size:]
        return size


if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
    sys.exit(__doc__)
for name, parts in archives.items():
    if name == "builder" and "--run-only" in sys.argv:
        continue
    with lzma.open(io.BufferedReader(Parts(parts), 1 << 20)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(sys.argv[1])
print("unpacked into", sys.argv[1])
'''


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """The output of a command; its failure ends the script with the command and its last line."""
    given = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=given, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        last = done.stdout.strip().splitlines()[-1:] or ["no output"]
        sys.exit(f"trt86_bundle: `{' '.join(command[:6])} ...` failed: {last[0]}")
    return done.stdout


def debian(packages: Sequence[str], work: Path, target: Path) -> None:
    """Bullseye's packages unpacked into `target`, by an apt-get whose state is all under `work`."""
    state = work / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    options = ["-q", "-o", f"Dir::Etc::sourcelist={state}/sources.list", "-o", "Dir::Etc::sourceparts=-"]
    options += ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
    (state / "status").write_text("", encoding="utf-8")  # else apt looks for the versions that this machine has
    options += [
        "-o",
        f"Dir::State::status={state}/status",
        "-o",
        "APT::Architecture=amd64",
        "-o",
        "APT::Architectures=amd64",
        "-o",
        "APT::Sandbox::User=root",
    ]
    for line in (SUITE, ARCHIVED):
        (state / "sources.list").write_text(
            line.replace("deb ", "deb [check-valid-until=no] ") + "\n", encoding="utf-8"
        )
        if subprocess.run(["apt-get", *options, "update"], capture_output=True).returncode == 0:
            break
    run(["apt-get", *options, "download", *packages], folder=state / "debs")
    for name in packages:
        (package,) = (state / "debs").glob(f"{name}_*.deb")
        run(["dpkg-deb", "-x", str(package), str(target)])


def wheels(names: Sequence[str], work: Path, target: Path) -> None:
    """Wheels for CPython 3.9 unpacked into `target`, without their dependencies."""
    store = work / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", "3.9", "-d", str(store)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    for name in names:
        said = run([*command, name])
        files = [word for line in said.splitlines() for word in line.split() if word.endswith(".whl")]
        with zipfile.ZipFile(store / Path(files[-1]).name) as archive:
            archive.extractall(target)


def stubs(folder: Path, site: Path, compiler: str) -> None:
    """Libraries with the sonames, symbol versions and symbols that TensorRT's plugin library wants."""
    folder.mkdir(exist_ok=True)
    said = run(["nm", "-D", "--undefined-only", str(site / "tensorrt" / "libnvinfer_plugin.so.8")])
    wanted = [word for line in said.splitlines() for word in line.split() if "@" in word]
    for library in STUBBED:
        symbols = [word.split("@")[0] for word in wanted if word.endswith(f"@{library}")]
        source, script = folder / f"{library}.c", folder / f"{library}.map"
        source.write_text("".join(f"int {symbol}(void) {{ return 1; }}\n" for symbol in symbols), encoding="utf-8")
        script.write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
        run([compiler, *flags, "-o", str(folder / library), str(source)])
        script.unlink()  # the source stays beside the library: it is ours and says what it is


def pycuda(work: Path, folder: Path, compiler: str) -> None:
    """pycuda built for the folder's Python against CUDA's headers and an empty libcuda."""
    build = work / "build"
    shutil.rmtree(build, ignore_errors=True)
    site = build / "site"
    headers, stub = build / "headers", build / "stub"
    for made in (headers, stub):
        made.mkdir(parents=True)
    wheels(BUILD_WHEELS, work, site)
    debian(BUILD_DEBS, work, build / "debian")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "pycuda", "-d", str(build), PYCUDA]
    run(command)
    (archive,) = build.glob("pycuda-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(build, filter="data")
    source = build / archive.name.removesuffix(".tar.gz")
    (headers / "cudaProfiler.h").write_text(PROFILER_H, encoding="utf-8")
    (stub / "empty.c").write_text("", encoding="utf-8")
    run([compiler, "-shared", "-Wl,-soname,libcuda.so.1", "-o", str(stub / "libcuda.so"), str(stub / "empty.c")])
    # An empty library is dropped by linkers that default to --as-needed; then nothing would load the driver.
    (source / "siteconf.py").write_text(
        f"CUDA_ROOT = {str(site / 'nvidia' / 'cuda_runtime')!r}\nCUDA_ENABLE_CURAND = False\n"
        f"CUDADRV_LIB_DIR = [{str(stub)!r}]\nCUDA_INC_DIR = [{str(site / 'nvidia/cuda_runtime/include')!r}, "
        f"{str(headers)!r}]\nLDFLAGS = ['-Wl,--no-as-needed']\n",
        encoding="utf-8",
    )
    include = build / "debian/usr/include"
    environment = {
        "PYTHONPATH": str(site),
        "CPATH": f"{include}/python3.9:{include}",
        "SETUPTOOLS_USE_DISTUTILS": "local",
        "LDFLAGS": "-Wl,--no-as-needed",
        "CC": compiler,
        "CXX": "g++",
        "LDSHARED": "g++ -shared -Wl,--no-as-needed",
    }
    run([str(folder / "python"), "setup.py", "build"], environment, source)
    (made,) = (source / "build").glob("lib*/pycuda")
    shutil.copytree(made, folder / "site" / "pycuda", dirs_exist_ok=True)


def fake_libcuda(folder: Path, target: Path, compiler: str) -> None:
    """A libcuda.so.1 whose every function says "no device", so that pycuda can be asked for its names here."""
    (library,) = (folder / "site/pycuda").glob("_driver*.so")
    said = run(["nm", "-D", "--undefined-only", str(library)])
    symbols = [word for line in said.splitlines() for word in line.split()[-1:] if word.startswith("cu")]
    target.mkdir(parents=True, exist_ok=True)
    source = target / "libcuda.c"
    source.write_text("".join(f"int {symbol}(void) {{ return 100; }}\n" for symbol in symbols), encoding="utf-8")
    run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(target / "libcuda.so.1"), str(source)])


def prove(folder: Path, fake: Path) -> str:
    """The adapter imported and its names looked up under the folder's own Python; needs no driver."""
    start = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r})\nimport tensorrt, numpy\nfrom gpu import contract\n"
    )
    here = (
        "import clcr_stream.inference.tensorrt.backend as backend\n"
        "tensorrt.init_libnvinfer_plugins(tensorrt.Logger(), '')\n"
        "print('Python', sys.version.split()[0], 'numpy', numpy.__version__, 'TensorRT', tensorrt.__version__)\n"
        "print('backend:', backend.why_unavailable() or 'ready')\n"
    )
    names = (
        "import pycuda.driver\n"
        "lines = contract.findings(tensorrt) + contract.driver_findings(pycuda.driver)\n"
        "print('names the backend uses:', '; '.join(lines) or 'all there')\n"
        "sys.exit(1 if lines else 0)\n"
    )
    python = str(folder / "python")
    return run([python, "-c", start + here]) + run([python, "-c", start + names], {"LD_LIBRARY_PATH": str(fake)})


def prepare(work: Path, compiler: str) -> Path:
    """The self-contained folder under `work`."""
    folder = work / "trt86"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print("Debian bullseye's Python 3.9")
    debian(DEBS, work, folder / "debian")
    shutil.rmtree(folder / "debian/usr/share", ignore_errors=True)
    launcher = folder / "python"
    launcher.write_text(LAUNCHER, encoding="utf-8")
    launcher.chmod(0o755)
    print(f"{TENSORRT} (0.8 GB), numpy, cuda-bindings")
    wheels((TENSORRT, *WHEELS), work, folder / "site")
    stubs(folder / "stubs", folder / "site", compiler)
    print("pycuda, compiled here")
    pycuda(work, folder, compiler)
    fake_libcuda(folder, work / "build" / "fake", compiler)
    print(prove(folder, work / "build" / "fake"), end="")
    return folder


class Splitter:
    """A file object that starts a new part whenever one is full."""

    def __init__(self, out: Path, name: str) -> None:
        self._out, self._name, self._left = out, name, 0
        self._file: lzma.LZMAFile | object | None = None
        self.paths: list[Path] = []

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while len(view):
            if self._left == 0:
                self.paths.append(self._out / f"trt86-{self._name}.tar.xz.{len(self.paths):02d}")
                self.paths[-1].write_bytes(b"")
                self._left = PART_BYTES
            with self.paths[-1].open("ab") as file:
                done = file.write(view[: self._left])
            view, self._left = view[done:], self._left - done
        return len(data)


def pack(folder: Path, out: Path, preset: int) -> None:
    """The folder as two archives in parts: what runs plans, and what building them needs besides."""
    import json

    out.mkdir(parents=True, exist_ok=True)
    archives = {}
    for name in ("run", "builder"):
        splitter = Splitter(out, name)
        with (
            lzma.open(splitter, "wb", preset=preset) as stream,  # type: ignore[call-overload]
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink()):
                if (BUILDER in path.name) == (name == "builder") and "__pycache__" not in path.parts:
                    tar.add(path, path.relative_to(folder).as_posix(), recursive=False)
        archives[name] = [(path.name, sha256(path.read_bytes()).hexdigest()) for path in splitter.paths]
        print(f"{name}: {len(archives[name])} parts, {sum(path.stat().st_size for path in splitter.paths) >> 20} MiB")
    (out / "parts.json").write_text(json.dumps(archives, indent=1) + "\n", encoding="utf-8")
    (out / "unpack.py").write_text(UNPACK, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, prove and pack; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads, builds and the result")
    parser.add_argument("--out", type=Path, help="folder for the parts; without it nothing is packed")
    parser.add_argument("--preset", type=int, default=9, choices=range(10), help="of xz; 9 takes about 20 minutes")
    parser.add_argument("--keep", action="store_true", help="pack the folder that --work already has")
    given = parser.parse_args(arguments)
    for program in ("gcc", "g++", "nm", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            sys.exit(
                f"trt86_bundle: {program} is not installed; run `apt-get install build-essential binutils apt dpkg`"
            )
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    folder = work / "trt86" if given.keep else prepare(work, "gcc")
    if not (folder / "python").is_file():
        sys.exit(f"trt86_bundle: {folder} holds no prepared folder; run without --keep")
    if given.out is not None:
        pack(folder, given.out.resolve(), given.preset)
    return 0


if __name__ == "__main__":
    sys.exit(main())
