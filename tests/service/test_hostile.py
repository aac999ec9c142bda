"""Bodies that nobody means well with: each gets a 4xx that says something, nothing is stored, nothing hangs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from fitter.service import create_app
from ledger.models import Sweep
from ledger.settings import Settings
from orchestrator.command.serve_submit import planner

GOOD: dict[str, Any] = {
    "name": "hostile",
    "model": {"family": "t5"},
    "data": {"source": "no-such-source/at-all", "tokenizer": "byte"},
    "grid": {"nonzero_params": [1e6], "sparsity": [0.5], "steps": [1000]},
}

NAMES = [
    "../../etc/passwd",
    "..",
    "a/b",
    "A" * 64,
    "x'; DROP TABLE sweeps; --",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "a\u0000b",
    "\u202ename",
    "",
    " ",
    "con\n",
    "naïve",
    "%2e%2e",
    None,
    1.5,
    True,
    ["a"],
    {"a": 1},
]
NUMBERS: list[Any] = [
    float("nan"),
    float("inf"),
    -float("inf"),
    -1,
    1e400,
    "1e6; rm -rf /",
    None,
    {},
    [[1]],
    True,
    "0x10",
]
SOURCES = [
    "/etc/passwd",
    "../../../etc/shadow",
    "~/.ssh/id_rsa",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "gs://bucket/secret",
    "s3://bucket/secret",
    "/proc/self/environ",
    "./x",
    "a/../../etc",
    "\\\\host\\share",
    "a/b/c",
    "/dev/zero",
]


def specs() -> Iterator[tuple[str, bytes]]:
    """(what it is, the body)."""
    for name in NAMES:
        yield f"name {name!r:.30}", json.dumps({**GOOD, "name": name}).encode()
    for axis, value in itertools.product(("nonzero_params", "sparsity", "steps"), NUMBERS):
        grid = {**GOOD["grid"], axis: [value]}
        yield f"{axis} {value!r:.20}", json.dumps({**GOOD, "grid": grid}).encode()
    for source in SOURCES:
        yield f"source {source}", json.dumps({**GOOD, "data": {"source": source}}).encode()
        data = {"source": "python-source", "tokenizer": source}
        yield f"tokenizer {source}", json.dumps({**GOOD, "data": data}).encode()
        model = {"family": "t5", "start_from": source}
        yield f"start from {source}", json.dumps({**GOOD, "model": model}).encode()
    huge = {"nonzero_params": [1e6 + i for i in range(2000)], "sparsity": [i / 2000 for i in range(2000)]}
    yield "a grid of four million cells", json.dumps({**GOOD, "grid": {**huge, "steps": [1000]}}).encode()
    yield (
        "billion laughs",
        "\n".join(
            ["a: &a [x, x, x, x, x, x, x, x, x]"]
            + [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)]
        ).encode(),
    )
    yield "a cycle of aliases", b"a: &a\n  b: *a\n"
    yield "deep lists", b"a: " + b"[" * 5000 + b"]" * 5000
    yield "deep dashes", b"- " * 5000 + b"x"
    yield "deep lines", b"\n".join(b" " * i + b"a:" for i in range(1400))
    yield "deep mappings", b"{a: " * 3000 + b"1" + b"}" * 3000
    yield "deep JSON", b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    yield "a Python object", b"!!python/object/apply:os.system ['true']"
    yield "a Python name", b"name: !!python/name:os.system"
    yield "an unknown tag", b"name: !evil x"
    yield "a tag that asks for bytes", b"name: !!binary aGVsbG8="
    yield "two documents", b"name: a\n---\nname: b\n"
    yield "a key twice", b"name: a\nname: b\n"
    yield "a merge key", b"base: &b {name: x}\n<<: *b\n"
    yield "an undefined alias", b"name: *nobody"
    yield "a date for a name", b"name: 2026-01-01"
    yield "UTF-16", "name: x".encode("utf-16")
    yield "Latin-1", "name: größe".encode("latin-1")
    yield "bytes that are no text", bytes(range(256))
    yield "zero bytes", b"\0" * 100
    yield "a lone surrogate", b'{"name": "\\ud800"}'
    yield "a tab for indentation", b"model:\n\tfamily: t5"
    yield "nothing", b""
    yield "only spaces", b"   \n  "
    yield "only a comment", b"# nothing"
    yield "a list", b"[1, 2]"
    yield "a number", b"42"
    yield "null", b"null"
    yield "HTML", b"<html><body>x</body></html>"
    yield "an open quote", b'name: "x'
    yield "an open brace", b"{name: x"
    yield "a very long line", b"name: " + b"x" * 500_000
    yield "many keys", "\n".join(f"k{i}: {i}" for i in range(5_000)).encode()
    yield "too many bytes", b"# " + b"x" * (2**20 + 10)
    yield "an unknown key with a script", json.dumps({**GOOD, "<img src=x onerror=alert(1)>": 1}).encode()
    yield "a base-60 number", b"name: x\ngrid: {steps: 190:20:30}"
    yield "a huge integer", b'{"name": "x", "grid": {"steps": [' + b"9" * 10_000 + b"]}}"


BODIES = list(specs())


@pytest.fixture(scope="module")
def planning(service_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service with the real planner, as it serves callers from elsewhere."""
    url = service_engine.url.render_as_string(hide_password=False)
    settings = Settings(home=tmp_path_factory.mktemp("home"), database_url=url)
    app = create_app(
        settings=settings, engine=service_engine, submit=planner(settings, service_engine, trusted=False)
    )
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def test_there_are_a_hundred_of_them() -> None:
    assert len(BODIES) >= 100


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("what", "body"), BODIES, ids=[what for what, _ in BODIES])
def test_a_hostile_spec_is_refused_with_a_reason(
    planning: TestClient, service_engine: Engine, what: str, body: bytes
) -> None:
    answer = planning.post("/v1/sweeps", content=body, headers={"content-type": "application/yaml"})
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["errors"], problem
    assert all(item["message"] for item in problem["errors"])
    assert len(answer.content) < 64 * 1024
    assert "Traceback" not in answer.text
    assert "root:" not in answer.text
    with service_engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM sweeps WHERE name LIKE '%hostile%'")) == 0


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fetc",
        "%00",
        "a%00b",
        "'%20OR%201=1--",
        "a" * 300,
        "%F0%9F%92%A9",
        "%ff",
        "{name}",
        "~",
        "..;",
    ],
)
@pytest.mark.parametrize("part", ["", "/runs", "/law", "/law/history", "/events", "/forest", "/progress"])
def test_a_hostile_name_is_an_unknown_sweep(planning: TestClient, name: str, part: str) -> None:
    answer = planning.get(f"/v1/sweeps/{name}{part}")
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "name", ["page.css%00.png", "..%2fassets.py", "%2e%2e/app.py", "base.html", "../guard.py", "C:%5cx"]
)
def test_a_static_file_outside_the_list_is_not_served(planning: TestClient, name: str) -> None:
    assert planning.get(f"/static/x/{name}").status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "sparsity=0.5&nonzero_params=1e999&data=1e9",
        "sparsity=0.5&nonzero_params=1e6&data=1e-320",
        "sparsity=0.999999999999999999&nonzero_params=1e6&data=1e9",
        "sparsity=%00&nonzero_params=1e6&data=1e9",
        "sparsity=0.5&nonzero_params=1e6&data=1e9&version=99999999999999999999",
        "sparsity=0.5&nonzero_params=1_000_000x&data=1e9",
    ],
)
def test_a_hostile_question_is_refused(client: TestClient, fitted: Sweep, query: str) -> None:
    answer = client.get(f"/v1/sweeps/grid/law/predict?{query}")
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_extremes_that_are_allowed_have_finite_answers(client: TestClient, fitted: Sweep) -> None:
    for sparsity, size, data in itertools.product((0, 0.999999), (1, 1e18), (1, 1e24)):
        query = {"sparsity": sparsity, "nonzero_params": size, "data": data}
        assert client.get("/v1/sweeps/grid/law/predict", params=query).status_code == 200
    for accounting, size, flops in itertools.product(("dense", "sparse"), (1, 1e18), (1, 1e36)):
        query = {"nonzero_params": size, "flops": flops, "accounting": accounting}
        assert client.get("/v1/sweeps/grid/law/optimum", params=query).status_code == 200
