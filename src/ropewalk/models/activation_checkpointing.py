"""Gradients through a frozen decoder in memory near to that of reading it: recompute rather than keep.

Each decoder layer keeps its input only, and is run again when its gradient is due. Its feed-forward part,
whose inner width times the length would be most of what a layer holds then, runs over the tokens tile by
tile. Both stand in for `forward` on the instances, so that a family's own code still does all the work.
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

from ropewalk.errors import ModelError
from ropewalk.models.replaced_attribute import replaced

MLP_NAMES = ("mlp", "feed_forward")
MLP_TILE_TOKENS = 2048  # enough for the full rate of a matrix product


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter needs a gradient and every module is in evaluation mode; afterwards each is as it was."""
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
    """These decoder layers keep their inputs only, and are run again in the backward pass.

    With `trained`, their parameters get gradients too, and dropout is the same the second time; feed-forward
    parts are then not cut into tiles.
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
    """Attention as it is best differentiated: on a processor, with the keys and values of groups repeated.

    The processor's kernel has a backward pass for grouped heads, but it takes up to five times as long
    (torch 2.13).

    Raises:
        ModelError: the model switches gradients off around its own attention (hrm_text does), which would
            leave a part of them out.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            raise ModelError(
                "This model switches gradients off in a part of its own forward pass, so that they would "
                "come out wrong: search its factors without gradients."
            )
        if kwargs.get("enable_gqa") and args[0].device.type == "cpu":
            query, *grouped = args[:3]
            args = (query, *(_repeat(tensor, query.shape[-3]) for tensor in grouped), *args[3:])
            kwargs["enable_gqa"] = False
        return func(*args, **kwargs)


def _repeat(grouped: Tensor, num_heads: int) -> Tensor:
    """(..., groups, length, size) to (..., num_heads, length, size); each head beside its group's others."""
    groups = grouped.shape[-3]
    shape = (*grouped.shape[:-2], num_heads // groups, *grouped.shape[-2:])
    return grouped.unsqueeze(-3).expand(shape).flatten(-4, -3)


def give_back_free_memory() -> None:
    """What glibc's heap holds between tensors, back to the system; nothing under other allocators.

    The heap is cut up by blocks of many sizes that a layer leaves: without this it grows to more than twice
    what is alive. It takes some milliseconds a layer.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def tokenwise_mlp(layer: nn.Module) -> nn.Module | None:
    """The feed-forward part of a layer, if no token in it can see another.

    That is known of a module that takes one tensor and holds nothing but matrices and activations;
    convolutions over tokens or experts with a capacity are not of this kind.
    """
    mlp = next((getattr(layer, name) for name in MLP_NAMES if hasattr(layer, name)), None)
    if not isinstance(mlp, nn.Module) or len(inspect.signature(type(mlp).forward).parameters) != 2:
        return None
    parts = [module for module in mlp.modules() if next(module.parameters(recurse=False), None) is not None]
    return mlp if parts and all(isinstance(part, nn.Linear) for part in parts) else None


class _CheckpointedForward:
    """Stands in for a layer's forward."""

    def __init__(self, original: Callable[..., Any], *, is_random: bool) -> None:
        self.original = original
        self.is_random = is_random

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        return checkpoint(self._run, *args, use_reentrant=False, preserve_rng_state=self.is_random, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        give_back_free_memory()
        with DifferentiableAttention():  # the second time too: no mode reaches into a backward pass
            return self.original(*args, **kwargs)


class _TiledForward:
    """Stands in for the forward of a feed-forward part.

    Two functions rather than one: the input is saved before the work is done. A checkpointed layer that is
    run again stops after its last saved tensor, and so most layers never repeat this work whole.
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
    """Hands its input on, and takes the gradient of the feed-forward part's OUTPUT to that of this input."""

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
