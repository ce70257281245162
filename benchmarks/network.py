"""Forward evaluations of a shipped prior's network by every backend, in one run.

    python benchmarks/network.py [--rounds 7] [--prior brain-mri] [--threads 1 2] [--batch 1 4] [--no-compile] [--json]

Backends: torch with weights as they are stored (`contiguous`), with channels last as recon keeps them (`eager`), by
torch.compile with frozen weights (half a minute a size to start), ONNX Runtime, and OpenVINO where it is installed.
Rounds interleave the backends and a product of matrices; printed are medians over the rounds, their ratio to `eager`,
and GFLOP/s against the fastest product, the peak. Each number of threads runs in a process of its own. Run it on an
idle machine.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec

# as the command does, and before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from recon.priors.backends import missing_packages, with_backend
from recon.priors.base import Denoiser
from recon.priors.catalog import prior_path
from recon.priors.open import open_prior
from recon.priors.wrapper import network_of, with_network
from recon.runs.bench import SIZES, bench


class OpenVINONetwork(nn.Module):
    """F(x, c) by OpenVINO, from the graph that ONNX Runtime is given."""

    def __init__(self, network: nn.Module, inputs: tuple[Tensor, Tensor], threads: int) -> None:
        super().__init__()
        import openvino

        from recon.priors.onnx_network import exported

        core = openvino.Core()
        model = core.read_model(io.BytesIO(exported(network, inputs)))
        self.config = network.config
        # left to itself it takes bfloat16 where the processor has it, and differs by 5e-3
        hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = core.compile_model(model, "CPU", hints)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.from_numpy(self.compiled([x.contiguous().numpy(), c.numpy()])[0])


def build(prior: Denoiser, name: str, threads: int) -> Denoiser:
    """Return the prior with a backend of this benchmark."""
    network = network_of(prior)
    if name == "contiguous":
        plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return with_network(prior, plain)
    if name == "openvino":
        side = 4 * prior.info.multiple
        inputs = torch.randn(2, prior.info.channels, side, side), torch.ones(2)
        return with_network(prior, OpenVINONetwork(network, inputs, threads))
    return with_backend(prior, name, threads)


def largest_difference(prior: Denoiser, other: Denoiser) -> float:
    """Return the largest difference of two denoisers on one image, relative to the largest value."""
    x = torch.randn(1, prior.info.channels, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = prior(x, 0.5).x0
        return float((other(x, 0.5).x0 - expected).abs().max() / expected.abs().max())


def measure(arguments: argparse.Namespace, threads: int) -> dict[str, object]:
    """Return the table of one number of threads."""
    torch.set_num_threads(threads)
    prior = open_prior(prior_path(arguments.prior))
    names = ["eager", "contiguous"] + ([] if arguments.no_compile else ["compile"])
    names += [] if missing_packages("onnxruntime") else ["onnxruntime"]
    names += ["openvino"] if find_spec("openvino") and not missing_packages("onnxruntime") else []
    sizes = [(size[0], size[1]) for size in (SIZES if not arguments.sizes else [(s, s) for s in arguments.sizes])]
    found = bench(prior, names, sizes, arguments.batch, arguments.rounds, build)
    differences = {name: largest_difference(prior, build(prior, name, threads)) for name in names if name != "compile"}
    eager = {(s.size, s.batch): s.seconds for s in found.speeds if s.backend == "eager"}
    rows = [asdict(s) | {"to_eager": s.seconds / eager[s.size, s.batch]} for s in found.speeds]
    facts = {"threads": threads, "peak_gflops": found.peak_gflops, "library": found.library}
    return {**facts, "best_ratio": found.best.ratio, "differences": differences, "rows": rows}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prior", default="brain-mri")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--sizes", type=int, nargs="+", help="sides of square images; else those of `recon doctor`")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments, arguments.child)))
        return
    tables = []
    for threads in arguments.threads:
        # OpenMP reads its number of threads once
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(threads)]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
        tables.append(json.loads(output))
    if arguments.json:
        print(json.dumps(tables))
        return
    for table in tables:
        print(f"{table['threads']} thread(s), peak {table['peak_gflops']:.1f} GFLOP/s ({table['library']})")
        for row in table["rows"]:
            size = f"{row['batch']} x {row['size'][0]}x{row['size'][1]}"
            print(
                f"  {size:14} {row['backend']:12} {1e3 * row['seconds']:8.1f} ms, {row['to_eager']:.2f} of eager's,"
                f"  {row['gflops']:6.1f} GFLOP/s  {row['ratio']:4.0%} of the peak"
            )
        differences = ", ".join(f"{name} {value:.1e}" for name, value in table["differences"].items())
        print(f"  best {table['best_ratio']:.0%} of the peak; largest differences from eager: {differences}")


if __name__ == "__main__":
    main()
