import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, FastVlmForConditionalGeneration

from fvv_lib import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    DataFormatError,
    FastVlmForVideo,
    FvvError,
    LabelMismatchError,
    VideoConfig,
    prepare_inputs_labels_for_multimodal,
)

K = 4  # tokens per frame of the tiny tower
IMAGE = IMAGE_TOKEN_INDEX


def frames(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8, generator=generator)


def batch(rows, learned=2):
    """Return right-padded input ids, the mask, and labels for the last `learned` tokens of each row."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE_INDEX)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        labels[i, len(row) - learned : len(row)] = torch.tensor(row[-learned:])
    return ids, mask, labels


MIXED_ROWS = [[5, IMAGE, IMAGE, IMAGE, 6, 7, 8], [9, IMAGE, 10, 11], [12, 13, 14, 15, 16]]
MIXED_IMAGES = [frames(3), frames(1, seed=1), frames(0)]


def test_each_sentinel_becomes_the_features_of_its_frame(model):
    ids, mask, labels = batch(MIXED_ROWS)
    none, positions, new_mask, cache, embeds, new_labels = prepare_inputs_labels_for_multimodal(
        model, ids, None, mask, None, labels, MIXED_IMAGES
    )
    assert none is None
    assert positions is None
    assert cache is None
    lengths = [4 + 3 * K, 3 + K, 5]
    assert new_mask.sum(1).tolist() == lengths
    assert embeds.shape == (3, max(lengths), 128)
    features = model.get_image_features(model.normalize(MIXED_IMAGES[0])).pooler_output
    torch.testing.assert_close(embeds[0, 1 : 1 + 3 * K], features.flatten(0, 1), atol=1e-4, rtol=1e-4)
    text = model.get_input_embeddings()(torch.tensor([6, 7, 8]))
    torch.testing.assert_close(embeds[0, 1 + 3 * K :], text)
    assert new_labels[0].tolist() == [IGNORE_INDEX] * (2 + 3 * K) + [7, 8]
    assert (embeds[2, 5:] == 0).all()
    assert (new_labels[2, 5:] == IGNORE_INDEX).all()


def test_without_images_the_input_is_returned(model):
    ids, mask, labels = batch([[5, 6, 7]])
    assert prepare_inputs_labels_for_multimodal(model, ids, None, mask, None, labels, None) == (
        ids, None, mask, None, None, labels,
    )  # fmt: skip


def test_arguments_that_are_none_stay_none(model):
    ids, _, _ = batch([[5, IMAGE, 6]])
    _, positions, mask, _, _, labels = prepare_inputs_labels_for_multimodal(
        model, ids, None, None, None, None, frames(1, 1)
    )
    assert positions is None
    assert mask is None
    assert labels is None
    positions = prepare_inputs_labels_for_multimodal(model, ids, torch.arange(3)[None], None, None, None, frames(1))[1]
    assert positions.tolist() == [list(range(2 + K))]


@pytest.mark.parametrize("count", [1, 3])
def test_number_of_sentinels_must_equal_number_of_frames(model, count):
    ids, mask, _ = batch([[5, *[IMAGE] * count, 6]])
    with pytest.raises(DataFormatError, match=f"has {count} image sentinels but 2 frames"):
        prepare_inputs_labels_for_multimodal(model, ids, None, mask, None, None, frames(1, 2))


def test_frames_of_another_sample_are_not_used(model):
    ids, mask, _ = batch([[5, IMAGE, IMAGE, 6], [5, IMAGE, IMAGE, 6]])
    with pytest.raises(DataFormatError, match="Sample 0 of the batch has 2 image sentinels but 1 frames"):
        prepare_inputs_labels_for_multimodal(model, ids, None, mask, None, None, [frames(1), frames(3)])
    with pytest.raises(DataFormatError, match="one entry per sample"):
        prepare_inputs_labels_for_multimodal(model, ids, None, mask, None, None, [frames(4)])


@torch.no_grad()
def test_a_batch_equals_its_samples_one_by_one(model):
    ids, mask, _ = batch(MIXED_ROWS)
    together = model(ids, MIXED_IMAGES, mask).logits
    for i, (row, images) in enumerate(zip(MIXED_ROWS, MIXED_IMAGES, strict=True)):
        alone = model(torch.tensor([row]), [images]).logits[0]
        torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padding_changes_no_loss(model):
    ids, mask, labels = batch(MIXED_ROWS)
    loss = model(ids, MIXED_IMAGES, mask, labels=labels).loss
    padding = torch.zeros(3, 6, dtype=torch.long)
    padded = model(
        torch.cat([ids, padding], 1),
        MIXED_IMAGES,
        torch.cat([mask, padding], 1),
        labels=torch.cat([labels, padding + IGNORE_INDEX], 1),
    ).loss
    torch.testing.assert_close(padded, loss, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_image_is_a_one_frame_video(model):
    ids = torch.tensor([[5, IMAGE, 6]])
    picture = frames()
    logits = [model(ids, images).logits for images in (picture, picture[None], picture[None, None], [picture])]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0])


@torch.no_grad()
def test_different_frames_or_another_order_give_different_logits(model):
    ids = torch.tensor([[5, IMAGE, IMAGE, 6]])
    video = frames(1, 2)
    logits = model(ids, video).logits[0, -1]
    assert (model(ids, video.flip(1)).logits[0, -1] - logits).abs().max() > 1e-2
    assert (model(ids, frames(1, 2, seed=3)).logits[0, -1] - logits).abs().max() > 1e-2


def test_labelled_logits_give_the_loss_and_gradients_of_full_logits(model):
    ids, mask, labels = batch(MIXED_ROWS)
    model.train()
    results = []
    for full in (False, True):
        model.zero_grad()
        output = model(ids, MIXED_IMAGES, mask, labels=labels, full_logits=full)
        output.loss.backward()
        results.append((output, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (few, few_grads), (full, full_grads) = results
    assert few.logits.shape[0] == 6  # two learned tokens in each of three samples
    assert full.logits.shape[:2] == (3, 4 + 3 * K)
    torch.testing.assert_close(few.loss, full.loss)
    assert few_grads.keys() == full_grads.keys()
    for name, gradient in few_grads.items():
        torch.testing.assert_close(gradient, full_grads[name], atol=1e-5, rtol=1e-4, msg=name)


def test_tied_embedding_gets_the_gradients_of_lookup_and_head(model):
    _, tied = loss_and_gradients(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    _, untied = loss_and_gradients(model)
    name = "model.language_model.embed_tokens.weight"
    assert not tied[name].is_sparse
    assert not untied[name].is_sparse  # no optimizer of the Trainer accepts sparse gradients
    torch.testing.assert_close(tied[name], untied[name] + untied["lm_head.weight"], atol=1e-6, rtol=1e-4)


def test_loss_is_divided_by_num_items_in_batch(model):
    ids, mask, labels = batch(MIXED_ROWS)
    model.train()
    mean = model(ids, MIXED_IMAGES, mask, labels=labels).loss
    torch.testing.assert_close(model(ids, MIXED_IMAGES, mask, labels=labels, num_items_in_batch=12).loss, mean / 2)


def test_batch_without_labels_is_an_error(model):
    ids, mask, labels = batch(MIXED_ROWS)
    model.train()
    with pytest.raises(LabelMismatchError, match="No token of this batch is learned"):
        model(ids, MIXED_IMAGES, mask, labels=torch.full_like(labels, IGNORE_INDEX))


@torch.no_grad()
def test_spliced_embeddings_equal_stock_transformers_on_expanded_ids(model, tmp_path):
    model.save_pretrained(tmp_path)
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(stock) is FastVlmForConditionalGeneration
    image_token = model.config.image_token_index
    video = frames(1, 3)
    ours = model(torch.tensor([[5, IMAGE, IMAGE, 6, IMAGE, 7, 8]]), video).logits
    run = [image_token] * K
    expanded = torch.tensor([[5, *run, *run, 6, *run, 7, 8]])
    theirs = stock(input_ids=expanded, pixel_values=video[0] / 255).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_fine_tuning_keeps_batchnorm_statistics(model):
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    ids, mask, labels = batch(MIXED_ROWS)
    assert norms
    model.train()
    model(ids, MIXED_IMAGES, mask, labels=labels).loss.backward()
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    model.train_batchnorm = True
    model.train()
    model(ids, MIXED_IMAGES, mask, labels=labels).loss.backward()
    assert not any(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


def loss_and_gradients(model, rows=MIXED_ROWS, images=MIXED_IMAGES):
    ids, mask, labels = batch(rows)
    model.zero_grad()
    output = model.train()(ids, images, mask, labels=labels)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters()}


def checkpoint(model):
    """Call `gradient_checkpointing_enable`, which has another name in some versions of transformers."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


@pytest.mark.parametrize(
    ("checkpointing", "frames_per_chunk", "packing"),
    [(True, None, False), (False, 2, False), (True, 2, False), (True, 1, True), (False, None, True)],
)
def test_saving_memory_changes_neither_loss_nor_gradients(model, checkpointing, frames_per_chunk, packing):
    plain, gradients = loss_and_gradients(model)
    if checkpointing:
        checkpoint(model)
    model.frames_per_chunk, model.packing = frames_per_chunk, packing
    saving, same = loss_and_gradients(model)
    torch.testing.assert_close(saving.loss, plain.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(saving.logits, plain.logits, atol=1e-4, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def calls(module):
    """Return a list that gets one entry, the batch size, for each later call of a module."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_checkpointing_reaches_every_layer_and_every_block_of_the_tower(model):
    blocks = [block for stage in model.model.vision_tower.timm_model.stages for block in stage.blocks]
    layers = model.model.language_model.layers
    seen = [calls(module) for module in (*blocks, *(layer.mlp for layer in layers))]
    loss_and_gradients(model)
    assert {len(runs) for runs in seen} == {1}
    checkpoint(model)
    assert all(layer._gradient_checkpointing_func.keywords == {"use_reentrant": False} for layer in layers)
    loss_and_gradients(model)
    assert {len(runs) for runs in seen} == {3}  # two more: one forward, one in the backward pass
    getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
    loss_and_gradients(model)
    assert {len(runs) for runs in seen} == {4}


def test_chunks_limit_the_frames_per_pass_of_the_tower(model):
    seen = calls(model.model.vision_tower.timm_model.stem)
    checkpoint(model)
    model.frames_per_chunk = 3
    loss_and_gradients(model)
    assert seen == [3, 1, 1, 3]  # 4 frames forward; the backward pass starts with the last chunk


def test_checkpointing_leaves_a_frozen_embedding_and_tower_alone(model):
    model.model.vision_tower.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    checkpoint(model)
    model.frames_per_chunk = 2
    ids, mask, labels = batch(MIXED_ROWS)
    model.train()(ids, MIXED_IMAGES, mask, labels=labels).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_trained_batchnorm_with_chunks_or_checkpointing_is_an_error(model):
    model.train_batchnorm = True
    loss_and_gradients(model)
    model.frames_per_chunk = 2
    with pytest.raises(FvvError, match=r"train_batchnorm=True needs all frames .* Leave out frames_per_chunk and"):
        loss_and_gradients(model)
    model.frames_per_chunk = None
    checkpoint(model)
    with pytest.raises(FvvError, match="train_batchnorm=True needs all frames"):
        loss_and_gradients(model)


def test_packed_samples_form_one_row_and_positions_restart_at_zero(model):
    ids, mask, labels = batch(MIXED_ROWS, learned=4)  # the first token of the second sample has a label
    _, positions, none, _, embeds, row = prepare_inputs_labels_for_multimodal(
        model, ids, None, mask, None, labels, MIXED_IMAGES, packing=True
    )
    lengths = [4 + 3 * K, 3 + K, 5]
    assert none is None
    assert embeds.shape == (1, sum(lengths), 128)
    assert positions.tolist() == [[i for length in lengths for i in range(length)]]
    assert row.shape == positions.shape
    assert (row[positions == 0] == IGNORE_INDEX).all()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_sample_does_not_attend_to_others(model, attention):
    model.set_attn_implementation(attention)
    model.packing = True

    def logits(rows, images):
        ids, mask, labels = batch(rows)
        return model(ids, images, mask, labels=labels, full_logits=False).logits.split(2)  # two learned tokens each

    before = logits(MIXED_ROWS, MIXED_IMAGES)
    for i in range(3):
        rows, images = [*MIXED_ROWS], [*MIXED_IMAGES]
        rows[i] = [17, *rows[i]]  # one token longer
        images[i] = images[i].flip(-1)
        after = logits(rows, images)
        for j in range(3):
            difference = (after[j] - before[j]).abs().max()
            assert difference > 1e-2 if i == j else difference < 1e-5, (i, j)


def test_generation_equals_greedy_forward_passes(model):
    prompt = [5, IMAGE, IMAGE, 6]
    video = frames(1, 2)
    generated = model.generate(
        torch.tensor([prompt]), images=video, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0].tolist()
    with torch.no_grad():
        for token in generated:
            assert model(torch.tensor([prompt]), video).logits[0, -1].argmax().item() == token
            prompt = [*prompt, token]
    assert len(generated) == 5


def test_batched_generation_equals_one_by_one(model):
    ids, mask, _ = batch(MIXED_ROWS)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(ids, images=MIXED_IMAGES, attention_mask=mask, **settings)
    for i, (row, images) in enumerate(zip(MIXED_ROWS, MIXED_IMAGES, strict=True)):
        alone = model.generate(input_ids=torch.tensor([row]), images=[images], **settings)
        assert alone[0].tolist() == together[i].tolist()


def test_settings_are_saved_with_the_weights(model, tmp_path):
    model.video_config = VideoConfig(num_video_frames=5, image_aspect_ratio="crop")
    model.save_pretrained(tmp_path)
    assert VideoConfig.load(tmp_path) == model.video_config
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["FastVlmForConditionalGeneration"]
    assert isinstance(FastVlmForVideo.from_pretrained(tmp_path), FastVlmForVideo)
