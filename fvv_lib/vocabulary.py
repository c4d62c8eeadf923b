"""The embedding and the head, which in a small model are one weight.                                      Lesson 4

A vocabulary of 152,000 words is a third of a model of half a billion parameters: what a training step makes of that
size, it should make once, and late. This module knows nothing about frames.
"""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call


class Vocabulary:
    """The two ends of the language model in one forward pass: token ids to embeddings, hidden states to logits.

    Tied, both give their weight a gradient. The head's is full, for each word is a wrong answer to something, and it is
    the first thing that a backward pass makes: it lies there while the activations of all layers do. The embedding's
    has the few rows that were read, but PyTorch fills it up, and needs a third to hold the sum. Here the backward pass
    keeps the gradient of the logits instead, (S, V) for S learned tokens, and makes the weight's once, at its very end.

    Where there is nothing to gain (no gradient, two weights), and where the weight is not simply there (ZeRO-3, FSDP,
    adapters), the modules are called and nothing else is done.

    Args:
        model: a `VideoMixin` model.

    Lesson: 04.
    """

    def __init__(self, model: Any):
        self.embedding, self.head = model.get_input_embeddings(), model.get_output_embeddings()
        plain = type(self.embedding) is nn.Embedding and type(self.head) is nn.Linear
        tied = plain and self.embedding.weight is self.head.weight and not hasattr(self.head.weight, "ds_id")
        trained = tied and self.head.weight.requires_grad and torch.is_grad_enabled()
        self.late = trained and self.head.weight.device.type in ("cpu", "cuda")  # not all devices know sparse sums
        self.products: list[tuple[torch.Tensor, torch.Tensor]] = []  # gradients of logits (S, V), hidden states (S, D)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(L,) -> (L, D)"""
        if not self.late:
            return self.embedding(ids)
        self.embedding.sparse = True
        try:
            return functional_call(self.embedding, {"weight": _Lookup.apply(self.head.weight, self.products)}, ids)
        finally:
            self.embedding.sparse = False

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(S, D), computed from what `embed` gave -> (S, V)"""
        if not self.late:
            return self.head(hidden)
        logits = functional_call(self.head, {"weight": self.head.weight.detach()}, hidden)
        logits.register_hook(lambda gradient: self.products.append((gradient, hidden.detach())))
        return logits


class _Lookup(torch.autograd.Function):
    """The weight for the embedding, whose backward pass comes last: it adds what the head owes the weight."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, products: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        ctx.products, ctx.dtype = products, weight.dtype
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, lookup: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient, hidden = ctx.products.pop()
        return (gradient.t() @ hidden.to(gradient.dtype)).to(ctx.dtype).add_(lookup), None
