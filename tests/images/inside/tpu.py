"""In trainer-tpu, without a TPU: a few steps of training on XLA's CPU device."""

import os

os.environ["PJRT_DEVICE"] = "CPU"

import torch

from trainer.devices import device_for

device = device_for("xla")
device.prepare()
layer = torch.nn.Linear(4, 1, bias=False)
device.move(layer)
batch = device.place({"x": torch.eye(4).numpy()})["x"]
losses = []
for _ in range(5):
    loss = (layer(batch) - 1).square().mean()
    loss.backward()
    with torch.no_grad():
        for weight in layer.parameters():
            weight -= weight.grad
            weight.grad = None
    losses.append(float(device.fetch([loss])[0]))
assert losses == sorted(losses, reverse=True), losses
assert losses[-1] < losses[0] / 2, losses
os._exit(0)  # torch_xla's threads end badly
