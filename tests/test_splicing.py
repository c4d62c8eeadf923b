"""Splicing and batching: where each feature, position, mask and label goes. `test_model` tests the model's outputs."""

import pytest
import torch

from fvv_lib.errors import DataFormatError
from fvv_lib.model.encoder import encode_images, tower_features
from fvv_lib.model.splicing import prepare_inputs_labels_for_multimodal
from fvv_lib.model.vocabulary import Vocabulary
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX

K, WIDTH = 4, 128  # of the tiny base: tokens per frame, and width of the language model
IMAGE, NONE = IMAGE_TOKEN_INDEX, IGNORE_INDEX
ROWS = [[5, IMAGE, 6, IMAGE, 7], [8, 9, 10], [IMAGE, 11]]  # 2 frames, none, 1
LENGTHS = [3 + 2 * K, 3, K + 1]
LONGEST = max(LENGTHS)


def frames(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


IMAGES = [frames(2), frames(0), frames(1, seed=1)]


def padded(rows, value):
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


IDS, MASK = padded(ROWS, 0), padded([[1] * len(row) for row in ROWS], 0)
# Every word has a label. Sentinels and their features have none.
LABELS = padded([[NONE if token == IMAGE else token for token in row] for row in ROWS], NONE)
LABEL_ROWS = [[5, *[NONE] * K, 6, *[NONE] * K, 7], [8, 9, 10], [*[NONE] * K, 11]]


@pytest.fixture
def model(loaded):
    """The base that all tests share. No test here changes it."""
    with torch.no_grad():
        yield loaded.model


@pytest.fixture
def rows(model):
    """The embeddings of each sample, composed one by one: a list of (l', D)."""

    def words(*tokens):
        return model.get_input_embeddings()(torch.tensor(tokens))

    two, _, one = encode_images(model, IMAGES)
    return [
        torch.cat([words(5), two[0], words(6), two[1], words(7)]),
        words(8, 9, 10),
        torch.cat([one[0], words(11)]),
    ]


def splice(model, ids=IDS, positions=None, mask=MASK, labels=LABELS, images=IMAGES, cache=None, **settings):
    return prepare_inputs_labels_for_multimodal(model, ids, positions, mask, cache, labels, images, **settings)


# --- padded -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_samples_are_padded_on_the_requested_side(model, rows, side):
    _, positions, mask, _, embeds, labels = splice(model, positions=torch.zeros(1), padding_side=side)
    assert embeds.shape == (3, LONGEST, WIDTH)
    for i, (row, length) in enumerate(zip(rows, LENGTHS, strict=True)):
        here = slice(0, length) if side == "right" else slice(LONGEST - length, LONGEST)
        empty = torch.ones(LONGEST, dtype=torch.bool)
        empty[here] = False
        torch.testing.assert_close(embeds[i, here], row, atol=1e-5, rtol=1e-5)
        assert positions[i, here].tolist() == list(range(length))
        assert mask[i, here].all()
        assert labels[i, here].tolist() == LABEL_ROWS[i]
        assert not embeds[i, empty].any()
        assert not mask[i, empty].any()
        assert (labels[i, empty] == NONE).all()
        assert (positions[i] >= 0).all()


def test_input_batch_is_unchanged(model):
    ids, mask, labels = IDS.clone(), MASK.clone(), LABELS.clone()
    for settings in ({}, {"packing": True}):
        splice(model, ids, None, mask, labels, **settings)
        assert torch.equal(ids, IDS)
        assert torch.equal(mask, MASK)
        assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("packing", [False, True])
def test_input_may_have_padding_anywhere(model, packing):
    """On the left as for generation, or between two words. Tokens with mask 0 are ignored."""

    def with_gap(batch, value):
        gap = torch.full((len(batch), 2), value)
        return torch.cat([gap, batch[:, :1], gap, batch[:, 1:]], dim=1)

    expected = splice(model, packing=packing)
    found = splice(model, with_gap(IDS, 3), None, with_gap(MASK, 0), with_gap(LABELS, 7), packing=packing)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_mask_keeps_its_dtype_and_is_created_if_lengths_differ(model):
    assert splice(model, mask=MASK.bool())[2].dtype == torch.bool
    assert splice(model, mask=MASK.int())[2].dtype == torch.int32
    ids = torch.tensor([[5, IMAGE, 6], [5, 6, 7]])  # the same length as text
    mask = splice(model, ids, mask=None, labels=None, images=[frames(1), frames(0)])[2]
    assert mask.sum(dim=1).tolist() == [2 + K, 3]
    alike = torch.tensor([[5, IMAGE, 6], [IMAGE, 6, 7]])
    assert splice(model, alike, mask=None, labels=None, images=[frames(1), frames(1)])[2] is None


def test_cache_is_returned(model):
    cache = object()
    assert splice(model, cache=cache)[3] is cache
    assert splice(model, cache=cache, packing=True)[3] is cache
    assert splice(model, cache=cache, images=None)[3] is cache


# --- packed -------------------------------------------------------------------------------------------------------


def test_packed_samples_follow_each_other_without_padding(model, rows):
    none, positions, mask, _, embeds, labels = splice(model, packing=True)
    assert none is mask is None
    torch.testing.assert_close(embeds, torch.cat(rows)[None], atol=1e-5, rtol=1e-5)
    assert positions.tolist() == [[*range(LENGTHS[0]), *range(LENGTHS[1]), *range(LENGTHS[2])]]
    first, second, third = ([NONE, *row[1:]] for row in LABEL_ROWS)  # no token precedes the first one
    assert labels.tolist() == [[*first, *second, *third]]


def test_packing_works_without_labels_and_mask(model):
    _, positions, mask, _, embeds, labels = splice(model, torch.tensor([[5, 6]]), None, None, None, [frames(0)])
    assert labels is positions is mask is None
    _, positions, mask, _, packed, labels = splice(
        model, torch.tensor([[5, 6]]), None, None, None, [frames(0)], packing=True
    )
    assert labels is mask is None
    assert positions.tolist() == [[0, 1]]
    assert torch.equal(packed, embeds)


# --- text, features, images ---------------------------------------------------------------------------------------


def test_text_only_batch_equals_its_embeddings(model):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    embeds = splice(model, ids, None, None, ids, [frames(0), frames(0)])[4]
    assert torch.equal(embeds, model.get_input_embeddings()(ids))


@pytest.mark.parametrize("side", ["right", "left"])
def test_stored_features_give_the_result_of_their_frames(model, side):
    stored = tower_features(model, torch.cat(IMAGES)).split([2, 0, 1])
    expected = splice(model, padding_side=side)
    found = splice(model, images=None, vision_features=stored, padding_side=side)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_tensor_of_images_is_one_video_or_one_image_per_sample(model):
    pictures = frames(2)
    video = splice(model, torch.tensor([[5, IMAGE, 6, IMAGE]]), None, None, None, pictures)[4]
    each = splice(model, torch.tensor([[5, IMAGE], [6, IMAGE]]), None, None, None, pictures)[4]
    torch.testing.assert_close(video, each.flatten(0, 1)[None], atol=1e-5, rtol=1e-5)


def test_given_vocabulary_embeds_the_text(loaded):
    """It embeds each word once, and each frame as one word."""
    vocabulary, seen = Vocabulary(loaded.model), []
    embed = vocabulary.embed
    vocabulary.embed = lambda ids: seen.append(ids) or 2 * embed(ids)
    with torch.no_grad():
        plain, doubled = (splice(loaded.model, vocabulary=choice)[4] for choice in (None, vocabulary))
    assert [len(ids) for ids in seen] == [sum(map(len, ROWS))]
    assert (seen[0] >= 0).all()
    torch.testing.assert_close(doubled[1, :3], 2 * plain[1, :3])
    torch.testing.assert_close(doubled[0, 1 : 1 + K], plain[0, 1 : 1 + K], atol=1e-5, rtol=1e-5)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True], ids=["frames", "features"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([frames(2), frames(1), frames(1)], "Sample 1 of the batch has 0 image sentinels but 1 frames"),
        ([frames(2), frames(0), frames(0)], "Sample 2 of the batch has 1 image sentinels but 0 frames"),
        ([frames(3), frames(0), frames(0)], "Sample 0 of the batch has 2 image sentinels but 3 frames"),
    ],
)
def test_error_names_the_sample_with_a_wrong_number_of_sentinels(model, images, message, stored):
    given = {"images": images}
    if stored:
        features = tower_features(model, torch.cat(images)).split([len(entry) for entry in images])
        given = {"images": None, "vision_features": features}
    with pytest.raises(DataFormatError, match=f"{message}: expand its <image> .*expand_image_tokens"):
        splice(model, **given)


@pytest.mark.parametrize("count", [2, 4])
def test_batch_needs_one_entry_per_sample(model, count):
    images = [frames(2), frames(0), frames(1), frames(0)][:count]
    message = f"3 samples but images for {count}: pass one entry per sample .*text-only sample has an entry of 0 frames"
    with pytest.raises(DataFormatError, match=message):
        splice(model, images=images)
