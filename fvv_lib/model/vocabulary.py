"""The embedding and the head of a language model, which share one weight in small models.                 Lesson 9

With a vocabulary of 152,000 words, this weight is more than a quarter of a language model of half a billion parameters.
A training step should make a tensor of that size only once, and late. This module knows nothing about frames.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from fvv_lib.private_api import has_forward_hooks, is_sharded


class HasVocabulary(Protocol):
    """A language model with an embedding and a head, as in transformers."""

    def get_input_embeddings(self) -> nn.Module: ...

    def get_output_embeddings(self) -> nn.Module: ...


class Vocabulary:
    """Both ends of the language model in one forward pass: token ids to embeddings, hidden states to logits.

    With tied weights, both add to the gradient of one weight. The head's part is dense, because each word gets a
    gradient. The backward pass makes it first and holds it together with all activations. The embedding's part has only
    the rows that were read, but PyTorch makes it dense, too, and then a third tensor of that size for the sum. This
    class holds the gradient of the logits instead, (S, V) for S learned tokens. It makes the weight's gradient once, at
    the end of the backward pass. If S is larger than D, it makes the head's part at once, because this is smaller.

    The two modules are called as usual if there is nothing to gain (no gradient, two separate weights), or if they are
    not plain modules with the whole weight (hooks of the head, ZeRO-3, adapters, torch.compile).

    Args:
        model: a `VideoMixin` model. Create this object before the encoder runs. Autograd runs backward in reverse order
            of creation, so what is created first runs last.

    Lesson: 09.
    """

    def __init__(self, model: HasVocabulary):
        self.embedding: Any = model.get_input_embeddings()
        self.head: Any = model.get_output_embeddings()
        self.owed: list[Callable[[], torch.Tensor]] = []  # functions that make the head's part of the gradient
        self.late = _is_simple(self.embedding, self.head)
        self.weight: Any = _Lookup.apply(self.head.weight, self.owed) if self.late else self.embedding.weight

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed token ids: (L,) -> (L, D). After this, `logits` must be called, too."""
        if not self.late:
            return self.embedding(ids)
        self.embedding.sparse = True
        try:
            return functional_call(self.embedding, {"weight": self.weight}, ids)
        finally:
            self.embedding.sparse = False

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute logits of hidden states that depend on the result of `embed`: (S, D) -> (S, V)."""
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
    """Return whether both are plain modules that train one weight, and nothing changes the head's output."""
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear or embedding.weight is not head.weight:
        return False
    hooked = has_forward_hooks(head) or is_sharded(head.weight)
    trained = head.weight.requires_grad and torch.is_grad_enabled()
    sparse = head.weight.device.type in ("cpu", "cuda")  # not all devices support sparse sums
    return trained and sparse and not hooked and not torch.compiler.is_compiling()


class _Lookup(torch.autograd.Function):
    """Pass the weight to the embedding. In the backward pass, add the embedding's gradient to the head's."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, owed: list[Callable[[], torch.Tensor]]) -> torch.Tensor:
        ctx.owed, ctx.dtype = owed, weight.dtype
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, lookup: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.owed.pop()().to(ctx.dtype).add_(lookup), None
