"""The images for real: build them, start them hardened on one network with a Postgres, train a sweep, read its law.

    python3 tests/images/check.py            needs root on Debian or Ubuntu, and about three minutes

Standard library only. It brings what it needs (docker.io and mmdebstrap from the distribution), runs a Docker daemon
of its own in a folder of its own, and leaves neither behind. Where the machine cannot do that (not root, a kernel or
sandbox that allows no containers, no package index) it says why and ends with 0; whatever goes wrong with the images
ends with 1.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim-bookworm"
TARGETS = ("service", "controller", "trainer-cpu")
TOKEN = "images-test-token-0123456789"
RAY_TOKEN = "images-test-ray-token-0123456789"
LAW_SECONDS = 600
BUILD_SECONDS = 900
FREE_GIB = 12

#: What a cluster's restricted Pod Security and the chart ask of a container.
HARDENED = [
    *("--read-only", "--user", "1000:1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp:size=512m,mode=1777", "--shm-size", "256m"),
]


class CannotRun(Exception):
    """This machine cannot run containers; says why."""


def main() -> int:
    """Run everything; 0 where it passed or cannot run here."""
    began = time.monotonic()
    try:
        needs()
    except CannotRun as reason:
        return skipped(reason)
    folder = Path(tempfile.mkdtemp(prefix="lacuna-images-"))
    daemon = Daemon(folder)
    try:
        try:
            daemon.start()
            base = get_base(daemon, folder)
            wheels = get_wheels(daemon, folder)
            reach_index(daemon, base)
        except CannotRun as reason:
            return skipped(reason)
        for target in TARGETS:
            build(daemon, target, base, wheels)
        build_postgres(daemon, base)
        use(daemon)
    except (AssertionError, subprocess.SubprocessError) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"images: passed in {time.monotonic() - began:.0f} s")
    return 0


def skipped(reason: CannotRun) -> int:
    print(f"images: SKIPPED, because {reason}")
    return 0


# ---- the machine -----------------------------------------------------------------------------------------------------


def needs() -> None:
    if os.geteuid() != 0:
        raise CannotRun("this is not root: a Docker daemon needs it")
    free = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    if free < FREE_GIB:
        raise CannotRun(f"{tempfile.gettempdir()} has {free:.0f} GiB free, and building takes {FREE_GIB}")
    missing = [
        package
        for package, path in (("docker.io", "/usr/sbin/dockerd"), ("mmdebstrap", "/usr/bin/mmdebstrap"))
        if not Path(path).exists()
    ]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise CannotRun(f"there is no apt-get to install {' and '.join(missing)} with")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(f"apt-get {command[0]} failed: {last_line(done.stderr)}")


class Daemon:
    """A Docker daemon with everything of it in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = f"unix://{folder}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self.folder / "dockerd.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *("/usr/sbin/dockerd", "--host", self.socket, "--pidfile", f"{self.folder}/docker.pid"),
                    *("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"),
                ],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.docker("info", check=False).returncode == 0:
                break
            time.sleep(0.5)
        else:
            raise CannotRun(f"no Docker daemon starts here: {last_line(log.read_text(errors='replace'))}")

    def docker(
        self, *arguments: str, check: bool = True, seconds: float = 120, stdin: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Debian's own client, which fits its daemon."""
        with stdin.open("rb") if stdin else open(os.devnull, "rb") as given:
            done = subprocess.run(
                ["/usr/bin/docker", "--host", self.socket, *arguments],
                stdin=given,
                capture_output=True,
                text=True,
                timeout=seconds,
                env={**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(self.folder)},
            )
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}")
        return done

    def stop(self) -> None:
        """Containers first, then the daemon by its own number."""
        if self.process is None:
            return
        try:
            listed = self.docker("ps", "-aq", check=False).stdout.split()
            if listed:
                self.docker("rm", "--force", "--volumes", *listed, check=False)
            self.docker("network", "rm", "lacuna", check=False)
        except subprocess.SubprocessError as trouble:
            print(f"while ending: {trouble}", file=sys.stderr)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def get_base(daemon: Daemon, folder: Path) -> str:
    """The usual base where a registry answers, and otherwise one made of the distribution's packages."""
    try:
        if daemon.docker("pull", "--quiet", BASE, check=False, seconds=60).returncode == 0:
            print(f"base {BASE}")
            return BASE
    except subprocess.TimeoutExpired:
        pass
    began = time.monotonic()
    tar = folder / "base.tar"
    unneeded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    done = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"),
            *('--aptopt=Acquire::Check-Valid-Until "false"', "--dpkgopt=force-unsafe-io", *unneeded),
            *(
                "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/* $1/var/log/*",
                "bookworm",
                str(tar),
            ),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise CannotRun(f"no registry answers, and mmdebstrap failed: {last_line(done.stderr)}")
    daemon.docker("import", str(tar), "lacuna-base:local")
    tar.unlink()
    print(
        f"base made by mmdebstrap in {time.monotonic() - began:.0f} s: {size_of(daemon, 'lacuna-base:local')}"
    )
    return "lacuna-base:local"


def get_wheels(daemon: Daemon, folder: Path) -> str | None:
    """An image of the wheels that this machine's pip is told to look at first; None where there are none."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    links = [
        line.partition("=")[2].strip("'\" ") for line in asked.stdout.splitlines() if "find-links" in line
    ]
    found = {
        wheel.name: wheel
        for link in links
        for part in link.split()
        for wheel in Path(part).glob("torch-*.whl")
    }
    if not found:
        return None
    holder = folder / "wheels"
    holder.mkdir()
    for wheel in found.values():
        os.symlink(wheel, holder / wheel.name)
    tar = folder / "wheels.tar"
    subprocess.run(["tar", "-C", str(holder), "--dereference", "-cf", str(tar), "."], check=True)
    daemon.docker("import", str(tar), "lacuna-wheels:local")
    tar.unlink()
    return "lacuna-wheels:local"


def secrets() -> list[str]:
    """This machine's certificates, for mirrors with a certificate of their own; nothing of them is in an image."""
    bundle = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
    given = ["--secret", f"id=ca,src={bundle}"] if Path(bundle).exists() else []
    config = os.environ.get("PIP_CONFIG_FILE")
    return given + (["--secret", f"id=pip,src={config}"] if config and Path(config).is_file() else [])


def reach_index(daemon: Daemon, base: str) -> None:
    """Whether builds reach a package index at all: a machine without a network is no defect of the images."""
    (daemon.folder / "probe").mkdir()
    dockerfile = daemon.folder / "probe" / "Dockerfile"
    dockerfile.write_text(
        f"FROM {base}\n"
        "RUN --mount=type=secret,id=ca --mount=type=secret,id=pip "
        "if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; "
        "if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; "
        "python3 -m venv /v && /v/bin/pip download --quiet --no-deps --dest /w click==8.5.1\n"
    )
    arguments = ["build", "--network", "host", *secrets(), str(dockerfile.parent)]
    try:
        done = daemon.docker(*arguments, check=False, seconds=180)
    except subprocess.TimeoutExpired:
        raise CannotRun("a container could not be built in three minutes") from None
    if done.returncode:
        raise CannotRun(f"a build runs no command or reaches no package index: {last_line(done.stderr)}")


# ---- the images ------------------------------------------------------------------------------------------------------


def build(daemon: Daemon, target: str, base: str, wheels: str | None) -> None:
    began = time.monotonic()
    local = ["--build-arg", f"WHEELS_IMAGE={wheels}", "--build-arg", "TORCH_CPU_INDEX="] if wheels else []
    daemon.docker(
        *(
            "build",
            "--network",
            "host",
            "--progress",
            "plain",
            "--target",
            target,
            "--tag",
            f"lacuna/{target}",
        ),
        *(
            "--build-arg",
            f"BASE_IMAGE={base}",
            *local,
            *secrets(),
            "--file",
            str(ROOT / "docker" / "Dockerfile"),
        ),
        str(ROOT),
        seconds=BUILD_SECONDS,
    )
    print(
        f"{target}: {size_of(daemon, f'lacuna/{target}')}, built in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    refuse(daemon, target)


def refuse(daemon: Daemon, target: str) -> None:
    """What must not be in an image: torch where nothing trains, a package manager's caches, anything of the build."""
    spared = {
        "service": "torch ray mlflow",
        "controller": "torch transformers fastapi",
        "trainer-cpu": "fastapi",
    }
    code = (
        "import importlib.util, pathlib, sys\n"
        f"there = [name for name in {spared[target]!r}.split() if importlib.util.find_spec(name)]\n"
        "there += [str(p) for p in map(pathlib.Path, ('/src', '/dist', '/wheels', '/root/.cache')) if p.exists()]\n"
        "sys.exit(f'{there} should not be here' if there else 0)"
    )
    daemon.docker("run", "--rm", *HARDENED, "--entrypoint", "python3", f"lacuna/{target}", "-c", code)
    # Whatever was stripped, what it is for still imports.
    needed = {
        "service": "fitter.service.app, orchestrator.submit, datasets, pyarrow.parquet, transformers, sklearn.datasets",
        "controller": "orchestrator.controller.searcher, orchestrator.tracking.plots, ray.tune, mlflow, datasets",
        "trainer-cpu": "orchestrator.controller.trainable, trainer.segment, transformers, ray.tune, s3fs, gcsfs",
    }
    code = f"import {needed[target]}"
    daemon.docker(
        "run", "--rm", *HARDENED, "--entrypoint", "python3", f"lacuna/{target}", "-c", code, seconds=300
    )
    user = daemon.docker("inspect", "--format", "{{.Config.User}}", f"lacuna/{target}").stdout.strip()
    assert user == "1000:1000", f"{target} runs as {user!r}"


def build_postgres(daemon: Daemon, base: str) -> None:
    """The distribution's Postgres: in a cluster it is anybody's."""
    folder = daemon.folder / "postgres"
    folder.mkdir()
    start = (
        "set -e; data=/tmp/data; bin=$(ls -d /usr/lib/postgresql/*/bin); "
        "$bin/initdb -D $data -U lacuna -A trust -E UTF8 --no-sync >/dev/null; "
        "echo 'CREATE DATABASE lacuna' | $bin/postgres --single -D $data postgres >/dev/null; "
        'echo "host all all all trust" >> $data/pg_hba.conf; '
        "exec $bin/postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off"
    )
    (folder / "start.sh").write_text(start)
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


# ---- the whole, at work ----------------------------------------------------------------------------------------------


def use(daemon: Daemon) -> None:
    began = time.monotonic()
    daemon.docker("network", "create", "lacuna")
    daemon.docker("volume", "create", "storage")
    # A fresh volume belongs to root, as a claim without fsGroup would.
    daemon.docker(
        *("run", "--rm", "--user", "0", "--volume", "storage:/storage", "--entrypoint", "chown"),
        *("lacuna/service", "1000:1000", "/storage"),
    )
    pools = daemon.folder / "pools.yaml"
    pools.write_text("pools:\n  - {name: cpu, accelerator: cpu, cpus: 2}\n")
    pools.chmod(0o644)
    secret = daemon.folder / "secrets"
    secret.mkdir()
    (secret / "url").write_text("postgresql://lacuna@postgres:5432/lacuna")
    (secret / "token").write_text(TOKEN)
    (secret / "ray").write_text(RAY_TOKEN)
    ours = [
        *(
            "--env",
            "LACUNA_DATABASE_URL_FILE=/run/lacuna/url",
            "--env",
            "LACUNA_API_TOKEN_FILE=/run/lacuna/token",
        ),
        *("--env", "LACUNA_STORAGE_URL=/storage", "--env", "LACUNA_POOLS=/etc/lacuna/pools.yaml"),
        *("--volume", f"{secret}:/run/lacuna:ro", "--volume", f"{pools}:/etc/lacuna/pools.yaml:ro"),
        *("--volume", "storage:/storage"),
    ]
    ray = ["--env", "RAY_AUTH_MODE=token", "--env", "RAY_AUTH_TOKEN_PATH=/run/lacuna/ray"]
    start(daemon, "postgres", "lacuna-postgres", "--tmpfs", "/tmp:size=1g,mode=1777")
    migrate = ["--tmpfs", "/var/lib/lacuna:uid=1000", *ours, "lacuna/service", "migrate", "--wait", "240"]
    daemon.docker("run", "--rm", "--network", "lacuna", *HARDENED, *migrate, seconds=300)
    start(daemon, "service", "lacuna/service", *ours, home=True, publish="127.0.0.1::8321")
    # Ray gives up on itself after a minute, which a busy machine exceeds; a cluster would start the Pod again.
    head = (
        "until ray start --head --num-cpus=0 --object-store-memory=80000000 --disable-usage-stats --block; "
        "do ray stop --force; sleep 2; done"
    )
    start(daemon, "ray-head", "lacuna/controller", *ours, *ray, home=True, entry=head)
    worker = (
        "until ray start --address=ray-head:6379 --num-cpus=2 --resources='{\"pool:cpu\": 1}' "
        "--object-store-memory=80000000 --disable-usage-stats --block; do sleep 2; done"
    )
    # As in a cluster, the worker is told neither the ledger's address nor a token of ours.
    storage = ["--volume", "storage:/storage", "--volume", f"{secret / 'ray'}:/run/lacuna/ray:ro"]
    start(daemon, "worker", "lacuna/trainer-cpu", *storage, *ray, home=True, entry=worker)
    start(
        daemon,
        "controller",
        "lacuna/controller",
        *ours,
        *ray,
        "--env",
        "RAY_ADDRESS=ray-head:6379",
        home=True,
    )

    address = daemon.docker("port", "service", "8321/tcp").stdout.splitlines()[0].strip()
    try:
        until(lambda: ask(address, "/readyz") == {"status": "ok"}, 300, "the service to be ready")
        print(f"started in {time.monotonic() - began:.0f} s", flush=True)
        ask_without_token(address)
        made = ask(address, "/v1/sweeps", (Path(__file__).parent / "sweep.yaml").read_bytes())
        print(f"submitted {made['name']}", flush=True)
        law = until(lambda: finished_law(address), LAW_SECONDS, "a law from all runs")
        print(f"law from {law['runs']} runs: {json.dumps(law['coefficients'])}")
        for name in ("service", "ray-head", "worker"):
            until(lambda name=name: health(daemon, name) == "healthy", 300, f"{name} to be healthy")  # type: ignore[misc]
        spoken = daemon.docker("logs", "service").stdout + daemon.docker("logs", "controller").stdout
        assert not {token for token in (TOKEN, RAY_TOKEN) if token in spoken}, "a token stands in a log"
        shown = daemon.docker("inspect", "service", "controller", "worker", "ray-head").stdout
        assert not {token for token in (TOKEN, RAY_TOKEN) if token in shown}, (
            "a token stands in an environment"
        )
    except AssertionError:
        tell(daemon)
        raise


def start(
    daemon: Daemon,
    name: str,
    image: str,
    *options: str,
    home: bool = False,
    publish: str | None = None,
    entry: str | None = None,
) -> None:
    hardened = [*HARDENED, *(["--tmpfs", "/var/lib/lacuna:size=512m,uid=1000,mode=0770"] if home else [])]
    if "--tmpfs" in options:
        hardened = [part for part in hardened if not part.startswith("/tmp:")]
        hardened.remove("--tmpfs")
    command = ["-c", entry] if entry else []
    daemon.docker(
        *("run", "--detach", "--name", name, "--network", "lacuna", *hardened, *options),
        *(["--publish", publish] if publish else []),
        *(["--entrypoint", "bash"] if entry else []),
        image,
        *command,
    )


def finished_law(address: str) -> dict[str, object] | None:
    sweep = ask(address, "/v1/sweeps/images")
    if "failed" in json.dumps(sweep.get("progress", sweep).get("state", "")):
        raise AssertionError(f"the sweep failed: {sweep}")
    try:
        law = ask(address, "/v1/sweeps/images/law")
    except urllib.error.HTTPError as error:
        if error.code in (404, 409, 425):
            return None
        raise
    return law if law.get("runs") == RUNS else None


RUNS = 27


def ask(address: str, path: str, body: bytes | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/yaml"}
    request = urllib.request.Request(f"http://{address}{path}", data=body, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=300 if body else 20) as answer:
            found: dict[str, object] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        if error.code in (400, 422, 500):
            raise AssertionError(f"{path}: {error.code} {error.read().decode()[:2000]}") from None
        raise


def ask_without_token(address: str) -> None:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://{address}/v1/sweeps", timeout=20
        )
    except urllib.error.HTTPError as error:
        code = error.code
    else:
        code = 200
    assert code == 401, f"without a token the service answers {code}"


def until(look: Callable[[], object], seconds: float, what: str) -> dict[str, object]:
    """What `look` finds, once it finds something. Raises AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    seen: object = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found  # type: ignore[return-value]
        except (urllib.error.URLError, OSError) as trouble:
            seen = trouble
        time.sleep(1)
    raise AssertionError(f"waited {seconds:.0f} s for {what}; last seen: {seen}")


def health(daemon: Daemon, name: str) -> str:
    return daemon.docker("inspect", "--format", "{{.State.Health.Status}}", name).stdout.strip()


def tell(daemon: Daemon) -> None:
    for name in ("postgres", "service", "ray-head", "worker", "controller"):
        told = daemon.docker("logs", "--tail", "25", name, check=False)
        print(f"---- {name}\n{told.stdout[-3000:]}{told.stderr[-3000:]}", file=sys.stderr)


def size_of(daemon: Daemon, image: str) -> str:
    size = int(daemon.docker("image", "inspect", "--format", "{{.Size}}", image).stdout)
    return f"{size / 2**20:.0f} MiB"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
