"""`lacuna serve` as a process: one service a home, its addresses, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ledger import embedded
from orchestrator.command.serve_record import Record, show

PROGRAM = [sys.executable, "-c", "from orchestrator.command.main import main; main()", "serve"]


@pytest.fixture
def environment(settings, home: Path) -> Iterator[dict[str, str]]:  # type: ignore[no-untyped-def]
    """A LACUNA_HOME with a ledger on the test session's Postgres; what runs in it is ended afterwards."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LACUNA_")}
    given = {**kept, "LACUNA_HOME": str(home), "LACUNA_DATABASE_URL": settings.database_url}
    yield given
    lacuna(given, "--stop")


def lacuna(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `lacuna serve` with these arguments to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent to notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def record(home: Path) -> dict[str, object]:
    """What `serve.json` says."""
    found: dict[str, object] = json.loads((home / "serve.json").read_text())
    return found


def test_detached_it_answers_once_however_often_it_is_started_and_stops(
    environment: dict[str, str], home: Path
) -> None:
    started = lacuna(environment, "--detach", "--no-mlflow", "--port", str(free_port()))
    assert started.returncode == 0, started.stderr
    first = record(home)
    assert f"page    {first['url']}/" in started.stdout
    assert httpx.get(f"{first['url']}/readyz").json() == {"status": "ok"}
    again = lacuna(environment, "--detach", "--port", str(free_port()))
    assert "running already" in again.stdout
    assert record(home) == first
    assert lacuna(environment, "--stop").returncode == 0
    assert not alive(int(str(first["pid"])))
    assert "no service" in lacuna(environment, "--stop").stdout


def test_the_service_holds_neither_torch_nor_ray_and_is_small(
    environment: dict[str, str], home: Path
) -> None:
    lacuna(environment, "--detach", "--no-mlflow", "--port", str(free_port()))
    address, pid = record(home)["url"], int(str(record(home)["pid"]))
    for path in ("/", "/docs", "/v1/sweeps", "/openapi.json", "/metrics"):
        httpx.get(f"{address}{path}")
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "libtorch" not in mapped
    assert "ray/_raylet" not in mapped
    assert psutil.Process(pid).memory_info().rss < 250 * 2**20


SPEC = """
name: posted
model: {family: t5, encoder_layers: 1, decoder_layers: 1, d_model: 32, heads: 2, d_ff: 64, shape_rule: linear}
data: {source: python-source, max_tokens: 100_000, sequence_length: 64, evaluation_batches: 2}
grid: {nonzero_params: [6e3, 12e3], sparsity: [0, 0.5], steps: [100, 200]}
pruning: {every: 5}
training: {batch_size: 8}
"""


def test_a_posted_spec_is_planned_and_the_service_stays_small(
    environment: dict[str, str], home: Path
) -> None:
    lacuna(environment, "--detach", "--no-mlflow", "--port", str(free_port()))
    address, pid = record(home)["url"], int(str(record(home)["pid"]))
    kind = {"Content-Type": "application/yaml"}
    first = httpx.post(f"{address}/v1/sweeps", content=SPEC, headers=kind, timeout=120)
    assert first.status_code == 201, first.text
    assert first.json()["plan"]["runs"] == 8
    again = httpx.post(f"{address}/v1/sweeps", content=SPEC, headers=kind, timeout=120)
    assert (again.status_code, again.json()["created"]) == (200, False)
    other = SPEC.replace("batch_size: 8", "batch_size: 16")
    taken = httpx.post(f"{address}/v1/sweeps", content=other, headers=kind, timeout=120)
    assert taken.status_code == 409
    assert httpx.get(f"{address}/v1/sweeps/posted").json()["runs"]["pending"] == 8
    assert psutil.Process(pid).memory_info().rss < 250 * 2**20


def test_a_port_that_is_taken_is_passed_over(environment: dict[str, str], home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        started = lacuna(environment, "--detach", "--no-mlflow", "--port", str(taken))
    assert f"port {taken} is taken" in started.stdout
    assert record(home)["url"] != f"http://127.0.0.1:{taken}"


def test_after_a_kill_the_record_is_no_proof_of_life(environment: dict[str, str], home: Path) -> None:
    lacuna(environment, "--detach", "--no-mlflow", "--port", str(free_port()))
    pid = int(str(record(home)["pid"]))
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.02)
    assert "no service" in lacuna(environment, "--stop").stdout
    again = lacuna(environment, "--detach", "--no-mlflow", "--port", str(free_port()))
    assert again.returncode == 0
    assert record(home)["pid"] != pid


def test_an_address_that_others_reach_needs_a_token(environment: dict[str, str]) -> None:
    refused = lacuna(environment, "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "LACUNA_API_TOKEN" in refused.stderr


def test_an_mlflow_that_does_not_answer_yet_is_shown_as_starting(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens there yet
        mlflow = f"http://127.0.0.1:{silent.getsockname()[1]}"
        show(Record(pid=1, url="http://127.0.0.1:1", mlflow_pid=2, mlflow_url=mlflow))
        show(Record(pid=1, url="http://127.0.0.1:1", mlflow_pid=None, mlflow_url=mlflow))
    lines = capsys.readouterr().out.splitlines()
    assert f"MLflow  {mlflow}  (starting)" in lines
    assert f"MLflow  {mlflow}" in lines, "one that others run is not ours to watch"


def test_when_mlflow_dies_the_service_goes_on_and_says_so(environment: dict[str, str], home: Path) -> None:
    started = lacuna(environment, "--detach", "--port", str(free_port()))
    assert started.returncode == 0, started.stderr
    address, mlflow = record(home)["url"], int(str(record(home)["mlflow_pid"]))
    assert f'href="{record(home)["mlflow_url"]}"' in httpx.get(f"{address}/").text
    deadline = time.monotonic() + 90
    while "(starting)" in lacuna(environment, "--detach").stdout and time.monotonic() < deadline:
        time.sleep(0.1)
    assert httpx.get(f"{record(home)['mlflow_url']}/health").status_code == 200
    os.kill(mlflow, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while "MLflow ended" not in (page := httpx.get(f"{address}/").text) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "MLflow ended" in page
    assert httpx.get(f"{address}/v1/sweeps").status_code == 200


def test_stopping_ends_mlflow_too_even_after_the_service_was_killed(
    environment: dict[str, str], home: Path
) -> None:
    lacuna(environment, "--detach", "--port", str(free_port()))
    first = record(home)
    os.kill(int(str(first["pid"])), signal.SIGKILL)
    assert alive(int(str(first["mlflow_pid"])))
    lacuna(
        environment, "--detach", "--port", str(free_port())
    )  # a new service clears away what the old one left
    assert not alive(int(str(first["mlflow_pid"])))
    second = record(home)
    lacuna(environment, "--stop")
    assert not alive(int(str(second["pid"])))
    assert not alive(int(str(second["mlflow_pid"])))


def test_after_kill_9_of_its_embedded_postgres_it_answers_again(
    environment: dict[str, str], home: Path
) -> None:
    embedded_ledger = {name: value for name, value in environment.items() if name != "LACUNA_DATABASE_URL"}
    try:
        started = lacuna(embedded_ledger, "--detach", "--no-mlflow", "--port", str(free_port()))
        assert started.returncode == 0, started.stderr
        servers = [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(home / "postgres") in " ".join(process.info["cmdline"] or [])
        ]
        assert servers
        for process in servers:
            process.kill()
        again = lacuna(embedded_ledger, "--detach")
        assert again.returncode == 0, again.stderr
        assert httpx.get(f"{record(home)['url']}/readyz").json() == {"status": "ok"}
    finally:
        lacuna(embedded_ledger, "--stop")
        embedded.stop(home / "postgres")
