"""Static files: ours, plotly's and Swagger UI's, all from this machine, sent compressed and cached for good.

Every address has the digest of all files in it (`/static/<digest>/…`), so that a browser keeps them for ever and an
upgraded service is never shown with an old script.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import re
import threading
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from fitter.service.problems import Problem, echo

MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
COMPRESSED = (".js", ".css", ".svg")

_STATIC = Path(__file__).parent / "static"
_FOREIGN = {
    "plotly.min.js": ("plotly", "package_data/plotly.min.js"),
    "swagger-ui-bundle.js": ("fastapi_offline", "static/swagger-ui-bundle.js"),
    "swagger-ui.css": ("fastapi_offline", "static/swagger-ui.css"),
}

_IMPORTED = re.compile(r'from "\./([a-z]+\.js)"')

router = APIRouter(include_in_schema=False)


@lru_cache(maxsize=1)
def files() -> dict[str, Path]:
    """Every file that is served, by name. A foreign package that is not installed is left out."""
    found = {path.name: path for path in sorted(_STATIC.iterdir()) if path.suffix in MEDIA_TYPES}
    for name, (package, inside) in _FOREIGN.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found[name] = Path(spec.origin).parent / inside
    return found


@lru_cache(maxsize=1)
def digest() -> str:
    """First 12 characters of the SHA-256 of our files, and of the sizes of the foreign ones."""
    hashed = hashlib.sha256()
    for name, path in sorted(files().items()):
        hashed.update(f"{name}\0".encode())
        hashed.update(path.read_bytes() if path.parent == _STATIC else str(path.stat().st_size).encode())
    return hashed.hexdigest()[:12]


def address(name: str) -> str:
    """Where a file is served. Raises KeyError where there is no such file."""
    return f"/static/{digest()}/{files()[name].name if name in _FOREIGN else name}"


@lru_cache(maxsize=16)
def modules(entry: str) -> tuple[str, ...]:
    """Names of the scripts that a script imports, and those that these import, and so on: a page that names them all
    at once has them all at once, where a browser that finds one in the other asks for them one after the other."""
    found: dict[str, None] = {}
    waiting = [entry]
    while waiting:
        for name in _IMPORTED.findall((_STATIC / waiting.pop()).read_text()):
            if name not in found:
                found[name] = None
                waiting.append(name)
    return tuple(found)


_compressed: dict[str, bytes] = {}
_lock = threading.Lock()


def _gzipped(name: str, path: Path) -> bytes:
    with _lock:
        if name not in _compressed:
            _compressed[name] = gzip.compress(path.read_bytes(), compresslevel=6)
        return _compressed[name]


@router.get("/static/{version}/{name}")
def static(request: Request, version: str, name: str) -> Response:
    """A static file. Names are looked up, never joined to a path."""
    path = files().get(name)
    if path is None:
        raise Problem(404, "not-found", "Not Found", f"There is no static file '{echo(name)}'.")
    fresh = version == digest()
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if fresh else "no-cache"}
    media_type = MEDIA_TYPES[path.suffix]
    if path.suffix in COMPRESSED and "gzip" in request.headers.get("accept-encoding", ""):
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return Response(_gzipped(name, path), media_type=media_type, headers=headers)
    return Response(path.read_bytes(), media_type=media_type, headers=headers)
