"""The embedding and the head, which in a small model are one weight.                                      Lesson 9

A vocabulary of 152,000 words is more than a quarter of a language model of half a billion parameters: what a training
step makes of that size, it should make once, and late. This module knows nothing about frames.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from fvv_lib.private_api import has_forward_hooks, is_sharded


class HasVocabulary(Protocol):
    """A language model with an embedding and a head, as transformers' models are."""

    def get_input_embeddings(self) -> nn.Module: ...

    def get_output_embeddings(self) -> nn.Module: ...


class Vocabulary:
    """The two ends of the language model in one forward pass: token ids to embeddings, hidden states to logits.

    Tied, both give their weight a gradient. The head's is full, for each word is a wrong answer to something, and it is
    the first thing that a backward pass makes: it is held while all activations still are. The embedding's has the few
    rows that were read, but PyTorch makes it full too, and a third tensor of that size for their sum. Here the backward
    pass holds the gradient of the logits instead, (S, V) for S learned tokens, and makes the weight's once, at its end.

    Where there is nothing to gain (no gradient, two weights), and where the two are not plain modules with the whole
    weight (hooks of the head, ZeRO-3, adapters, torch.compile), they are called and nothing else is done.

    Args:
        model: a `VideoMixin` model. Make this object before the encoder runs: autograd goes back in the order of
            making, so what is made first comes last.

    Lesson: 09.
    """

    def __init__(self, model: HasVocabulary):
        self.embedding: Any = model.get_input_embeddings()
        self.head: Any = model.get_output_embeddings()
        self.owed: list[Callable[[], torch.Tensor]] = []  # what makes the head's part of the gradient
        self.late = _is_simple(self.embedding, self.head)
        self.weight: Any = _Lookup.apply(self.head.weight, self.owed) if self.late else self.embedding.weight

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(L,) -> (L, D). Where this is used, `logits` must be too."""
        if not self.late:
            return self.embedding(ids)
        self.embedding.sparse = True
        try:
            return functional_call(self.embedding, {"weight": self.weight}, ids)
        finally:
            self.embedding.sparse = False

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(S, D), computed from what `embed` gave -> (S, V)"""
        if not self.late:
            return self.head(hidden)

        def keep(gradient: torch.Tensor) -> None:
            states = hidden.detach().to(gradient)
            if len(states) <= states.shape[1]:
                self.owed.append(lambda: gradient.t() @ states)
            else:  # (V, D) is smaller than (S, V)
                product = gradient.t() @ states
                self.owed.append(lambda: product)

        logits = functional_call(self.head, {"weight": self.head.weight.detach()}, hidden)
        logits.register_hook(keep)
        return logits


def _is_simple(embedding: Any, head: Any) -> bool:
    """Whether both are plain modules that train one weight, and nothing comes between the head and its logits."""
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear or embedding.weight is not head.weight:
        return False
    hooked = has_forward_hooks(head) or is_sharded(head.weight)
    trained = head.weight.requires_grad and torch.is_grad_enabled()
    sparse = head.weight.device.type in ("cpu", "cuda")  # not all devices know sparse sums
    return trained and sparse and not hooked and not torch.compiler.is_compiling()


class _Lookup(torch.autograd.Function):
    """The weight for the embedding; on the way back, the rows that were read are added to what the head owes."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, owed: list[Callable[[], torch.Tensor]]) -> torch.Tensor:
        ctx.owed, ctx.dtype = owed, weight.dtype
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, lookup: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.owed.pop()().to(ctx.dtype).add_(lookup), None
