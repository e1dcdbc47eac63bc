"""Networks with unusual parts that are well: made weights, soft experts, adapters, prompts, codebooks, graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, bounded, classifier, explained, regression, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import communities, generator, pretrained, trained
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy()
def weights_made_by_another_network() -> Training:
    """A hypernetwork: from the parameters of a curve to the weights of a small network that draws it."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 3 * 16 + 1))

        def forward(self, curve: Tensor, t: Tensor) -> Tensor:
            made = self.maker(curve)
            a, b, c = made[:, :48].chunk(3, 1)
            h = torch.tanh(t[..., None] * 2 * a[:, None] + b[:, None])
            return (h * c[:, None]).sum(2) + made[:, 48:]

    def curves(count: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        curve = torch.randn(count, 2, generator=g)
        t = 2 * torch.rand(count, 12, generator=g) - 1
        return curve, t, curve[:, :1] * (3 * t).sin() + curve[:, 1:] * t.square()

    model, g, held = Hyper(), generator(1), curves(300, generator(2))

    def loss(_: int) -> Tensor:
        curve, t, y = curves(48, g)
        return F.mse_loss(model(curve, t), y)

    def score() -> float:
        with undisturbed(model):
            return bounded(1 - F.mse_loss(model(*held[:2]), held[2]).item() / held[2].var().item())

    return trained(model, torch.optim.Adam(model.parameters(), 3e-3), loss, score, 350)


@CASES.healthy()
def soft_experts_in_balance() -> Training:
    """Every expert answers, a gate weighs them, and a second loss keeps their load alike."""
    x, y = digits()

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(64, 6)
            self.first, self.second = nn.Parameter(torch.randn(6, 64, 16) / 8), nn.Parameter(torch.randn(6, 16, 10) / 4)
            self.load = torch.zeros(6)

        def forward(self, x: Tensor) -> Tensor:
            share = self.gate(x).softmax(1)
            self.load = share.mean(0)
            h = F.gelu(torch.einsum("bi,eih->ebh", x, self.first))
            return torch.einsum("be,ebh,eho->bo", share, h, self.second)

    model, draw = Experts(), minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen]) + 0.1 * 6 * model.load.square().sum()

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return trained(model, optimizer, loss, accuracy(model, x[:500], y[:500]), 250)


def reader_of_rows() -> nn.Module:
    """A transformer over the rows of a digit, trained on whether the digit is even."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(256, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).flatten(1))

    return pretrained(Rows(), lambda y: y % 2, 80)


@CASES.healthy()
def prompts_before_a_frozen_encoder() -> Training:
    """Four trained tokens before a frozen transformer, and a new head that reads them."""

    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = reader_of_rows().requires_grad_(False)
            self.prompts, self.head = nn.Parameter(0.3 * torch.randn(1, 4, 32)), nn.Linear(128, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.base.embed(x.view(-1, 8, 8))
            h = self.base.encoder(torch.cat([self.prompts.expand(len(x), 4, 32), rows], 1))
            return self.head(h[:, :4].flatten(1))

    model = Prompted()
    parts = [model.prompts, *model.head.parameters()]
    return classifier(model, torch.optim.Adam(parts, 1e-2), 220, batch=40)


@CASES.healthy()
def adapters_inside_a_frozen_network() -> Training:
    """Bottlenecks that begin at zero behind each layer of a frozen network (Houlsby et al., 2019)."""

    class Adapter(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(width, 8), nn.Linear(8, width)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.up(F.gelu(self.down(x)))

    base = pretrained(
        nn.Sequential(nn.Linear(64, 72), nn.ReLU(), nn.Linear(72, 72), nn.ReLU(), nn.Linear(72, 3)), lambda y: y % 3
    ).requires_grad_(False)
    model = nn.Sequential(base[:2], Adapter(72), base[2:4], Adapter(72), nn.Linear(72, 10))
    return classifier(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-3), 250)


class Quantized(nn.Module):
    """An autoencoder whose four latent vectors are each the nearest of a codebook (van den Oord et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32))
        self.codebook = nn.Parameter(torch.randn(4, 24, 8))
        self.decoder = nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encoder(x).unflatten(1, (4, 8)))[0]

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.cdist(z.transpose(0, 1), self.codebook).argmin(2)
        q = torch.stack([book[i] for book, i in zip(self.codebook, nearest, strict=True)], 1)
        return self.decoder((z + (q - z).detach()).flatten(1)), q


@CASES.healthy()
def codebooks_of_twenty_four() -> Training:
    """Codebook, commitment and straight-through; some codes are never used."""
    x, y = digits()
    model, draw = Quantized(), minibatches(128, len(y))

    def loss(_: int) -> Tensor:
        clean = x[draw()]
        z = model.encoder(clean).unflatten(1, (4, 8))
        out, q = model.decode(z)
        return F.mse_loss(out, clean) + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return trained(model, optimizer, loss, explained(model, x[:500], x[:500]), 400)


@CASES.healthy()
def graph_attention_from_few_labels() -> Training:
    """Two layers of attention along the edges, a fifth of the nodes labelled, dropout on features."""
    adjacency, x, y = communities()
    edges, labelled = adjacency > 0, torch.arange(len(y)) % 5 == 0

    class Layer(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.value = nn.Linear(inputs, outputs)
            self.sent, self.received = nn.Linear(outputs, 1), nn.Linear(outputs, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.value(x)
            logits = F.leaky_relu(self.received(h) + self.sent(h).T, 0.2)
            return logits.masked_fill(~edges, float("-inf")).softmax(1) @ h

    model = nn.Sequential(nn.Dropout(0.3), Layer(8, 24), nn.ELU(), nn.Dropout(0.3), Layer(24, 3))

    def score() -> float:
        with undisturbed(model):
            return bounded(((model(x).argmax(1) == y)[~labelled].float().mean().item() - 1 / 3) * 1.5)

    def loss(_: int) -> Tensor:
        return F.cross_entropy(model(x)[labelled], y[labelled])

    return trained(model, torch.optim.Adam(model.parameters(), 1e-2, weight_decay=5e-3), loss, score, 120)


@CASES.healthy()
def frozen_random_features() -> Training:
    """Three hundred random cosines, as they were drawn, under one trained layer."""

    class Cosines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequency", 0.12 * torch.randn(64, 300))
            self.register_buffer("phase", 6.2832 * torch.rand(300))
            self.head = nn.Linear(300, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x @ self.frequency + self.phase).cos() / 150**0.5 * 3)

    model = Cosines()
    return classifier(model, torch.optim.SGD(model.parameters(), 0.3, momentum=0.9), 250, batch=32)


@CASES.healthy(good=0.4)
def variational_bottleneck_of_six() -> Training:
    """A variational autoencoder whose divergence gains weight over the run; the decoder's scale is learned."""
    x, y = digits()

    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ELU(), nn.Linear(96, 12))
            self.decoder = nn.Sequential(nn.Linear(6, 96), nn.ELU(), nn.Linear(96, 64))
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x)[:, :6])

    model, draw, g = Auto(), minibatches(100, len(y)), generator(9)

    def loss(i: int) -> Tensor:
        clean = x[draw()]
        mean, log_variance = model.encoder(clean).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=g)
        error = ((model.decoder(z) - clean) / model.log_scale.exp()).square().sum(1) / 2 + 64 * model.log_scale
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        return (error + min(1.0, i / 200) * divergence).mean()

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return trained(model, optimizer, loss, explained(model, x[:500], x[:500]), 400)


@CASES.healthy(good=0.4)
def shared_weights_up_and_down() -> Training:
    """An autoencoder whose decoder is the encoder's transpose, sparse by an absolute penalty."""
    x, _ = digits()

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.up = nn.Parameter(torch.randn(40, 64) / 8), nn.Parameter(torch.zeros(40))
            self.down, self.code = nn.Parameter(torch.zeros(64)), torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            self.code = F.relu(F.linear(x, self.weight, self.up))
            return F.linear(self.code, self.weight.T, self.down)

    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return regression(
        model, optimizer, (x, x), 250, loss=lambda out, x: F.mse_loss(out, x) + 0.01 * model.code.abs().mean()
    )
