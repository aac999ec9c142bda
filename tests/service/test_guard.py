"""Who may do what: tokens, scopes, the cookie, other sites, sizes and rates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from fitter.service import create_app, tokens
from fitter.service.guard import COOKIE, LARGEST_BODY, Rate
from ledger.models import Sweep
from ledger.settings import Settings

OPERATOR = "operator-secret-0123456789"


@pytest.fixture
def public(settings: Settings, engine: Engine) -> Iterator[TestClient]:
    """The service as it runs on an address that others reach."""
    app = create_app(settings=replace(settings, api_token=OPERATOR), engine=engine, require_token=True)
    with TestClient(app, base_url="https://lacuna.example.org", raise_server_exceptions=False) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    """The header that presents a token."""
    return {"Authorization": f"Bearer {token}"}


def test_without_a_token_only_the_health_checks_answer(public: TestClient) -> None:
    assert public.get("/healthz").status_code == 200
    assert public.get("/readyz").status_code == 200
    for path in ("/v1/sweeps", "/metrics", "/openapi.json", "/docs", "/"):
        refused = public.get(path)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert refused.headers["content-type"] == "application/problem+json"


def test_the_operators_token_opens_everything(public: TestClient, sweep: Sweep) -> None:
    assert public.get("/v1/sweeps", headers=bearer(OPERATOR)).status_code == 200
    assert public.post("/v1/sweeps/grid/pause", headers=bearer(OPERATOR)).status_code == 200
    assert public.get("/v1/sweeps", headers=bearer(OPERATOR + "x")).status_code == 401


def test_a_reading_token_reads_and_asks_but_does_not_write(
    public: TestClient, fitted: Sweep, engine: Engine
) -> None:
    token = tokens.create(engine, "dashboard", ["read"])
    assert public.get("/v1/sweeps/grid/law", headers=bearer(token)).status_code == 200
    question = {"sparsity": [0.5], "nonzero_params": [1e6], "data": [1e9]}
    asked = public.post("/v1/sweeps/grid/law/predict", json=question, headers=bearer(token))
    assert asked.status_code == 200
    refused = public.post("/v1/sweeps/grid/pause", headers=bearer(token))
    assert refused.status_code == 403
    assert "scope 'write'" in refused.json()["detail"]


def test_only_a_hash_of_a_token_is_stored(engine: Engine) -> None:
    token = tokens.create(engine, "someone", ["read", "write"])
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM tokens")).all()
    secret = token.split("_", 2)[2]
    assert len(secret) >= 40
    assert secret not in str(rows)


def test_an_expired_and_a_revoked_token_open_nothing(
    public: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED_SECONDS", 0.0)
    short = tokens.create(engine, "short", ["read"], datetime.now(UTC) + timedelta(milliseconds=300))
    long = tokens.create(engine, "long", ["read"])
    assert public.get("/v1/sweeps", headers=bearer(short)).status_code == 200
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE tokens SET expires_at = now() - interval '1 second' WHERE name = 'short'")
        )
    assert public.get("/v1/sweeps", headers=bearer(short)).status_code == 401
    identity = next(token.id for token in tokens.list_(engine) if token.name == "long")
    tokens.revoke(engine, identity)
    assert public.get("/v1/sweeps", headers=bearer(long)).status_code == 401
    with pytest.raises(tokens.TokenError, match="no valid token"):
        tokens.revoke(engine, identity)


def test_a_token_that_makes_no_sense_is_refused(engine: Engine) -> None:
    with pytest.raises(tokens.TokenError, match="name"):
        tokens.create(engine, " ")
    with pytest.raises(tokens.TokenError, match="admin"):
        tokens.create(engine, "x", ["admin"])  # type: ignore[list-item]
    with pytest.raises(tokens.TokenError, match="expired"):
        tokens.create(engine, "x", ["read"], datetime(2020, 1, 1, tzinfo=UTC))


def test_logging_in_keeps_the_token_where_scripts_and_other_sites_cannot_use_it(
    public: TestClient, sweep: Sweep
) -> None:
    page = public.get("/sweeps/grid", headers={"Accept": "text/html"}, follow_redirects=False)
    assert page.headers["location"] == "/login?next=/sweeps/grid"
    assert public.post("/session", json={"token": "wrong"}).status_code == 401
    answer = public.post("/session", json={"token": OPERATOR})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Secure"))
    assert public.get("/v1/sweeps").status_code == 200
    foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    assert public.post("/v1/sweeps/grid/pause", headers=foreign).status_code == 403
    same = {"Origin": "https://lacuna.example.org", "Sec-Fetch-Site": "same-origin"}
    assert public.post("/v1/sweeps/grid/pause", headers=same).status_code == 200
    public.delete("/session")
    assert public.get("/v1/sweeps").status_code == 401


def test_guessing_tokens_is_slowed_down(public: TestClient) -> None:
    answers = [public.post("/session", json={"token": str(guess)}) for guess in range(12)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_on_loopback_a_page_elsewhere_neither_reads_by_another_name_nor_writes(
    client: TestClient, sweep: Sweep
) -> None:
    assert client.get("/v1/sweeps", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/v1/sweeps", headers={"Host": "localhost:8321"}).status_code == 200
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.post("/v1/sweeps/grid/cancel", headers=headers).status_code == 403
    assert client.get("/v1/sweeps/grid").json()["state"] == "active"


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/docs", "/v1/sweeps", "/v1/sweeps/none", "/static/x/page.css", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy.replace("style-src-attr 'unsafe-inline'", "")
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in policy


def test_a_body_beyond_the_limit_is_refused_whether_or_not_it_says_so(client: TestClient) -> None:
    big = b"x" * (LARGEST_BODY + 1)
    assert client.post("/v1/sweeps", content=big).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(9):
            yield b"x" * 2**20

    assert client.post("/v1/sweeps", content=chunks()).status_code == 413


def test_a_bucket_refills_at_its_rate_and_forgets_the_oldest_client() -> None:
    rate = Rate(per_second=2.0, burst=3.0, clients=2)
    assert [rate.wait("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert rate.wait("a", 0.0) == pytest.approx(0.5)
    assert rate.wait("a", 0.5) == 0.0
    assert rate.wait("b", 0.5) == 0.0
    rate.wait("c", 0.5)
    assert rate.wait("a", 0.5) == 0.0  # forgotten, so its bucket is full again


def test_metrics_count_by_route_not_by_name(client: TestClient, sweep: Sweep) -> None:
    for name in ("grid", "a", "b"):
        client.get(f"/v1/sweeps/{name}/progress")
    page = client.get("/metrics").text
    assert 'route="/v1/sweeps/{name}/progress",status="200"} 1' in page
    assert 'route="/v1/sweeps/{name}/progress",status="404"} 2' in page
    assert 'lacuna_runs{state="pending"} 48' in page
