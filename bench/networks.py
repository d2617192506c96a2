"""Seconds and memory of a training step: the paper's U-Mamba and the demo's, here, and what 500 epochs would cost.

No goal: figures only. ``--device cuda`` where there is one (mixed precision there, f32 on a CPU); ``--steps N``,
``--batch N``, ``--only NAME``. Each network is trained in a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

EPOCHS, ITERATIONS = 500, 250
"""Of the paper, and of an nnU-Net epoch."""


@dataclass(frozen=True, slots=True)
class Case:
    batch: int
    half: bool = False


CASES = {"demo": Case(1), "demo bf16": Case(1, half=True), "paper nnU-Net": Case(2), "paper U-Mamba": Case(2)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench networks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, help="in place of the paper's 2, where memory does not reach")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--child", choices=CASES)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measure(options)))
        return 0
    print(f"{options.device}, {options.threads} threads; best of {options.steps} steps")
    for name in [options.only] if options.only else CASES:
        words = ["--child", name, "--device", options.device, "--steps", str(options.steps)]
        words += ["--batch", str(options.batch)] if options.batch else []
        command = [sys.executable, "-m", "bench.networks", *words, "--threads", str(options.threads)]
        child = subprocess.run(command, capture_output=True, text=True)
        if child.returncode:
            # One network that does not fit leaves the others their figures.
            print(f"{name:>14}: ended with {child.returncode}: {child.stderr.strip().splitlines()[-1:]}")
            continue
        found = json.loads(child.stdout.strip().splitlines()[-1])
        line = (
            f"{name:>14}: {found['parameters'] / 1e6:6.2f} M parameters, patch {found['patch']} x {found['batch']}: "
            f"{found['seconds']:8.2f} s a step ({found['cpu_seconds']:.2f} s of processor), "
            f"peak {found['peak_bytes'] / 2**30:5.2f} GiB"
        )
        if name.startswith("paper"):
            # As if a larger batch took as much longer.
            days = found["seconds"] * CASES[name].batch / found["batch"] * EPOCHS * ITERATIONS / 86400
            line += f"; {EPOCHS} epochs of {ITERATIONS} x {CASES[name].batch}: {days:,.1f} days"
        print(line, flush=True)
    return 0


def _measure(options: argparse.Namespace) -> dict[str, object]:
    import torch
    from torch.nn import functional

    from engines.networks.layers import parameter_count
    from engines.networks.umamba import DEMO, PAPER, PAPER_NNUNET, UMamba, deep_supervision_weights

    name, device = options.child, options.device
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    half = CASES[name].half
    batch = options.batch or CASES[name].batch
    config = DEMO if name.startswith("demo") else PAPER_NNUNET if "nnU" in name else PAPER
    network = UMamba(config).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.99, nesterov=True, weight_decay=3e-5)
    hu = torch.randn(batch, 1, *config.patch_zyx, device=device) * 30 + 40
    truth = (torch.rand(batch, config.outputs, *config.patch_zyx, device=device) > 0.9).float()
    on_gpu = device.startswith("cuda")
    scaler = torch.amp.GradScaler("cuda", enabled=on_gpu)
    dtype = torch.float16 if on_gpu else torch.bfloat16

    def step() -> None:
        with torch.autocast(device.split(":")[0], dtype, enabled=half or on_gpu):
            logits = network.all_logits(hu) if config.deep_supervision else [network(hu)]
        loss = torch.zeros((), device=device)
        for part, weight in zip(logits, deep_supervision_weights(len(logits)), strict=True):
            target = functional.adaptive_max_pool3d(truth, part.shape[2:])
            probability = torch.sigmoid(part.float())
            overlap = (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)
            entropy = functional.binary_cross_entropy_with_logits(part.float(), target)
            loss = loss + weight * (entropy + 1 - overlap)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if on_gpu:
            torch.cuda.synchronize()

    seconds, processor = [], []
    for _ in range(options.steps):
        began, cpu = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - cpu)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "parameters": parameter_count(network),
        "patch": " x ".join(map(str, config.patch_zyx)),
        "batch": batch,
        "seconds": min(seconds),
        "cpu_seconds": min(processor),
        "peak_bytes": peak,
    }


if __name__ == "__main__":
    sys.exit(main())
