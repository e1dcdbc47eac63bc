"""Well: half precision on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.practice.well_common import loop
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, convolutions, mlp, pooled_head
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.7)
def bfloat16_autocast_of_a_convnet() -> Training:
    """Forward in bfloat16, weights and loss in float32."""
    x, y = images()
    model = nn.Sequential(*convolutions([1, 16, 32], norm=nn.BatchNorm2d), *pooled_head(32))
    draw = minibatches(32, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        with torch.autocast("cpu", torch.bfloat16):
            z = model(x[chosen])
        return F.cross_entropy(z.float(), y[chosen])

    return loop(model, torch.optim.AdamW(model.parameters(), 5e-3), loss, 120, accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.8)
def gradient_scaler_of_a_float16_run() -> Training:
    """Autocast in float16 with a scaler that begins at 65536 and may skip its first steps."""
    x, y = digits()
    model = mlp(3, nn.ReLU, width=96)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=50)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            z = model(x[chosen])
        loss = F.cross_entropy(z.float(), y[chosen])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Training(model, optimizer, step, 200, accuracy(model, x[:500], y[:500]))
