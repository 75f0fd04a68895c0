"""The parts of the U-Net and its options: check 21 of the paper sheet, sentence by sentence."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.base.noise import stream_keys
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.objectives import simple_loss
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.networks.blocks import (
    MOST_TIMES,
    Attention,
    Downsample,
    ResidualBlock,
    Upsample,
    by_channels,
    embedded,
    norm,
    time_embedding,
)
from ddpm.networks.unet import UNet

Module = TypeVar("Module", bound=nn.Module)

TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "groups": 4}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def redrawn(module: Module) -> Module:
    """In float64 and evaluation mode, every tensor drawn anew so that nothing is near zero."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.double().parameters()):
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(spread * normal(*parameter.shape, seed=seed))
    return module.eval()


def tiny(in_channels: int = 2, out_channels: int = 2, **options) -> UNet:
    return redrawn(UNet(in_channels, out_channels, **(TINY | options)))


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_downsampling_with_a_centre_delta_picks_the_odd_pixels():
    """Zeros below and to the right: in[2i + 1, 2j + 1]; symmetric zeros would give in[2i, 2j]."""
    layer = Downsample(1).double()
    with torch.no_grad():
        layer.conv.bias.zero_()
        layer.conv.weight.zero_()[0, 0, 1, 1] = 1
    x = normal(1, 1, 6, 10)
    assert torch.equal(layer(x), x[:, :, 1::2, 1::2])


def test_downsampling_pads_with_zeros_below_and_to_the_right_only():
    layer = Downsample(1).double()
    with torch.no_grad():
        layer.conv.bias.zero_()
        layer.conv.weight.fill_(1)
    sums = layer(torch.ones(1, 1, 4, 4, dtype=torch.float64))[0, 0]
    assert sums.tolist() == [[9, 6], [6, 4]]


def test_upsampling_repeats_every_pixel_twice_each_way():
    layer = Upsample(1).double()
    with torch.no_grad():
        layer.conv.bias.zero_()
        layer.conv.weight.zero_()[0, 0, 1, 1] = 1
    x = normal(1, 1, 3, 5)
    assert torch.equal(layer(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_normalisation_has_epsilon_1e_minus_6_and_gains_that_start_at_one():
    """A group of variance 1e-6 comes out with standard deviation 1 / sqrt(2) = 0.7071 (1e-5 would give 0.3015)."""
    layer = norm(8, 4)
    pair = torch.tensor([1e-3, -1e-3]).repeat(8).reshape(1, 8, 1, 2)
    assert layer(pair).std(unbiased=False).item() == pytest.approx(0.70711, abs=1e-4)


def test_normalisation_groups_neighbouring_channels():
    layer = norm(4, 2).double()
    x = normal(1, 4, 3, 3)
    out = layer(x)
    assert out[:, :2].mean().abs() < 1e-12
    assert out[:, 2:].mean().abs() < 1e-12
    assert torch.equal(layer(torch.cat([x[:, :2], 7 * x[:, 2:]], 1))[:, :2], out[:, :2])


@pytest.mark.parametrize(
    ("entry", "value"),
    [(0, -0.0264607527), (1, 0.7267088256), (63, 0.0997339157), (64, 0.9996498530), (127, 0.9950141436)],
)
def test_the_embedding_of_time_999_has_the_published_entries(entry: int, value: float):
    found = time_embedding(torch.tensor([999]), 128)
    assert found.dtype == torch.float64
    assert found[0, entry].item() == pytest.approx(value, abs=5e-11)


@pytest.mark.parametrize("width", [2, 7, 16, 128])
def test_embeddings_are_sines_then_cosines_with_frequencies_from_one_to_1e_minus_4(width: int):
    times, half = [0, 1, 321, 999], width // 2
    found = time_embedding(torch.tensor(times), width)
    assert found.shape == (4, width)
    for row, time in zip(found.tolist(), times, strict=True):
        angles = [time * 10_000 ** (-k / (half - 1) if half > 1 else 0.0) for k in range(half)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0.0] * (width % 2)
        assert row == pytest.approx(expected, abs=1e-12)


def test_embeddings_of_whole_and_real_times_agree():
    whole = torch.tensor([0, 5, 999])
    assert torch.equal(time_embedding(whole, 16), time_embedding(whole.double(), 16))


@pytest.mark.parametrize("width", [7, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_are_rounded_once_from_float64(width: int, dtype: torch.dtype):
    """Those read from the table of whole times, and those computed for real ones."""
    whole, like = torch.tensor([0, 1, 2, 321, 999, MOST_TIMES - 1]), torch.zeros(1, dtype=dtype)
    for times in (whole, whole.double(), whole + 0.25):
        assert torch.equal(embedded(times, width, like), time_embedding(times, width).to(dtype))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("compiling", [False, True])
def test_normalisation_by_channels_is_group_normalisation(
    dtype: torch.dtype, tolerance: float, layout, compiling: bool, monkeypatch
):
    """Also where means are large beside deviations; its sums and its affine part are in float32 or better."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    layer = redrawn(norm(12, 4)).float()
    x = (normal(3, 12, 5, 7) + torch.arange(12)[:, None, None] / 2).to(dtype).contiguous(memory_format=layout)
    plain = F.group_norm(x.double(), 4, layer.weight.double(), layer.bias.double(), layer.eps)
    found = by_channels(x, layer.to(torch.promote_types(dtype, torch.float32)))
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.is_contiguous(memory_format=layout)
    assert (found - plain).abs().max() < tolerance


def test_attention_without_questions_adds_the_projected_mean_of_the_values():
    """Zero queries make all weights equal: x + out(mean over places of value(norm(x)))."""
    block, x = redrawn(Attention(8, groups=4)), normal(2, 8, 3, 5)
    with torch.no_grad():
        block.query.weight.zero_()
        block.query.bias.zero_()
        mean = block.value(block.norm(x)).mean((2, 3), keepdim=True)
        assert (block(x) - (x + block.out(mean))).abs().max() < 1e-12


def test_dropout_sits_between_the_second_activation_and_the_last_convolution():
    """With conv2 a centre delta the branch is what dropout leaves: each value 0 or 1 / (1 - p) times silu(norm2(.)).

    40 % of 15,360 values are dropped, within four standard deviations.
    """
    block = redrawn(ResidualBlock(8, 8, embedding=4, groups=4, dropout=0.4))
    with torch.no_grad():
        block.conv2.bias.zero_()
        block.conv2.weight.copy_(torch.eye(8, dtype=torch.float64)[:, :, None, None] * F.pad(torch.ones(1, 1), [1] * 4))
        x, embedding = normal(4, 8, 16, 30), normal(4, 4)
        whole = block(x, embedding) - x
        left = block(x, embedding, torch.arange(4)) - x
    dropped = left.abs() < 1e-14
    assert (left - whole / (1 - round(0.4 * 2**16) / 2**16))[~dropped].abs().max() < 1e-12
    assert dropped.double().mean().item() == pytest.approx(0.4, abs=4 * (0.24 / dropped.numel()) ** 0.5)


# ---- the start ------------------------------------------------------------------------------------------------------


def test_the_network_starts_as_almost_zero_so_that_the_loss_is_one():
    """|output| < 1e-4 and, over 64 x 768 values of unit noise, 1.00 within three standard errors (and 0.02)."""
    network = UNet(3, 3, channels=32, multipliers=(1, 2), blocks=2, attention_levels=(1,))
    x, t, noise = (
        normal(64, 3, 16, 16).float().clamp(-1, 1),
        torch.arange(1, 1000, 16)[:64],
        normal(64, 3, 16, 16, seed=1),
    )
    t = torch.cat([t, torch.full((64 - len(t),), 1000)])
    with torch.no_grad():
        assert network(x, t - 1).abs().max() < 1e-4
        loss = simple_loss(Denoiser(network, Process(make_schedule())), x, t, noise=noise.float()).mean()
    assert loss.item() == pytest.approx(1, abs=min(0.02, 3 * (2 / noise.numel()) ** 0.5))


def test_initial_weights_are_glorot_uniform_and_last_layers_1e5_times_smaller():
    """A uniform's largest of n draws is the limit within a few / n; its standard deviation is limit / sqrt(3)."""
    network = UNet(3, 3, channels=64, multipliers=(1, 2), blocks=1, attention_levels=(1,))
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_out, fan_in, area = layer.weight.shape[0], layer.weight.shape[1], layer.weight[0, 0].numel()
            limit = math.sqrt(6 / ((fan_in + fan_out) * area))
            if name == "conv_out" or name.endswith((".conv2", "attention.out")):
                limit *= 1e-5
            assert 0.99 * limit < layer.weight.abs().max() <= limit * (1 + 1e-6), name
            assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05), name
            assert not layer.bias.any(), name
        elif isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


def test_initial_weights_are_a_function_of_the_seed_alone():
    """Whatever PyTorch's global generator holds at the time."""
    weights = []
    for seed in (4, 4, 5):
        torch.manual_seed(len(weights))
        weights.append(UNet(1, 1, seed=seed, classes=3, **TINY).state_dict())
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])
    assert not torch.equal(first["label.weight"], other["label.weight"])


# ---- inputs and modes -----------------------------------------------------------------------------------------------


def test_the_output_depends_on_time_only_through_the_embedding():
    network, x = tiny(), normal(2, 2, 8, 8)
    with torch.no_grad():
        assert (network(x, torch.tensor([3, 3])) - network(x, torch.tensor([3, 700])))[1].abs().max() > 1e-3
        network.time2.weight.zero_()
        assert torch.equal(network(x, torch.tensor([3, 3])), network(x, torch.tensor([3, 700])))


def test_dropout_is_a_function_of_each_images_stream_and_the_layer():
    """In any batch and mode; without streams there is none."""
    network, x, t = tiny(dropout=0.3), normal(3, 2, 8, 8), torch.tensor([5, 600, 999])
    drops = stream_keys("dropout", 0, torch.arange(3))
    with torch.no_grad():
        found = network.train()(x, t, drops=drops)
        alone = [network.eval()(x[k : k + 1], t[k : k + 1], drops=drops[k : k + 1]) for k in range(3)]
        assert (found - torch.cat(alone)).abs().max() < 1e-12
        assert ((network(x, t, drops=drops.flip(0)) - found).flatten(1).abs().amax(1) > 1e-3).tolist() == [
            True,
            False,
            True,
        ]
        assert torch.equal(network.train()(x, t), tiny()(x, t))
        network.middle_block.layer += 100
        assert (network(x, t, drops=drops) - found).abs().max() > 1e-3
    layers = [block.layer for block in network.modules() if isinstance(block, ResidualBlock)]
    assert len(set(layers)) == len(layers) == 8


def test_images_of_a_batch_do_not_touch_each_other():
    network, x, t = tiny(), normal(3, 2, 8, 12), torch.tensor([5, 600, 999])
    with torch.no_grad():
        alone = torch.cat([network(x[k : k + 1], t[k : k + 1]) for k in range(3)])
        assert (network(x, t) - alone).abs().max() < 1e-12


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (2, 6), (12, 4), (10, 26)])
def test_any_channel_count_and_any_size_that_halves_goes_in_and_comes_out(channels: int, height: int, width: int):
    network = tiny(channels, channels)
    with torch.no_grad():
        out = network(normal(2, channels, height, width), torch.tensor([1, 2]))
    assert out.shape == (2, channels, height, width)
    assert out.isfinite().all()


def test_class_labels_change_the_output_and_learn():
    network, x, t = tiny(classes=4), normal(3, 2, 8, 8), torch.tensor([7, 7, 7])
    out = network(x[:1].repeat(3, 1, 1, 1), t, torch.tensor([0, 1, 0]))
    assert (out[0] - out[1]).abs().max() > 1e-3
    assert (out[0] - out[2]).abs().max() < 1e-12
    out.square().sum().backward()
    learns = network.label.weight.grad.abs().amax(1) > 0
    assert learns.tolist() == [True, True, False, False]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_weight_learns_under_every_prediction(prediction: str):
    network = tiny(classes=2, space_to_depth=2)
    denoiser = Denoiser(network, Process(make_schedule()), prediction, dtype=torch.float64)
    t, labels = torch.tensor([5, 900]), torch.tensor([0, 1])
    loss = simple_loss(denoiser, normal(2, 2, 8, 8), t, noise=normal(2, 2, 8, 8, seed=1), labels=labels).mean()
    loss.backward()
    silent = {"key.bias"}  # a constant added to all keys cancels in the softmax
    for name, parameter in network.named_parameters():
        assert name.endswith(tuple(silent)) or parameter.grad.abs().max() > 0, name


# ---- space to depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 4])
def test_space_to_depth_is_the_official_block_size_up_to_the_order_of_channels(side: int):
    """The official code folds pixel (dy, dx) of channel c into channel (dy * side + dx) * C + c, and unfolds so too.

    The same inner network with its first and last layers' channels taken in that order must give the same images.
    """
    channels, x, t = 3, normal(2, 3, 8 * side // 2, 16), torch.tensor([3, 800])
    network, inner = tiny(3, 3, space_to_depth=side), tiny(3 * side**2, 3 * side**2)
    n, _, height, width = x.shape
    blocks = x.reshape(n, channels, height // side, side, width // side, side)
    folded = blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, height // side, width // side)
    order = [c * side**2 + dy * side + dx for dy in range(side) for dx in range(side) for c in range(channels)]
    weights = dict(network.state_dict())
    weights["conv_in.weight"] = weights["conv_in.weight"][:, order]
    weights["conv_out.weight"], weights["conv_out.bias"] = (weights[f"conv_out.{k}"][order] for k in ("weight", "bias"))
    inner.load_state_dict(weights)
    with torch.no_grad():
        found, out = network(x, t), inner(folded, t)
    unfolded = out.reshape(n, side, side, channels, height // side, width // side).permute(0, 3, 4, 1, 5, 2)
    assert (found - unfolded.reshape(x.shape)).abs().max() < 1e-12
