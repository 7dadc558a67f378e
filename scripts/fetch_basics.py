"""What scripts/fetch.py is made of: commands with a log, files put into place at once, Debian's packages unpacked.

Standard library only, no root, nothing outside .cache/.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
BIN, DEBIAN, CARGO = CACHE / "bin", CACHE / "debian", CACHE / "cargo"


class Unavailable(Exception):
    """Cannot be had here; the text says what to do about it, in one line."""


def run(command, log, **kwargs):
    """Runs a command, its output goes to .cache/logs/<log>.log; returns the last line that looks like the reason of a failure."""
    path = CACHE / "logs" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(map(str, command))}\n")
        file.flush()
        start = file.tell()
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, **kwargs)
        except OSError as error:
            return str(error)
    if done.returncode == 0:
        return None
    lines = path.read_bytes()[start:].decode(errors="replace").splitlines()
    reasons = [line for line in lines if re.match(r"(E:|error|ERROR|fatal|curl)", line)] or [line for line in lines if line.strip()]
    return f"{reasons[-1].strip() if reasons else f'exit status {done.returncode}'} (see .cache/logs/{log}.log)"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scratch():
    """A temporary folder on the file system of .cache/, so that a rename out of it is atomic."""
    (CACHE / "tmp").mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=CACHE / "tmp")


def place(source, target):
    """Renames `source` to `target`, replacing what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    os.replace(source, target)


def link(target, name):
    """.cache/bin/<name> -> target, atomically; what is in .cache/ is linked such that the repository can move."""
    BIN.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.relpath(target, BIN)) if target.is_relative_to(CACHE) else target
    temporary = BIN / f".{name}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, BIN / name)


def output_of(*command, **kwargs):
    """What a command prints, empty when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, **kwargs)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr


def on_path(name):
    """The first program of that name on PATH that is not our own."""
    own = (BIN.resolve(), (CARGO / "bin").resolve())
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder and Path(folder).resolve() not in own]
    return shutil.which(name, path=os.pathsep.join(folders))


def own_lists():
    """Options that make apt use package lists below .cache/, which needs no root."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (DEBIAN / "apt" / part).mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State={DEBIAN}/apt/state", f"-oDir::Cache={DEBIAN}/apt/cache", "-oDir::State::status=/var/lib/dpkg/status"]
    return options + (["-oAPT::Sandbox::User=root"] if os.geteuid() == 0 else [])


@functools.cache
def update_own_lists():
    """Fetches package lists, once per run; returns the problem, if any."""
    return run(["apt-get", *own_lists(), "update"], "apt")


def debian(package):
    """Unpacks a package into .cache/debian/<package> with the system's own apt, without installing anything."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Unavailable(f"Debian's {package} cannot be unpacked: no apt-get here")
    with scratch() as name:
        folder = Path(name)
        if run(["apt-get", "download", package], package, cwd=folder):  # no package lists here, or old ones
            problem = update_own_lists() or run(["apt-get", *own_lists(), "download", package], package, cwd=folder)
            if problem:
                raise Unavailable(f"Debian's {package}: {problem}")
        (folder / "root").mkdir()
        problem = run(["dpkg", "-x", next(folder.glob("*.deb")), folder / "root"], package)
        if problem:
            raise Unavailable(f"Debian's {package}: {problem}")
        place(folder / "root", DEBIAN / package)
    return DEBIAN / package
