"""Installs Lacuna and what it needs into .venv; standard library only, so that a bare machine can run it.

    python3 install.py            the platform
    python3 install.py dev        and what the tests and the linter need
    python3 install.py dev jobs   and Ray's job API, for the tests that start clusters of several nodes
    python3 install.py xla        the trainer alone with torch-xla, into .venv-xla, for the XLA lane of the tests

Exact versions come from requirements.lock. The one thing pip cannot be told in a file is which build of torch suits
the machine: without an NVIDIA GPU the CPU build is asked for, since the default build brings gigabytes of CUDA.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
XLA_VENV = ROOT / ".venv-xla"

#: torch-xla's last release and the torch that it needs; the rest of that environment comes from requirements.lock.
XLA_PINS = ("torch==2.9.0", "torch_xla==2.9.0")
XLA_NEEDS = (
    "datasets",
    "numpy",
    "safetensors",
    "transformers",
    "fsspec",
    "pillow",
    "scikit-learn",
    "pytest",
    "pytest-timeout",
)

#: What that environment takes: the one torch that torch-xla goes with brings CUDA, which is not used here.
XLA_BYTES = 10e9

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main(extras: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (this script runs before pip could refuse)
        sys.exit(f"Lacuna needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")
    if extras == ["xla"]:
        install_xla()
        return
    stamp = VENV / f".installed-{'-'.join(extras) or 'base'}"
    wanted = digest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    make_venv()
    install_torch()
    target = f".[{','.join(extras)}]" if extras else "."
    print(f"installing {target} (exact versions from {LOCK.name})", flush=True)
    pip("install", "--constraint", str(LOCK), "--editable", target)
    stamp.write_text(wanted)


def install_xla() -> None:
    """torch-xla has its own torch, so it lives in an environment of its own, with what the trainer needs."""
    stamp = XLA_VENV / ".installed"
    wanted = digest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    python = XLA_VENV / "bin" / "python"
    free = shutil.disk_usage(ROOT).free
    if not python.exists() and free < XLA_BYTES:
        print(
            f"the XLA lane is skipped: it needs {XLA_BYTES / 1e9:.0f} GB, {ROOT} has {free / 1e9:.1f} GB free"
        )
        return
    make_venv(XLA_VENV)
    locked = dict(
        line.strip().split("==", 1)
        for line in LOCK.read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    needs = [*XLA_PINS, *(f"{name}=={locked[name]}" for name in XLA_NEEDS)]
    print(f"installing {' and '.join(XLA_PINS)} into {XLA_VENV.name}", flush=True)
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *needs]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        sys.exit(
            f"the XLA lane cannot run: {' and '.join(XLA_PINS)} cannot be installed for Python "
            f"{sys.version.split()[0]} on {sys.platform}: {reasons[0].removeprefix('ERROR: ')}"
        )
    stamp.write_text(wanted)


def digest() -> str:
    """What an install depends on; a change installs anew."""
    files = [ROOT / "pyproject.toml", LOCK, Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def make_venv(folder: Path = VENV) -> None:
    if (folder / "bin" / "python").exists():
        return
    print(f"making {folder}", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True)
    if made.returncode == 0:
        return
    # Debian and Ubuntu split ensurepip off into python3-venv.
    shutil.rmtree(folder, ignore_errors=True)
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(
            f"this Python cannot make virtual environments: run `sudo apt-get install {package}` and try again"
        )
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", package], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)


def install_torch() -> None:
    """Install the locked torch, in the build that suits this machine."""
    pin = next(line.strip() for line in LOCK.read_text().splitlines() if line.startswith("torch=="))
    if has_gpu():
        print(f"installing {pin} (an NVIDIA GPU is present)", flush=True)
        pip("install", pin)
    elif installs_cuda(pin):
        print(f"installing {pin}, CPU build", flush=True)
        if pip("install", pin, "--index-url", CPU_INDEX, check=False) != 0:
            print(
                "the CPU index cannot be reached; falling back on the default build (gigabytes)", flush=True
            )
            pip("install", pin)
    else:
        print(f"installing {pin}", flush=True)
        pip("install", pin)


def has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def installs_cuda(pin: str) -> bool:
    """Whether pip, left alone, would bring CUDA packages with this torch."""
    command = [str(PYTHON), "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed"]
    asked = subprocess.run([*command, "--report", "-", pin], capture_output=True, text=True)
    if asked.returncode != 0:
        return True
    metadata = json.loads(asked.stdout)["install"][0]["metadata"]
    needs = [need for need in metadata.get("requires_dist", []) if "extra ==" not in need]
    return any(need.startswith(("nvidia-", "cuda-")) for need in needs)


def pip(*arguments: str, check: bool = True) -> int:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command).returncode
    if check and done != 0:
        sys.exit(f"`{' '.join(command)}` failed; nothing else was changed")
    return done


if __name__ == "__main__":
    main(sys.argv[1:])
