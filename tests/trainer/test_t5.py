"""Our T5 is transformers' T5: same weights, same logits, same gradients; untied; T5's initial values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer.families.t5 import initial
from trainer.models import build, initialise
from trainer.models.cross_entropy import cross_entropy
from trainer.shapes import shape_for

MODEL = {"d_model": 48, "heads": 4, "d_ff": 100, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 384}


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"inputs": torch.randint(3, 384, (3, 150)), "targets": torch.randint(3, 384, (3, 31))}


def test_loss_and_gradients_are_the_librarys(batch: dict[str, torch.Tensor]) -> None:
    dims = shape_for("t5", 12 * 48**2 * 4, MODEL).dims
    network = build("t5", dims, 1, z_loss=0.0)
    ours = network.loss(batch)
    parameters = list(network.module.parameters())
    found = torch.autograd.grad(ours.train, parameters)
    theirs = network.module(input_ids=batch["inputs"], labels=batch["targets"])
    expected = torch.autograd.grad(theirs.loss, parameters)
    assert float(ours.train.detach()) == pytest.approx(float(theirs.loss.detach()), abs=1e-5)
    for mine, other, (name, _) in zip(found, expected, network.module.named_parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6, msg=name)


def test_logits_are_untied() -> None:
    module = build("t5", shape_for("t5", 12 * 48**2 * 4, MODEL).dims, 1, z_loss=0.0).module
    assert module.lm_head.weight is not module.shared.weight  # type: ignore[union-attr]
    assert "lm_head.weight" in dict(module.named_parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_with_z_and_its_gradient(smoothing: float) -> None:
    torch.manual_seed(1)
    logits = torch.randn(5, 7, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (5, 7))
    train, plain = cross_entropy(logits, targets, 0.01, smoothing)
    assert torch.allclose(plain, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    reference = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)
    with_z = reference + 0.01 * (logits.logsumexp(-1) ** 2).mean()
    assert torch.allclose(train, with_z)
    assert torch.allclose(*(torch.autograd.grad(loss, logits)[0] for loss in (train, with_z)))
    assert not plain.requires_grad


def test_initial_values_follow_the_rule_and_the_librarys_own() -> None:
    model = {**MODEL, "d_model": 128, "d_ff": 512, "encoder_layers": 1, "decoder_layers": 1}
    dims = shape_for("t5", 12 * 128**2 * 2, model).dims
    module = build("t5", dims, 3, z_loss=0.0).module
    torch.manual_seed(0)
    library = type(module)(module.config)  # type: ignore[operator, call-arg]
    for name, parameter in module.named_parameters():
        deviation = initial(name, dims).deviation
        if not deviation:
            assert torch.equal(parameter, torch.ones_like(parameter))
            continue
        # Three standard errors of a sample deviation and of a sample mean.
        close = 3 * deviation / (2 * parameter.numel()) ** 0.5
        assert float(parameter.detach().std()) == pytest.approx(deviation, abs=1.5 * close), name
        assert float(parameter.detach().mean()) == pytest.approx(0, abs=2.5 * close), name
        if name != "lm_head.weight":  # ties it, see trainer/models/t5.py
            theirs = library.get_parameter(name).detach().std()
            assert float(theirs) == pytest.approx(deviation, abs=2 * close), name
    assert initial("lm_head.weight", dims).deviation == pytest.approx(128**-0.5)


def test_initial_values_depend_on_seed_and_name_only() -> None:
    dims = shape_for("t5", 12 * 48**2 * 4, MODEL).dims
    one, two, other = (build("t5", dims, seed, z_loss=0.0).module for seed in (5, 5, 6))
    for (name, a), (_, b), (_, c) in zip(
        one.named_parameters(), two.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert "norm" in name or not torch.equal(a, c)
    before = one.get_parameter("shared.weight").clone()
    torch.manual_seed(99)
    initialise(one, "t5", dims, 5)
    assert torch.equal(before, one.get_parameter("shared.weight"))
