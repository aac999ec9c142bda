"""What the check looks for in images, as far as that is known without any."""

from __future__ import annotations

import re

import pytest

from tests.images.build import CONTENTS, ROOT, SYSTEM, canonical
from tests.images.check import main


def test_every_image_of_the_dockerfile_is_looked_at() -> None:
    stages = re.findall(
        r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)",
        (ROOT / "docker" / "Dockerfile").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert set(CONTENTS) == {name for name, body in stages if "USER 1000:1000" in body}
    assert set(SYSTEM) < set(CONTENTS)
    for contents in CONTENTS.values():
        if contents.program:
            assert (ROOT / "tests" / "images" / "inside" / contents.program).exists()


def test_an_image_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trainer-gpu", "trainer-gpus"]) == 2
    assert "trainer-gpus: no such image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pin", "shown"),
    [
        ("torch_xla[tpu]==2.9.0", "torch-xla==2.9"),
        ("cuda-toolkit==13.0.3.0", "cuda-toolkit==13.0.3"),
        ("Ruamel.YAML==1.2", "ruamel-yaml==1.2"),
    ],
)
def test_pins_are_compared_as_the_index_names_them(pin: str, shown: str) -> None:
    assert canonical(pin) == shown
