"""Frames in the prompt and samples in a batch: where each feature, position, mask and label goes. What the model makes
of it is `test_model`'s part."""

import pytest
import torch

from fvv_lib.errors import DataFormatError
from fvv_lib.model.encoder import encode_images, tower_features
from fvv_lib.model.splicing import prepare_inputs_labels_for_multimodal
from fvv_lib.model.vocabulary import Vocabulary
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX

K, WIDTH = 4, 128  # tokens per frame, and width of the language model, of the tiny base
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
# Every word has a label. A sentinel has none, and so have its features.
LABELS = padded([[NONE if token == IMAGE else token for token in row] for row in ROWS], NONE)
LABEL_ROWS = [[5, *[NONE] * K, 6, *[NONE] * K, 7], [8, 9, 10], [*[NONE] * K, 11]]


@pytest.fixture
def model(loaded):
    """The base that tests share; nothing here changes it."""
    with torch.no_grad():
        yield loaded.model


@pytest.fixture
def rows(model):
    """The embeddings of each sample, put together one by one: a list of (l', D)."""

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
def test_samples_are_padded_on_the_side_that_is_asked_for(model, rows, side):
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


def test_the_batch_that_comes_in_is_not_changed(model):
    ids, mask, labels = IDS.clone(), MASK.clone(), LABELS.clone()
    for settings in ({}, {"packing": True}):
        splice(model, ids, None, mask, labels, **settings)
        assert torch.equal(ids, IDS)
        assert torch.equal(mask, MASK)
        assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("packing", [False, True])
def test_padding_may_stand_anywhere_in_what_comes_in(model, packing):
    """On the left as for generation, or between two words: where the mask is 0, nothing is read."""

    def with_gap(batch, value):
        gap = torch.full((len(batch), 2), value)
        return torch.cat([gap, batch[:, :1], gap, batch[:, 1:]], dim=1)

    expected = splice(model, packing=packing)
    found = splice(model, with_gap(IDS, 3), None, with_gap(MASK, 0), with_gap(LABELS, 7), packing=packing)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_mask_keeps_its_type_and_is_made_where_lengths_differ(model):
    assert splice(model, mask=MASK.bool())[2].dtype == torch.bool
    assert splice(model, mask=MASK.int())[2].dtype == torch.int32
    ids = torch.tensor([[5, IMAGE, 6], [5, 6, 7]])  # of one length as text
    mask = splice(model, ids, mask=None, labels=None, images=[frames(1), frames(0)])[2]
    assert mask.sum(dim=1).tolist() == [2 + K, 3]
    alike = torch.tensor([[5, IMAGE, 6], [IMAGE, 6, 7]])
    assert splice(model, alike, mask=None, labels=None, images=[frames(1), frames(1)])[2] is None


def test_a_cache_is_handed_on(model):
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
    first, second, third = ([NONE, *row[1:]] for row in LABEL_ROWS)  # nothing of its sample is before the first token
    assert labels.tolist() == [[*first, *second, *third]]


def test_packing_does_without_labels_and_without_a_mask(model):
    _, positions, mask, _, embeds, labels = splice(model, torch.tensor([[5, 6]]), None, None, None, [frames(0)])
    assert labels is positions is mask is None
    _, positions, mask, _, packed, labels = splice(
        model, torch.tensor([[5, 6]]), None, None, None, [frames(0)], packing=True
    )
    assert labels is mask is None
    assert positions.tolist() == [[0, 1]]
    assert torch.equal(packed, embeds)


# --- what stands for frames ---------------------------------------------------------------------------------------


def test_text_alone_is_its_embeddings(model):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    embeds = splice(model, ids, None, None, ids, [frames(0), frames(0)])[4]
    assert torch.equal(embeds, model.get_input_embeddings()(ids))


@pytest.mark.parametrize("side", ["right", "left"])
def test_stored_features_give_what_their_frames_give(model, side):
    stored = tower_features(model, torch.cat(IMAGES)).split([2, 0, 1])
    expected = splice(model, padding_side=side)
    found = splice(model, images=None, vision_features=stored, padding_side=side)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_pictures_in_one_tensor_are_the_frames_of_one_sample_or_one_of_each(model):
    pictures = frames(2)
    video = splice(model, torch.tensor([[5, IMAGE, 6, IMAGE]]), None, None, None, pictures)[4]
    each = splice(model, torch.tensor([[5, IMAGE], [6, IMAGE]]), None, None, None, pictures)[4]
    torch.testing.assert_close(video, each.flatten(0, 1)[None], atol=1e-5, rtol=1e-5)


def test_text_is_embedded_by_the_vocabulary_that_is_given(loaded):
    """It sees each word once, and a frame as one word."""
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
def test_a_sample_without_as_many_sentinels_as_frames_is_named_with_what_to_do(model, images, message, stored):
    given = {"images": images}
    if stored:
        features = tower_features(model, torch.cat(images)).split([len(entry) for entry in images])
        given = {"images": None, "vision_features": features}
    with pytest.raises(DataFormatError, match=f"{message}: expand its <image> .*expand_image_tokens"):
        splice(model, **given)


@pytest.mark.parametrize("count", [2, 4])
def test_a_batch_needs_an_entry_for_each_sample(model, count):
    images = [frames(2), frames(0), frames(1), frames(0)][:count]
    message = f"3 samples but images for {count}: pass one entry per sample .*text-only sample has an entry of 0 frames"
    with pytest.raises(DataFormatError, match=message):
        splice(model, images=images)
