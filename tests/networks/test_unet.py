"""The paper's U-Net as a whole: its size, its wiring against a second writing of it, its start, its options."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm.networks.unet import UNet

CIFAR = {"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention_levels": (1,), "dropout": 0.1}
LSUN = {"channels": 128, "multipliers": (1, 1, 2, 2, 4, 4), "blocks": 2, "attention_levels": (4,)}
TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "groups": 4}


def on_paper(*channels: int, **options) -> UNet:
    """A network of shapes without numbers."""
    with torch.device("meta"):
        return UNet(*channels, **options)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(in_channels: int = 2, out_channels: int = 2, **options) -> UNet:
    """In float64, every tensor redrawn so that nothing is near zero."""
    network = UNet(in_channels, out_channels, **(TINY | options)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread
            parameter.copy_(drawn + (1 if parameter.ndim == 1 else 0))
    return network.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "options", "parameters"),
    [
        ((3, 3), CIFAR, 35_746_307),
        ((3, 6), CIFAR, 35_749_766),
        ((1, 1), CIFAR, 35_741_697),
        ((3, 3), LSUN, 113_673_219),
        ((3, 3), LSUN | {"channels": 192}, 255_677_955),
        ((3, 3), LSUN | {"channels": 160}, 177_578_243),
        ((3, 3), LSUN | {"channels": 224}, 347_972_355),
    ],
)
def test_the_papers_networks_have_the_published_number_of_parameters(channels, options, parameters: int):
    assert size(on_paper(*channels, **options)) == parameters


def test_the_cifar10_network_has_the_tensors_and_the_blocks_of_the_official_one():
    """The table of the paper sheet, section 2, row by row, in the order of the forward pass."""
    net = on_paper(3, 3, **CIFAR)
    assert len(list(net.parameters())) == 328
    assert [size(part) for part in (net.time1, net.time2, net.conv_in)] == [66_048, 262_656, 3_584]
    wide, attention = 1_312_512, 263_680
    down = [[361_344, 0, 361_344, 0], [1_050_368, attention, wide, attention], [wide, 0, wide, 0], [wide, 0, wide, 0]]
    up = [[2_034_176, 0] * 3] * 2
    up += [[2_034_176, attention] * 2 + [1_706_240, attention], [706_048, 0, 541_952, 0, 541_952, 0]]
    for levels, expected in ((net.down, down), (net.up, up)):
        assert [
            [size(part) for stage in level for part in (stage.block, stage.attention)] for level in levels
        ] == expected
    assert [size(part) for part in net.downsample] == [147_584, 590_080, 590_080, 0]
    assert [size(part) for part in net.upsample] == [590_080, 590_080, 590_080, 0]
    middle = [net.middle.block, net.middle.attention, net.middle_block]
    assert [size(part) for part in middle] == [wide, attention, wide]
    assert [size(part) for part in (net.norm_out, net.conv_out)] == [256, 3_459]


def test_one_call_of_the_cifar10_network_takes_6_222_billion_multiply_adds():
    net = on_paper(3, 3, **CIFAR)
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 32, 32, device="meta"), torch.zeros(1, dtype=torch.int64))
    assert counter.get_total_flops() / 2 == pytest.approx(6.222e9, abs=0.0005e9)


# ---- wiring, written a second time ----------------------------------------------------------------------------------


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Contiguous groups, biased variance, epsilon 1e-6."""
    grouped = x.reshape(len(x), groups, -1)
    mean = grouped.mean(2, keepdim=True)
    variance = ((grouped - mean) ** 2).mean(2, keepdim=True)
    flat = ((grouped - mean) / torch.sqrt(variance + 1e-6)).reshape(x.shape)
    return flat * weight[:, None, None] + bias[:, None, None]


class ByHand:
    """The forward pass in one line of thought, from the paper sheet's section 2, reading weights by name."""

    def __init__(self, net: UNet, *, multipliers, blocks: int, attention_levels, groups: int, width: int) -> None:
        self.w = net.state_dict()
        self.levels, self.blocks, self.attended = len(multipliers), blocks, attention_levels
        self.groups, self.width = groups, width

    def named(self, name: str) -> tuple[Tensor, Tensor]:
        return self.w[f"{name}.weight"], self.w[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return group_norm(x, *self.named(name), self.groups)

    def swish_norm(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(name, x)
        return h / (1 + torch.exp(-h))

    def nin(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.named(name)
        return torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]

    def conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), *self.named(name))

    def residual(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", self.swish_norm(f"{name}.norm1", x))
        weight, bias = self.named(f"{name}.embedding")
        h = h + (self.activated_time @ weight.T + bias)[:, :, None, None]
        h = self.conv(f"{name}.conv2", self.swish_norm(f"{name}.norm2", h))
        return h + (self.nin(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in self.w else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.nin(f"{name}.{part}", h).flatten(2) for part in ("query", "key", "value"))
        scores = torch.einsum("bci,bcj->bij", q, k) * x.shape[1] ** -0.5
        weights = torch.exp(scores) / torch.exp(scores).sum(2, keepdim=True)
        return x + self.nin(f"{name}.out", torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))

    def stage(self, name: str, x: Tensor, attended: bool) -> Tensor:
        h = self.residual(f"{name}.block", x)
        assert (f"{name}.attention.norm.weight" in self.w) == attended
        return self.attention(f"{name}.attention", h) if attended else h

    def time(self, times: Tensor, labels: Tensor | None) -> Tensor:
        half = self.width // 2
        rows = [[t * math.exp(-k * math.log(10000) / (half - 1)) for k in range(half)] for t in times.tolist()]
        table = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in rows]
        h = torch.tensor(table, dtype=torch.float64) @ self.named("time1")[0].T + self.named("time1")[1]
        h = (h / (1 + torch.exp(-h))) @ self.named("time2")[0].T + self.named("time2")[1]
        h = h if labels is None else h + self.w["label.weight"][labels]
        return h / (1 + torch.exp(-h))

    def __call__(self, x: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        self.activated_time = self.time(times, labels)
        hs = [self.conv("conv_in", x)]
        for level in range(self.levels):
            for k in range(self.blocks):
                hs.append(self.stage(f"down.{level}.{k}", hs[-1], level in self.attended))
            if level < self.levels - 1:
                padded = F.pad(hs[-1], (0, 1, 0, 1))  # "SAME" of a stride of 2: below and to the right
                hs.append(F.conv2d(padded, *self.named(f"downsample.{level}.conv"), stride=2))
        h = self.residual("middle_block", self.stage("middle", hs[-1], True))
        for n, level in enumerate(reversed(range(self.levels))):
            for k in range(self.blocks + 1):
                h = self.stage(f"up.{n}.{k}", torch.cat([h, hs.pop()], 1), level in self.attended)
            if level:
                h = self.conv(f"upsample.{n}.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        assert not hs
        return self.conv("conv_out", self.swish_norm("norm_out", h))


@pytest.mark.parametrize(
    "shape",
    [
        {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "groups": 4},
        {"channels": 8, "multipliers": (1, 2, 3), "blocks": 2, "attention_levels": (0, 2), "groups": 8, "classes": 5},
        {"channels": 12, "multipliers": (2,), "blocks": 1, "attention_levels": (), "groups": 6},
        {"channels": 8, "multipliers": (1, 2, 1), "blocks": 3, "attention_levels": (1,), "groups": 2},
    ],
)
def test_a_second_writing_of_the_forward_pass_agrees(shape):
    """1e-12 of outputs of size 1 in float64. In up blocks of 8 + 16 channels in 4 groups a group straddles the seam
    between h and the skip, so that exchanging the two would show."""
    net, options = tiny(**shape), {key: value for key, value in shape.items() if key not in ("channels", "classes")}
    x, times = normal(3, 2, 12, 8), torch.tensor([0, 321, 999])
    labels = torch.tensor([4, 0, 2]) if shape.get("classes") else None
    with torch.no_grad():
        found, expected = net(x, times, labels), ByHand(net, width=shape["channels"], **options)(x, times, labels)
    assert 0.1 < expected.std() < 30
    assert (found - expected).abs().max() < 1e-12 * max(1, expected.abs().max())
