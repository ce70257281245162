"""Memory that a step frees is there for the next one."""

import subprocess
import sys

import pytest

# faults of 20 rounds that take, fill and free 64 MiB, in pages
SCRIPT = """
import resource, sys
from recon.runs.allocator import keep_freed_memory
import torch
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(10):
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has the setting")
def test_freed_memory_is_not_mapped_again() -> None:
    assert faults("kept") < 0.2 * faults("as it is")
