"""Network calls under OpenMP's two wait policies, with and without a busy neighbour.

    python benchmarks/threads.py [--calls 12] [--json]
Each setting runs in a process of its own, since OpenMP reads its policy once. Prints the median seconds of a call, and
each setting's ratio to passive waiting beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

POLICIES = ("PASSIVE", "ACTIVE", "default")


def measure(calls: int) -> float:
    """Return the median seconds of a call of the shipped prior at 256x256."""
    import torch

    from recon.priors.catalog import prior_path
    from recon.priors.store import load_prior

    prior, x = load_prior(prior_path("brain-mri")), torch.randn(1, 1, 256, 256)
    seconds = []
    with torch.inference_mode():
        prior(x, 1.0)
        for _ in range(calls):
            start = time.perf_counter()
            prior(x, 1.0)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def child(policy: str, calls: int) -> float:
    """Return `measure` in a process with that wait policy."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, __file__, "--child", "--calls", str(calls)]
    return float(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(measure(arguments.calls))
        return
    table: dict[str, dict[str, float]] = {}
    for busy in (False, True):
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            table["busy" if busy else "idle"] = {p: child(p, arguments.calls) for p in POLICIES}
        finally:
            if neighbour is not None:
                neighbour.kill()
                neighbour.wait()
    if arguments.json:
        print(json.dumps(table))
        return
    for machine, row in table.items():
        shown = (f"{policy} {seconds:.3f} s ({seconds / row['PASSIVE']:.2f}x)" for policy, seconds in row.items())
        print(f"{machine}: " + ", ".join(shown))


if __name__ == "__main__":
    main()
