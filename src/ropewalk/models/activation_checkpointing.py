"""Activation checkpointing: gradients through a decoder in little more memory than a forward pass.

Each decoder layer stores only its input, and runs again in the backward pass. The feed-forward part then
needs most of a layer's memory (inner width times length), so it runs over the tokens tile by tile. Both
replace `forward` on the module instances; the family's own code still computes everything.
"""

import ctypes
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from transformers.integrations.sdpa_attention import repeat_kv

from ropewalk.errors import ModelError
from ropewalk.models.replaced_attribute import replaced

MLP_NAMES = ("mlp", "feed_forward")
MLP_TILE_TOKENS = 2048  # enough for the full rate of a matrix product


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside the `with`, no parameter needs a gradient and every module is in evaluation mode."""
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        for parameter in needed:
            parameter.requires_grad_(False)
        for module in training:
            module.training = False
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_()
        for module in training:
            module.training = True


@contextmanager
def recomputing(layers: Iterable[nn.Module], *, trained: bool = False) -> Iterator[None]:
    """Inside the `with`, these decoder layers store only their inputs, and run again in the backward pass.

    Args:
        trained: whether their parameters get gradients too. Dropout is then the same in the second run, and
            feed-forward parts do not run in tiles.
    """
    with ExitStack() as stack:
        for layer in layers:
            mlp = None if trained else tokenwise_mlp(layer)
            if mlp is not None:
                stack.enter_context(replaced(mlp, "forward", _TiledForward(mlp.forward)))
            again = _CheckpointedForward(layer.forward, is_random=trained)
            stack.enter_context(replaced(layer, "forward", again))
        yield


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's


class DifferentiableAttention(TorchFunctionMode):
    """Repeats grouped keys and values for attention on a CPU.

    The CPU kernel has a backward pass for grouped heads, but it takes up to five times as long (torch 2.13).

    Raises:
        ModelError: the model disables gradients around its own attention (hrm_text does), so that some of
            them would be missing.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            raise ModelError(
                "This model disables gradients in a part of its forward pass, so they would be wrong: search "
                "its factors with a strategy that needs no gradients."
            )
        if kwargs.get("enable_gqa") and args[0].device.type == "cpu":
            query, *grouped = args[:3]
            num_heads = query.shape[1]
            repeated = (repeat_kv(tensor, num_heads // tensor.shape[1]) for tensor in grouped)
            args = (query, *repeated, *args[3:])
            kwargs["enable_gqa"] = False
        return func(*args, **kwargs)


def give_back_free_memory() -> None:
    """Return free memory of glibc's heap to the system; does nothing with other allocators.

    Blocks of many sizes fragment the heap: without this, it grows to more than twice the memory in use. A
    call takes a few milliseconds per layer.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def tokenwise_mlp(layer: nn.Module) -> nn.Module | None:
    """The feed-forward part of a layer, if it computes each token by itself; else None.

    It does if it takes one tensor and consists of linear layers and activations only. Convolutions over
    tokens and experts with a capacity do not.
    """
    mlp = next((getattr(layer, name) for name in MLP_NAMES if hasattr(layer, name)), None)
    if not isinstance(mlp, nn.Module) or len(inspect.signature(type(mlp).forward).parameters) != 2:
        return None
    parts = [module for module in mlp.modules() if next(module.parameters(recurse=False), None) is not None]
    return mlp if parts and all(isinstance(part, nn.Linear) for part in parts) else None


class _CheckpointedForward:
    """Replaces the forward of a decoder layer."""

    def __init__(self, original: Callable[..., Any], *, is_random: bool) -> None:
        self.original = original
        self.is_random = is_random

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        return checkpoint(self._run, *args, use_reentrant=False, preserve_rng_state=self.is_random, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        give_back_free_memory()
        with DifferentiableAttention():  # here: no mode is active in a backward pass
            return self.original(*args, **kwargs)


class _TiledForward:
    """Replaces the forward of a feed-forward part.

    There are two autograd functions, so that the input is saved before the output is computed. A checkpointed
    layer that runs again stops after its last saved tensor, so most layers repeat only a part of the work.
    """

    def __init__(self, original: Callable[[Tensor], Tensor]) -> None:
        self.original = original

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        (hidden,) = (*args, *kwargs.values())
        if hidden.shape[-2] <= MLP_TILE_TOKENS:
            return self.original(hidden)
        saved: Tensor = _BackwardInTiles.apply(hidden, self.original)  # type: ignore[no-untyped-call]
        result: Tensor = _ForwardInTiles.apply(saved, self.original)  # type: ignore[no-untyped-call]
        return result


class _BackwardInTiles(torch.autograd.Function):
    """Returns its input; the backward pass maps the gradient of the feed-forward output to its input's."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, original: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.original = original
        return hidden.view_as(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors
        result = torch.empty_like(hidden)
        for start in range(0, hidden.shape[-2], MLP_TILE_TOKENS):
            tile = slice(start, start + MLP_TILE_TOKENS)
            with torch.enable_grad():
                part = hidden[..., tile, :].detach().requires_grad_()
                output = ctx.original(part)
            (result[..., tile, :],) = torch.autograd.grad(output, part, gradient[..., tile, :])
        return result, None


class _ForwardInTiles(torch.autograd.Function):
    """The feed-forward part; the gradient of its output passes through, see `_BackwardInTiles`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, original: Callable[[Tensor], Tensor]) -> Tensor:
        result = torch.empty_like(hidden)
        for start in range(0, hidden.shape[-2], MLP_TILE_TOKENS):
            tile = slice(start, start + MLP_TILE_TOKENS)
            result[..., tile, :] = original(hidden[..., tile, :])
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
