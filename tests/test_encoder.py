import pytest
import torch

from fvv_lib import FvvError, VideoConfig, encode_images, flatten_frames, unflatten_frames
from fvv_lib.model.encoder import pool_frames, tower_features
from fvv_lib.model.geometry import pooled_tokens


def frames(*shape):
    return torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "sizes"),
    [
        (frames(2, 3), [3, 3]),
        (frames(4), [1, 1, 1, 1]),
        (frames(), [1]),
        ([frames(3), frames(), frames(0), frames(2)], [3, 1, 0, 2]),
    ],
)
def test_flatten_returns_contiguous_frames_and_sizes(images, sizes):
    row, found = flatten_frames(images)
    assert found == sizes
    assert row.shape == (sum(sizes), 3, 64, 64)
    assert row.is_contiguous()


def test_unflatten_reverses_flatten():
    images = [frames(3), frames(1), frames(2)]
    row, sizes = flatten_frames(images)
    assert all(torch.equal(a, b) for a, b in zip(unflatten_frames(row, sizes), images, strict=True))


def test_channels_last_frames_become_contiguous():
    """Frames from `torch.from_numpy(x).permute(0, 3, 1, 2)` crash the backward pass in some PyTorch versions."""
    permuted = torch.rand(2, 4, 64, 64, 3).permute(0, 1, 4, 2, 3)
    row, _ = flatten_frames(permuted)
    assert row.is_contiguous()
    assert row.stride()[-1] == 1
    assert torch.equal(row[5], permuted[1, 1])


def test_frames_on_a_cpu_are_channels_last_with_the_same_features(model):
    row = frames(4)
    outputs = []
    for pixels in (model.normalize(row), model.normalize(row).contiguous()):
        model.zero_grad()
        features = model.get_image_features(pixels).pooler_output
        features.square().mean().backward()
        outputs.append([features, *(p.grad.clone() for p in model.model.vision_tower.parameters() if p.requires_grad)])
    assert model.normalize(row).is_contiguous(memory_format=torch.channels_last)
    for last, usual in zip(*outputs, strict=True):
        torch.testing.assert_close(last, usual, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("channels", "groups", "kernel", "stride", "usual"), [
    *((channels, 1, 1, 2, True) for channels in (2, 3, 15)),
    *((channels, 1, 1, 2, False) for channels in (1, 16, 64)),
    *((3, 1, 1, 1, False), (3, 1, 3, 2, False), (6, 6, 1, 2, False)),
])  # fmt: skip
def test_tower_that_cannot_be_trained_channels_last_keeps_the_usual_order(
    model, channels, groups, kernel, stride, usual
):
    row = frames(4)
    tower = model.model.vision_tower
    tower.narrow = torch.nn.Conv2d(channels, groups, kernel, stride, groups=groups)
    assert model.normalize(row).is_contiguous() == usual
    with torch.no_grad():
        assert model.normalize(row).is_contiguous(memory_format=torch.channels_last)
    tower.requires_grad_(False)
    assert model.normalize(row).is_contiguous(memory_format=torch.channels_last)
    saliency = torch.rand(4, 3, 64, 64, requires_grad=True)
    assert model.normalize(saliency).is_contiguous() == usual


def test_wrong_shapes_are_errors():
    with pytest.raises(FvvError, match="images must be"):
        flatten_frames(torch.zeros(2, 2, 2, 3, 8, 8))
    with pytest.raises(FvvError, match=r"3 colours.*got \[\(3, 8, 4, 4\), \(3, 8, 4, 4\)\]"):
        flatten_frames(frames(2, 8)[..., :4, :4].transpose(1, 2))  # colours before time
    with pytest.raises(FvvError, match="3 colours"):
        flatten_frames(torch.zeros(2, 8, 64, 64, 3))  # colours last
    with pytest.raises(FvvError, match="one size"):
        flatten_frames([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16)])
    with pytest.raises(FvvError, match=r"one type, got \['torch.float32', 'torch.uint8'\]"):
        flatten_frames([torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(FvvError, match="cannot be cut"):
        unflatten_frames(torch.zeros(5, 4, 8), [2, 2])


@torch.no_grad()
def test_one_pass_equals_a_loop_over_frames(model):
    images = frames(2, 3)
    features = encode_images(model, images)
    for video, feature in zip(images, features, strict=True):
        loop = torch.cat([encode_images(model, frame)[0] for frame in video])
        torch.testing.assert_close(feature, loop, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_chunks_do_not_change_features(model):
    images = [frames(3), frames(2)]
    whole, chunked = encode_images(model, images), encode_images(model, images, frames_per_chunk=2)
    for a, b in zip(whole, chunked, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.fixture
def passes(model):
    """The number of frames in each pass of the tower."""
    sizes: list[int] = []
    model.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize(("frames_per_chunk", "checkpointing"), [(None, False), (3, False), (3, True)])
def test_small_passes_on_a_cpu_do_not_change_features_or_gradients(model, passes, frames_per_chunk, checkpointing):
    images, tower = [frames(3), frames(2)], model.model.vision_tower
    assert model.pixels_at_once == 1024 * 1024

    def encode(*settings):
        model.zero_grad()
        features = torch.cat(encode_images(model, images, *settings))
        features.square().mean().backward()
        gradients = {name: weight.grad for name, weight in tower.named_parameters()}
        return features.detach(), gradients

    features, gradients = encode()
    assert passes == [5]
    passes.clear()
    model.pixels_at_once = 2 * 64 * 64
    model.train()
    model.checkpointing = checkpointing
    in_pieces, other = encode(frames_per_chunk)
    assert passes[:3] == [2, 2, 1]
    assert len(passes) == (6 if checkpointing else 3)  # chunks are encoded again in the backward pass
    torch.testing.assert_close(in_pieces, features, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-4 * float(gradient.abs().max()), rtol=1e-3)


@torch.no_grad()
def test_frames_per_pass_on_a_cpu(model, passes, monkeypatch):
    def encode(**settings):
        passes.clear()
        encode_images(model, [frames(3), frames(2)], **settings)
        return list(passes)

    model.pixels_at_once = 2 * 64 * 64
    assert encode(frames_per_chunk=1) == [1] * 5
    passes.clear()
    assert (len(tower_features(model, frames(5))), passes) == (5, [2, 2, 1])
    model.pixels_at_once = 1  # at least one frame
    assert encode() == [1] * 5
    with monkeypatch.context() as patch:
        patch.setattr("fvv_lib.model.sharding.is_deepspeed_zero3_enabled", lambda: True)
        assert encode() == [5]  # all ranks must run the tower equally often
    model.train_batchnorm = True
    assert encode() == [1] * 5
    model.train()
    assert encode() == [5]  # statistics need all frames in one pass
    model.train_batchnorm, model.pixels_at_once = False, None
    assert encode() == [5]
    model.pixels_at_once = 1
    model.to("meta")  # a device other than a CPU
    assert encode() == [5]


@torch.no_grad()
def test_different_pixels_give_different_features(model):
    one, other = encode_images(model, [frames(1), frames(1)])
    assert (one - other).abs().max() > 0.01


@torch.no_grad()
def test_uint8_is_scaled_and_normalised_and_float_is_not(model):
    pixels = frames(1)
    torch.testing.assert_close(encode_images(model, pixels)[0], encode_images(model, pixels / 255)[0])


@torch.no_grad()
def test_text_only_sample_has_no_features(model):
    (features,) = encode_images(model, [frames(0)])
    assert len(features) == 0


def test_pooling_averages_squares_of_neighbouring_tokens():
    """The token in row r and column c of the frame is (r, c), so each pooled token is the middle of its square."""
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), dim=-1)  # (4, 4, 2)
    features = torch.stack([grid, grid + 10]).flatten(1, 2)  # (F, K, D)
    pooled = pool_frames(features, 2)
    assert pooled[0].tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
    assert torch.equal(pooled[1], pooled[0] + 10)
    assert pool_frames(features, 1) is features
    assert pool_frames(features, 4).shape == (2, 1, 2)


@pytest.mark.parametrize(("tokens", "pool"), [(16, 3), (15, 2), (4, 4)])
def test_tokens_that_cannot_be_pooled_are_an_error(tokens, pool):
    for function, given in ((pooled_tokens, tokens), (pool_frames, torch.zeros(1, tokens, 8))):
        with pytest.raises(FvvError, match=f"frame_pool={pool} cannot average the {tokens} tokens"):
            function(given, pool)
    assert pooled_tokens(15, 1) == 15


@torch.no_grad()
def test_features_are_pooled_after_the_projector_in_every_chunk(model):
    images = [frames(3), frames(0), frames(2)]
    whole = encode_images(model, images)
    model.video_config = VideoConfig(frame_pool=2)
    for settings in ({}, {"frames_per_chunk": 2}):
        pooled = encode_images(model, images, **settings)
        assert [feature.shape[:2] for feature in pooled] == [(3, 1), (0, 1), (2, 1)]
        for a, b in zip(pooled, whole, strict=True):
            torch.testing.assert_close(a, b.mean(dim=1, keepdim=True), atol=1e-4, rtol=1e-4)
    assert encode_images(model, [frames(0)])[0].shape[:2] == (0, 1)


def test_backward_through_a_tower_in_train_mode_with_permuted_frames(model):
    model.train_batchnorm = True
    model.train()
    permuted = torch.rand(2, 2, 64, 64, 3).permute(0, 1, 4, 2, 3)
    sum(feature.square().sum() for feature in encode_images(model, permuted)).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "vision_tower" in n)
