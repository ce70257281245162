"""One thread each: the suite's arrays are small, and pytest runs one worker per core; commands that it starts too."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

torch.set_num_threads(1)
