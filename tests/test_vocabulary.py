import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fvv_lib.model.vocabulary import Vocabulary

V, D = 50, 8
IDS, TARGETS = torch.tensor([3, 7, 3, 0, 49, 2]), torch.tensor([7, 7, 1])  # token 3 occurs twice, token 0 is padding


class Words(nn.Module):
    """A language model with one layer, an embedding and a head."""

    def __init__(self, tied: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, D, padding_idx=0)
        self.tower = nn.Linear(2, D, bias=False)
        self.layer = nn.Linear(D, D, bias=False)
        self.head = nn.Linear(D, V, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def loss(self, ours: bool = True, learned: int = 3) -> torch.Tensor:
        vocabulary = Vocabulary(self)
        embed, logits = (vocabulary.embed, vocabulary.logits) if ours else (self.embedding, self.head)
        features = self.tower(torch.ones(6, 2))
        hidden = torch.tanh(self.layer(embed(IDS) + features))[:3].repeat(learned // 3, 1)
        return nn.functional.cross_entropy(logits(hidden).float(), TARGETS.repeat(learned // 3))


def gradients(model: Words, ours: bool, bf16: bool = False, learned: int = 3) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model.loss(ours, learned)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("learned", [3, 12])  # fewer and more than D
def test_gradients_equal_those_of_the_plain_modules(tied, bf16, learned):
    model = Words(tied)
    ours, theirs = gradients(model, True, bf16, learned), gradients(model, False, bf16, learned)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert not ours[name].is_sparse
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5, msg=name)
    assert ours["embedding.weight"][0].any() == tied  # padding gets a gradient from the head only


def test_gradients_accumulate_over_batches():
    model = Words()
    once = gradients(model, True)["embedding.weight"]
    model.loss().backward()
    torch.testing.assert_close(model.embedding.weight.grad, 2 * once)


class Full(TorchDispatchMode):
    """Record, in order, each result that is as large as the weight and in new memory."""

    def __init__(self, model: Words):
        super().__init__()
        self.seen: list[str] = []
        known = model.head.weight.untyped_storage()
        self.storages = {known.data_ptr(): known}  # kept, so that no address is reused

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.layout == torch.strided:
            storage = result.untyped_storage()
            if storage.nbytes() == 4 * V * D and storage.data_ptr() not in self.storages:
                self.storages[storage.data_ptr()] = storage
                self.seen.append(func.overloadpacket._qualified_op_name)
        return result


@pytest.mark.parametrize(
    ("ours", "learned", "expected"),
    [
        (True, 3, ["layer", "tower", "aten::mm"]),
        (True, 12, ["aten::mm", "layer", "tower"]),  # more than D: the logits would be larger than the weight
        (False, 3, ["aten::mm", "layer", "aten::embedding_dense_backward", "aten::add", "tower"]),
    ],
)
def test_weight_sized_tensors_that_the_backward_pass_makes(ours, learned, expected):
    model = Words()
    loss = model.loss(ours, learned)
    for name in ("layer", "tower"):
        weight = getattr(model, name).weight
        weight.register_post_accumulate_grad_hook(lambda _, name=name: full.seen.append(name))
    with Full(model) as full:
        loss.backward()
    assert full.seen == expected


def test_a_second_derivative_is_an_error():
    model = Words()
    (gradient,) = torch.autograd.grad(model.loss(), model.embedding.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_compiled_model_has_the_same_gradients():
    expected = gradients(Words(), True)
    model = Words()
    torch.compile(model.loss, backend="aot_eager")().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("module", ["embedding", "head"])
def test_a_hook_that_changes_a_result_changes_the_gradients(module):
    model, plain = Words(), gradients(Words(), True)["embedding.weight"]
    getattr(model, module).register_forward_hook(lambda *call: 2 * call[-1])
    ours, theirs = (gradients(model, side)["embedding.weight"] for side in (True, False))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.embedding.requires_grad_(False),
        lambda model: setattr(model.embedding.weight, "ds_id", 0),  # as in ZeRO-3
        lambda model: setattr(model, "head", nn.Sequential(model.head)),  # as in PEFT
        lambda model: setattr(model.to("meta").head, "weight", model.embedding.weight),
    ],
    ids=["frozen", "ZeRO-3", "wrapped", "another device"],
)
def test_plain_modules_are_used_if_the_weight_is_not_simple(change):
    model = Words()
    change(model)
    assert not Vocabulary(model).late


def test_plain_modules_are_used_without_gradients():
    model = Words()
    with torch.no_grad():
        assert not Vocabulary(model).late
    assert Vocabulary(model).late
    assert not model.embedding.sparse
