"""What one NVIDIA GPU does with ddpm, beside diffusers' network of the same shape: speed, memory, agreement.

    python benchmarks/gpu.py [--part eager,loop] [--out results/gpu.json]

Parts: eager, loop, sampling, codec, ode, memory want five minutes together, compiled five or more of its own. Each
row is written to results/gpu.json as soon as it is measured; other parts stay there as they were. The tables are
printed from that file. `--device cpu --tiny` runs the same lines on a CPU, whose figures say nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from on_device import Bench
from record import RESULTS, merge_result

PARTS = {  # module, function that measures, function that prints
    "eager": ("gpu_network", "eager", "printed"),
    "loop": ("gpu_product", "loop", "printed_loop"),
    "sampling": ("gpu_product", "sampling", "printed_sampling"),
    "codec": ("gpu_codec", "codec", "printed"),
    "ode": ("gpu_ode", "ode", "printed"),
    "memory": ("gpu_memory", "memory", "printed"),
    "compiled": ("gpu_network", "compiled", "printed"),
}


def measure(bench: Bench, names: list[str], out: Path) -> list[str]:
    """Measure parts and write each; returns those that failed, whose traceback is printed."""
    failed = []
    for name in names:
        module, function, _ = PARTS[name]
        print(f"---- {name}", flush=True)
        start = time.perf_counter()
        try:
            for figures in getattr(importlib.import_module(module), function)(bench):
                seconds = round(time.perf_counter() - start, 1)
                merge_result(out, {name: {"seconds": seconds, **figures}}, seed=0)
        except Exception:  # a part that fails does not take the others with it: GPU time is dear
            traceback.print_exc()
            failed.append(name)
        finally:
            bench.forget()
        print(f"{name} took {time.perf_counter() - start:.0f} s", flush=True)
    return failed


def tables(found: dict[str, Any]) -> str:
    """All parts of a file as Markdown."""
    texts = []
    for name, (module, _, function) in PARTS.items():
        if name in found:  # others may have been measured before
            machine = found[name]["origin"]["machine"]
            where = f"{machine.get('gpu', machine['processor'])}, PyTorch {machine['torch']}"
            texts.append(f"## {name} ({where})\n\n{getattr(importlib.import_module(module), function)(found[name])}")
    return "\n\n".join(texts)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--part", action="append", help=f"{', '.join(PARTS)}; repeatable, or with commas [all]")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, whose figures say nothing")
    options = parser.parse_args()
    names = [name for part in options.part or PARTS for name in part.split(",")]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"there is no part '{unknown[0]}': choose from {', '.join(PARTS)}.")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no NVIDIA GPU here that PyTorch can use, and nothing was measured.")
    if options.device == "cpu" and options.tiny and options.out == RESULTS / "gpu.json":
        parser.error("figures of --tiny say nothing: name another file with --out.")
    failed = measure(Bench(torch.device(options.device), options.tiny), names, options.out)
    if options.out.exists():
        print(f"\n{tables(json.loads(options.out.read_text(encoding='utf-8')))}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
