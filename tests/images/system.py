"""The images as a cluster runs them: hardened containers on one network, a sweep through REST, its law."""

from __future__ import annotations

import shutil
import sys
import time
import urllib.error

from tests.images.build import RESTRICTED
from tests.images.daemon import Daemon
from tests.images.rest import RUNS, SWEEP, Service, told, until

NETWORK = "lacuna"
TOKEN = "images-test-token-0123456789"
RAY_TOKEN = "images-test-ray-token-0123456789"
PATIENCE = 300
LAW_SECONDS = 600
PARTS = ("postgres", "service", "ray-head", "worker", "controller")

#: Ray gives up on a node that has not come up after half a minute, which a busy machine exceeds; a cluster would start
#: the Pod again.
HEAD = (
    "until ray start --head --num-cpus=0 --object-store-memory=80000000 --disable-usage-stats --block; "
    "do ray stop --force; sleep 2; done"
)

#: The image's own check looks for the controller's mark, which a head does not make: the chart asks a head this.
HEAD_HEALTH = (
    "--health-cmd=python3 -c 'import urllib.request as r; "
    'r.urlopen("http://127.0.0.1:52365/api/healthz", timeout=2)\''
)
WORKER = (
    "until ray start --address=ray-head:6379 --num-cpus=2 --resources='{\"pool:cpu\": 1}' "
    "--object-store-memory=80000000 --disable-usage-stats --block; do ray stop --force; sleep 2; done"
)


def use(daemon: Daemon) -> None:
    """Start everything, train the sweep, read its law. Raises AssertionError, with the ends of all logs printed."""
    began = time.monotonic()
    try:
        start_all(daemon)
        address = daemon.docker("port", "service", "8321/tcp").stdout.splitlines()[0].strip()
        service = Service(address, TOKEN)
        until(service.ready, PATIENCE, "the service to be ready")
        print(f"started in {time.monotonic() - began:.0f} s", flush=True)
        refuses_without_token(service)
        began = time.monotonic()
        service.submit()
        told(until(service.law_of_all_runs, LAW_SECONDS, "a law from all runs"))
        print(f"trained in {time.monotonic() - began:.0f} s", flush=True)
        again_as_job(daemon)
        for name in ("service", "ray-head", "worker", "controller"):
            until(lambda name=name: health(daemon, name) == "healthy", PATIENCE, f"{name} to be healthy")  # type: ignore[misc]
        shows_no_token(daemon)
        print(
            daemon.docker("stats", "--no-stream", "--format", "memory of {{.Name}}: {{.MemUsage}}").stdout,
            end="",
        )
        leaves(daemon)
    except AssertionError:
        tell(daemon)
        raise


def start_all(daemon: Daemon) -> None:
    """Postgres, service, Ray head, a worker, the controller, with what the chart gives each and no more."""
    daemon.docker("network", "create", NETWORK)
    daemon.docker("volume", "create", "storage")
    # A fresh volume belongs to root, as a claim without fsGroup would.
    daemon.docker(
        *("run", "--rm", "--network", "none", "--user", "0", "--volume", "storage:/storage"),
        *("--entrypoint", "chown", "lacuna/service", "1000:1000", "/storage"),
    )
    etc = daemon.folder / "etc"
    etc.mkdir()
    (etc / "pools.yaml").write_text("pools:\n  - {name: cpu, accelerator: cpu, cpus: 2}\n")
    shutil.copy(SWEEP, etc)
    secret = daemon.folder / "secrets"
    secret.mkdir()
    (secret / "url").write_text("postgresql://lacuna@postgres:5432/lacuna")
    (secret / "token").write_text(TOKEN)
    (secret / "ray").write_text(RAY_TOKEN)
    ours = [
        *("--env", "LACUNA_DATABASE_URL_FILE=/run/lacuna/url", "--env", "LACUNA_STORAGE_URL=/storage"),
        *("--env", "LACUNA_API_TOKEN_FILE=/run/lacuna/token", "--env", "LACUNA_POOLS=/etc/lacuna/pools.yaml"),
        *("--volume", f"{secret}:/run/lacuna:ro", "--volume", f"{etc}:/etc/lacuna:ro"),
        *("--volume", "storage:/storage"),
    ]
    ray = ["--env", "RAY_AUTH_MODE=token", "--env", "RAY_AUTH_TOKEN_PATH=/run/lacuna/ray"]
    start(daemon, "postgres", "lacuna-postgres", tmp="1g")
    # As in a cluster, Ray's nodes are told neither the ledger's address nor a token of ours.
    ray_token = ["--volume", f"{secret / 'ray'}:/run/lacuna/ray:ro"]
    start(daemon, "ray-head", "lacuna/controller", *ray_token, *ray, HEAD_HEALTH, shell=HEAD)
    storage = ["--volume", "storage:/storage"]
    start(daemon, "worker", "lacuna/trainer-cpu", *storage, *ray_token, *ray, shell=WORKER)
    start(daemon, "migrations", "lacuna/service", *ours, command=["migrate", "--wait", "240"])
    ended = daemon.docker("wait", "migrations", seconds=PATIENCE).stdout.strip()
    assert ended == "0", daemon.docker("logs", "migrations").stderr
    start(daemon, "service", "lacuna/service", *ours, "--publish", "127.0.0.1::8321")
    start(daemon, "controller", "lacuna/controller", *ours, *ray, "--env", "RAY_ADDRESS=ray-head:6379")


def start(
    daemon: Daemon,
    name: str,
    image: str,
    *options: str,
    tmp: str = "512m",
    command: list[str] | None = None,
    shell: str | None = None,
) -> None:
    """A container in the background. `tmp`: size of its /tmp; `shell`: run by bash instead of the image's command."""
    writable = [f"/tmp:size={tmp},mode=1777", "/var/lib/lacuna:size=512m,uid=1000,mode=0770"]
    entry = ["--entrypoint", "bash"] if shell else []
    daemon.docker(
        *("run", "--detach", "--name", name, "--network", NETWORK, *RESTRICTED, *options, *entry),
        *(f"--tmpfs={place}" for place in writable),
        *(image, *(["-c", shell] if shell else command or [])),
    )


#: Ray's own client on the head: what KubeRay does with a RayJob.
SUBMIT = """\
import json, sys, time
from ray.job_submission import JobStatus, JobSubmissionClient
spec = json.loads(sys.argv[1])["spec"]
client = JobSubmissionClient("http://127.0.0.1:8265")
job = client.submit_job(
    entrypoint=spec["entrypoint"], entrypoint_resources=json.loads(spec["entrypointResources"])
)
while not client.get_job_status(job).is_terminal():
    time.sleep(0.5)
print(client.get_job_logs(job))
sys.exit(client.get_job_status(job) != JobStatus.SUCCEEDED)
"""


def again_as_job(daemon: Daemon) -> None:
    """The same sweep as a RayJob, which finds it done. Raises AssertionError where the job fails."""
    manifest = ["lacuna", "submit", f"/etc/lacuna/{SWEEP.name}", "--as", "rayjob", "--json"]
    printed = daemon.docker("exec", "service", *manifest).stdout
    said = daemon.docker("exec", "ray-head", "python3", "-c", SUBMIT, printed, seconds=PATIENCE).stdout
    assert f"{RUNS} of {RUNS} runs done" in said, said
    print("the same sweep as a job: done", flush=True)


def leaves(daemon: Daemon) -> None:
    """A worker's hook as the chart writes it. Raises AssertionError where it does not end, or fails."""
    hook = [
        "python",
        "-m",
        "orchestrator.leaving",
        "--within",
        "30",
        "--",
        "ray",
        "stop",
        "--grace-period",
        "5",
    ]
    said = daemon.docker("exec", "worker", *hook, seconds=PATIENCE)
    assert "Stopped" in said.stdout + said.stderr, said.stdout + said.stderr
    assert "still held" not in said.stderr, said.stderr


def refuses_without_token(service: Service) -> None:
    """Raise AssertionError where the service answers anybody."""
    try:
        service.ask("/v1/sweeps", with_token=False)
    except urllib.error.HTTPError as error:
        code = error.code
    else:
        code = 200
    assert code == 401, f"without a token the service answers {code}"


def shows_no_token(daemon: Daemon) -> None:
    """Raise AssertionError where a token stands in a log or in a container's settings."""
    logs = [daemon.docker("logs", name) for name in ("service", "controller")]
    spoken = "".join(log.stdout + log.stderr for log in logs)
    shown = daemon.docker("inspect", "service", "controller", "worker", "ray-head").stdout
    for token in (TOKEN, RAY_TOKEN):
        assert token not in spoken, "a token stands in a log"
        assert token not in shown, "a token stands in an environment"


def health(daemon: Daemon, name: str) -> str:
    """What the container's health check says."""
    return daemon.docker("inspect", "--format", "{{.State.Health.Status}}", name).stdout.strip()


def tell(daemon: Daemon) -> None:
    """The ends of all logs, for whoever reads the failure."""
    for name in PARTS:
        log = daemon.docker("logs", "--tail", "25", name, check=False)
        print(f"---- {name}\n{log.stdout[-3000:]}{log.stderr[-3000:]}", file=sys.stderr)
