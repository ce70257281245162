"""Triton kernels for GPUs; nothing here imports Triton before a kernel is asked for."""
