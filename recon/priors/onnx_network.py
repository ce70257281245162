"""A network evaluated by ONNX Runtime: exported once, for any batch and size, and held to the network that it is of.

The graph lives in memory alone: nothing is written, and nothing can be out of date. Threads do not spin while they
wait, as the program's own do not (OMP_WAIT_POLICY=PASSIVE), so that a busy machine costs a share and not a multiple.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import onnxruntime
import torch
from torch import Tensor, nn

from recon.errors import ConfigError, ResourceError

OPSET = 17
TOLERANCE = 1e-4
# a graph in memory is one message of at most 2 GB
MAX_BYTES = 1_900_000_000
AXES = {
    "x": {0: "batch", 2: "y", 3: "x"},
    "c": {0: "batch"},
    "labels": {0: "batch"},
    "out": {0: "batch", 2: "y", 3: "x"},
}


@final
class OnnxNetwork(nn.Module):
    """F(x, c[, labels]) of a network, without gradients, on the CPU.

    network: on the CPU, in float32.  channels, multiple, labels: of its images and classes.  threads: of a call.
    The graphs with and without labels are made at their first call.
    Raises ResourceError where the network cannot be exported, or the graph's answers are not the network's.
    """

    def __init__(self, network: nn.Module, channels: int, multiple: int, labels: int, threads: int) -> None:
        super().__init__()
        self.config: Any = network.config
        self.channels, self.multiple, self.labels, self.threads = channels, multiple, labels, threads
        # not a submodule: its tensors are those of the graph
        self._source = (network,)
        self._sessions: dict[bool, onnxruntime.InferenceSession] = {}

    def forward(self, x: Tensor, c: Tensor, labels: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            raise ConfigError("backend 'onnxruntime' gives no gradients of the network", "set run.backend=eager")
        given = labels is not None
        if given not in self._sessions:
            self._sessions[given] = self._checked_session(given)
        return _evaluate(self._sessions[given], (x, c) if labels is None else (x, c, labels))

    def _checked_session(self, with_labels: bool) -> onnxruntime.InferenceSession:
        network = self._source[0]
        try:
            graph = exported(network, self._inputs(2, 4, 3, with_labels))
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            options.log_severity_level = 3
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            reason = (str(err) or type(err).__name__).splitlines()[0][:160]
            raise ResourceError(f"the network cannot be exported: {reason}", "set run.backend=eager") from err
        # another batch and other sizes than the graph was made with
        inputs = self._inputs(1, 3, 5, with_labels)
        with torch.inference_mode():
            expected = network(*inputs)
        error = float((_evaluate(session, inputs) - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not error <= TOLERANCE:
            raise ResourceError(f"ONNX Runtime differs from the network by {error:.1e}", "set run.backend=eager")
        return session

    def _inputs(self, batch: int, y: int, x: int, with_labels: bool) -> tuple[Tensor, ...]:
        """Return inputs of y x x times the sizes that the network divides, at other levels in each item."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(batch, self.channels, y * self.multiple, x * self.multiple, generator=generator)
        level = 0.5 + torch.rand(batch, generator=generator)
        if not with_labels:
            return image, level
        return image, level, torch.eye(self.labels)[torch.arange(batch) % self.labels]


def _evaluate(session: onnxruntime.InferenceSession, inputs: tuple[Tensor, ...]) -> Tensor:
    arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
    (found,) = session.run(None, {wanted.name: a for wanted, a in zip(session.get_inputs(), arrays, strict=True)})
    return torch.from_numpy(found)


def exported(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """Return the network's graph as the bytes of a file, for any batch and size."""
    size = sum(p.numel() * p.element_size() for p in (*network.parameters(), *network.buffers()))
    if size > MAX_BYTES:
        raise ValueError(f"its weights are {size / 1e9:.1f} GB, more than a graph can hold")
    names = ("x", "c", "labels")[: len(inputs)]
    stream = io.BytesIO()
    with _silenced(), torch.no_grad():
        # the exporter by tracing: it takes a second where the other takes eight, and needs one package less
        torch.onnx.export(
            network,
            inputs,
            stream,  # type: ignore[arg-type]
            dynamo=False,
            input_names=list(names),
            output_names=["out"],
            dynamic_axes={name: AXES[name] for name in (*names, "out")},
            opset_version=OPSET,
        )
    return stream.getvalue()


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the exporter's remarks to itself: whether the graph is right is checked on it."""
    # where it fails it prints the graph, by default to standard output, which is for results
    send_to = getattr(torch._C, "_jit_set_onnx_log_output_stream", None)
    if send_to is not None:
        send_to("stderr")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
