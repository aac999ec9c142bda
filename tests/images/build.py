"""Building the images, and what must and must not be in each."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tests.images.daemon import Daemon
from tests.images.origins import secrets

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 1800

#: What a cluster's restricted Pod Security and the chart ask of a container.
RESTRICTED = [
    *("--read-only", "--user", "1000:1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--shm-size", "256m"),
]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Modules of an image, by what importing them does there."""

    absent: str
    """Not to be found."""

    importable: str
    """Import in the hardened container, and every stripped library loads: what the image is for still works."""

    kept: str = ""
    """Of LEFT_OVERS what this image needs."""

    program: str = ""
    """A file of tests/images/inside that ends well in the hardened container."""


#: Tokenising and reading of data, where sweeps are submitted.
DATA = "datasets pyarrow.parquet transformers.models.auto.tokenization_auto sklearn.datasets s3fs gcsfs"

TRAINING = (
    "orchestrator.controller.trainable trainer.segment ray.tune s3fs gcsfs "
    "trainer.models.t5 trainer.models.vit trainer.models.decoder trainer.models.encoder "
    "transformers.models.t5.modeling_t5 transformers.models.vit.modeling_vit "
    "transformers.models.llama.modeling_llama transformers.models.bert.modeling_bert"
)

#: The images of the system that the check starts, and those that it builds where they are named.
SYSTEM = ("service", "controller", "trainer-cpu")
CONTENTS = {
    "service": Contents(
        absent="torch ray mlflow", importable=f"fitter.service.app orchestrator.submit {DATA}"
    ),
    "controller": Contents(
        absent="torch plotly",
        importable=f"orchestrator.controller.searcher orchestrator.tracking.plots ray.tune mlflow {DATA}",
    ),
    "trainer-cpu": Contents(absent="mlflow plotly triton", importable=TRAINING),
    "trainer-gpu": Contents(
        absent="mlflow plotly", importable=f"{TRAINING} pynvml", kept="/usr/bin/strip", program="gpu.py"
    ),
    "trainer-tpu": Contents(absent="mlflow plotly", importable=TRAINING, program="tpu.py"),
    "mlflow": Contents(
        absent="torch ray lacuna",
        importable="mlflow.server psycopg google.cloud.storage boto3 mlflow.store.tracking.sqlalchemy_store",
    ),
}

#: Of the build, beside the modules: sources, wheels, a package manager's caches.
LEFT_OVERS = ("/src", "/dist", "/opt/uv", "/usr/bin/strip", "/root/.cache", "/tmp/*", "/mnt/*", "/media/*")

LOOK = """\
import importlib.util, pathlib, sys
there = [name for name in sys.argv[1].split() if importlib.util.find_spec(name)]
there += [str(found) for path in sys.argv[2].split() for found in pathlib.Path("/").glob(path[1:])]
sys.exit(f"{there} should not be here" if there else 0)
"""

LIST = """\
import importlib.metadata
for found in importlib.metadata.distributions():
    print(f"{found.metadata['Name']}=={found.version}")
    print(*(f"needs {wanted}" for wanted in found.requires or [] if "==" in wanted), sep="\\n")
"""

#: A package with its version, in a requirement; `==1.2.*` counts, since CUDA's packages carry a build's number there.
EXACT = r"([A-Za-z0-9][\w.-]*(?:\[[\w,-]*\])?==[\w.+]*\w)"

OPEN_CONTAINERS = "org.opencontainers.image."
LABELS = {"title", "description", "version", "revision"}

IMPORT = """\
import ctypes, importlib, os, pathlib, sys, sysconfig
for name in sys.argv[1].split():
    importlib.import_module(name)
for file in pathlib.Path(sysconfig.get_paths()["purelib"]).rglob("*.so"):
    if not {"torch", "ray", "nvidia", "triton", "torch_xla", "libtpu"} & set(file.parts) and "_XLAC" not in file.name:
        ctypes.CDLL(str(file))
os._exit(0)  # some of them, loaded and never imported, end badly
"""


def build(daemon: Daemon, target: str, base: str, wheels: str | None) -> None:
    """Build a target as lacuna/TARGET and say its size and time. `wheels`: an image with a torch for CPUs, where
    PyTorch's own index is out of reach."""
    began = time.monotonic()
    given = [f"BASE_IMAGE={base}"]
    if wheels and target == "trainer-cpu":
        given += [f"WHEELS_IMAGE={wheels}", "TORCH_CPU_INDEX="]
    if wheels and target == "trainer-tpu":
        given += ["TORCH_TPU=torch==2.9.0", "TORCH_TPU_INDEX="]
    arguments = [word for each in given for word in ("--build-arg", each)] + secrets()
    daemon.docker(
        *("build", "--network", "host", "--progress", "plain", *arguments),
        *("--target", target, "--tag", f"lacuna/{target}"),
        *("--file", str(ROOT / "docker" / "Dockerfile"), str(ROOT)),
        seconds=BUILD_SECONDS,
    )
    seconds = time.monotonic() - began
    print(f"{target}: {daemon.size(f'lacuna/{target}')}, built in {seconds:.0f} s", flush=True)


def examine(daemon: Daemon, target: str) -> None:
    """Raise AssertionError where an image holds what it is spared, or cannot import what it is for."""
    contents = CONTENTS[target]
    python = ["--entrypoint", "python3", f"lacuna/{target}", "-c"]
    # As root, who sees all of it, and without leaving bytecode of the look itself.
    daemon.docker(
        *("run", "--rm", "--network", "none", "--user", "0", "--read-only", *python),
        *(LOOK, contents.absent, " ".join(set(LEFT_OVERS) - {contents.kept})),
    )
    daemon.docker(
        *("run", "--rm", "--network", "none", *RESTRICTED, "--tmpfs", "/tmp:size=512m,mode=1777", *python),
        *(IMPORT, contents.importable),
        seconds=300,
    )
    if contents.program:
        inside = Path(__file__).parent / "inside" / contents.program
        daemon.docker(
            *("run", "--rm", "--network", "none", *RESTRICTED, "--tmpfs", "/tmp:exec,size=512m,mode=1777"),
            *(
                "--volume",
                f"{inside}:/inside.py:ro",
                "--entrypoint",
                "python3",
                f"lacuna/{target}",
                "/inside.py",
            ),
            seconds=300,
        )
    declared(daemon, target)
    pinned(daemon, target)


def declared(daemon: Daemon, target: str) -> None:
    """Raise AssertionError where an image says too little of itself, or keeps something of the build."""
    (image,) = json.loads(daemon.docker("image", "inspect", f"lacuna/{target}").stdout)
    config = image["Config"]
    assert config["User"] == "1000:1000", f"{target} runs as {config['User']!r}"
    assert config["Healthcheck"]["Test"], f"{target} has no health check"
    missing = LABELS - {label.removeprefix(OPEN_CONTAINERS) for label in config["Labels"]}
    assert not missing, f"{target} has no labels {missing}"
    told = " ".join(config["Env"]) + daemon.docker("history", "--no-trunc", f"lacuna/{target}").stdout
    kept = [word for word in ("PIP_CONFIG_FILE=", "SSL_CERT_FILE=") if word in told]
    assert not kept, f"{target} keeps {kept} of the build"


def pinned(daemon: Daemon, target: str) -> None:
    """Raise AssertionError where the packages that a scanner finds in an image are pinned neither by the lock, nor by
    the Dockerfile, nor by another package of the image (torch pins CUDA's)."""
    printed = daemon.docker(
        *("run", "--rm", "--network", "none", "--entrypoint", "python3", f"lacuna/{target}", "-c", LIST)
    ).stdout
    pins = (ROOT / "requirements.lock").read_text().splitlines()
    pins += re.findall(EXACT, (ROOT / "docker" / "Dockerfile").read_text())
    pins += re.findall(f"^needs {EXACT}", printed, re.MULTILINE)
    known = {canonical(pin) for pin in pins}
    found = {canonical(line) for line in printed.splitlines() if line and not line.startswith("needs ")}
    loose = {pin for pin in found - known if pin.partition("==")[0] not in ("lacuna", "torch")}
    assert not loose, f"{target} has packages that nothing pins: {sorted(loose)}"


def canonical(pin: str) -> str:
    """A pin with its name as the package index writes it, and its version without a zero at the end."""
    name, _, version = re.sub(r"\[.*\]", "", pin).partition("==")
    return f"{re.sub('[_.]', '-', name.lower())}=={version.removesuffix('.0')}"


def build_postgres(daemon: Daemon, base: str) -> None:
    """The distribution's Postgres as lacuna-postgres: in a cluster it is anybody's."""
    folder = daemon.folder / "postgres"
    folder.mkdir()
    (folder / "start.sh").write_text(
        "set -e; data=/tmp/data; bin=$(ls -d /usr/lib/postgresql/*/bin); "
        "$bin/initdb -D $data -U lacuna -A trust -E UTF8 --no-sync >/dev/null; "
        "echo 'CREATE DATABASE lacuna' | $bin/postgres --single -D $data postgres >/dev/null; "
        'echo "host all all all trust" >> $data/pg_hba.conf; '
        "exec $bin/postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off"
    )
    (folder / "Dockerfile").write_text(
        f"FROM {base}\n"
        "RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "
        "postgresql >/dev/null\n"
        "RUN useradd --uid 1000 --no-create-home lacuna\n"
        'COPY start.sh /start.sh\nUSER 1000:1000\nENTRYPOINT ["bash", "/start.sh"]\n'
    )
    daemon.docker(
        "build", "--network", "host", "--tag", "lacuna-postgres", str(folder), seconds=BUILD_SECONDS
    )
