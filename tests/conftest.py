"""One thread each: the suite's arrays are small, and pytest runs one worker per core."""

import torch

torch.set_num_threads(1)
