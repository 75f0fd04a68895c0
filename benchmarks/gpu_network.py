"""Parts `eager` and `compiled` of gpu.py: our network and diffusers' of the same shape, training and forward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

import torch
from gpu_memory import Peak
from gpu_memory import printed as printed_memory
from on_device import Arithmetic, Bench, Figures, arithmetic, forward, table, training_step, whole_step
from torch import nn

from ddpm.base.precision import PRECISIONS, computing
from ddpm.errors import InputError
from ddpm.model.model import build_network
from ddpm.networks.compiled import compile_network
from ddpm.training.compiling import compile_learner
from ddpm.training.learner import Learner
from ddpm.training.step_memory import peak_memory

OURS, WHOLE, THEIRS, BEST = "our network", "our whole step", "diffusers", "diffusers, channels-last, fused Adam"
COLUMNS = (OURS, WHOLE, THEIRS, BEST)
TRAINING, FORWARD = "training step", "forward"
LOW = PRECISIONS[-1]
Work = Callable[[], object]

try:
    from twins import Twin
except ImportError:
    print("diffusers is not installed here, and nothing is compared with it.", file=sys.stderr)
    Twin = None  # type: ignore[assignment, misc]


def eager(bench: Bench) -> Iterator[Figures]:
    """A training step and a network call, by batch and precision."""
    peak, recipe = bench.gemm_peak(), bench.recipe()
    cost, rows = arithmetic(recipe), []
    nets: dict[str, nn.Module] = {OURS: build_network(recipe).to(bench.device)}
    if Twin:
        nets |= {THEIRS: Twin(recipe).to(bench.device), BEST: _best(bench)}
    for what, sizes in ((TRAINING, bench.batches(128, 512)), (FORWARD, bench.batches(64, 512))):
        for batch in sizes:
            for precision in PRECISIONS:
                works = {
                    name: _work(bench, what, batch, precision, network, lean=name == BEST)
                    for name, network in nets.items()
                    if name != BEST or precision == LOW
                }
                if what == TRAINING:
                    works[WHOLE] = whole_step(_learner(bench, batch, precision))
                rows.append(_row(bench, what, batch, precision, works, cost, peak))
                del works
                bench.forget()
                yield {"gemm_tflops": peak / 1e12, "gflop": _gflop(cost), "rows": rows}


def compiled(bench: Bench) -> Iterator[Figures]:
    """The same by torch.compile in bfloat16, and how long each compilation takes."""
    peak, batch = bench.gemm_peak(), bench.batches(512)[0]
    cost, rows, said = arithmetic(bench.recipe()), [], []
    for what in (TRAINING, FORWARD):
        if what == TRAINING:
            with Peak(bench) as peak_bytes:
                learner = _learner(bench, batch, LOW)
                name, ours, sentence = WHOLE, whole_step(learner), compile_learner(learner)
                peak_bytes.of(learner)
        else:
            name, network = OURS, build_network(bench.recipe()).to(bench.device)
            ours = _work(bench, what, batch, LOW, network)
            sentence = compile_network(network, ours)
        said.append(f"{what}, {name}: {sentence}")
        works = {name: ours}
        if Twin:
            theirs: nn.Module = torch.compile(_best(bench))  # type: ignore[assignment]
            works[BEST] = _work(bench, what, batch, LOW, theirs, lean=True)
            said.append(f"{what}, {BEST}: the first call took {bench.seconds(works[BEST]):.0f} s.")
        print("\n".join(said[-len(works) :]), flush=True)
        rows.append(_row(bench, what, batch, LOW, works, cost, peak))
        del ours, works
        bench.forget()
        figures = {"gemm_tflops": peak / 1e12, "gflop": _gflop(cost), "rows": rows, "compilation": said}
        yield figures
    settings = {"batch_size": batch, "precision": LOW}
    estimate = peak_memory(bench.recipe(**settings), compiled=True)
    memory = {"recipe": "cifar10", **settings, "compiled": True, "estimate": estimate, **peak_bytes.against(estimate)}
    print(memory, flush=True)
    yield {**figures, "memory": memory}


def _best(bench: Bench) -> Twin:
    return Twin(bench.recipe()).to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _learner(bench: Bench, batch: int, precision: str) -> Learner:
    return Learner(bench.recipe(batch_size=batch, precision=precision), bench.device)


def _work(bench: Bench, what: str, batch: int, precision: str, network: nn.Module, *, lean: bool = False) -> Work:
    """A network alone, ours or theirs; with `lean`, what a careful user does: channels-last images and fused Adam."""
    layout = torch.channels_last if lean else torch.contiguous_format
    x = torch.randn(batch, *bench.recipe().geometry.shape, device=bench.device).to(memory_format=layout)
    t = torch.randint(0, 1000, (batch,), device=bench.device)
    if what == FORWARD:
        work: Work = forward(network.eval(), x, t)
    else:
        fused = True if lean and bench.device.type == "cuda" else None
        work = training_step(network.train(), torch.optim.Adam(network.parameters(), fused=fused), x, t)

    def within() -> None:
        with computing(precision, bench.device):
            work()

    return within


def _row(
    bench: Bench, what: str, batch: int, precision: str, works: Mapping[str, Work], cost: Arithmetic, peak: float
) -> Figures:
    """Images a second of each work, and their share of the peak; or why they have no room."""
    row: Figures = {"what": what, "batch": batch, "precision": precision}
    try:
        taken = bench.alternate(works)
    except (torch.OutOfMemoryError, InputError) as error:
        return row | {"problem": str(error).split("\n")[0]}
    flop = cost.training if what == TRAINING else cost.forward
    speeds = {name: batch / seconds for name, seconds in taken.items()}
    row["images_per_second"] = {name: round(speed, 1) for name, speed in speeds.items()}
    row["share_of_peak"] = {name: round(speed * flop / peak, 4) for name, speed in speeds.items()}
    print(row, flush=True)
    return row


def _gflop(cost: Arithmetic) -> dict[str, float]:
    return {"forward": round(cost.forward / 1e9, 2), "training": round(cost.training / 1e9, 2)}


def printed(figures: Figures) -> str:
    """Images a second, and the share of the GEMM peak."""
    lines = []
    for row in figures["rows"]:
        speeds = row.get("images_per_second", {})
        cells = [
            f"{speeds[name]:,.0f} ({row['share_of_peak'][name]:.0%})" if name in speeds else "" for name in COLUMNS
        ]
        lines.append([f"{row['what']}, batch {row['batch']}, {row['precision']}", *cells, row.get("problem", "")])
    gflop = figures["gflop"]
    notes = [
        f"bf16 GEMM peak {figures['gemm_tflops']:,.0f} TFLOP/s; {gflop['forward']} GFLOP a call, {gflop['training']} a "
        "trained image; in brackets the share of that peak.",
        *figures.get("compilation", ()),
    ]
    memory = [printed_memory({"rows": [figures["memory"]]})] if "memory" in figures else []
    return "\n\n".join([table(["images/s", *COLUMNS, ""], lines), *notes, *memory])
