"""LLaVA-1.5 (CLIP, Llama, `v1`) works like FastVLM."""

import copy
import json

import pytest
import torch
from PIL import Image
from transformers import (
    AddedToken,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    set_seed,
)

from fvv_lib import (
    IGNORE_INDEX,
    DataArguments,
    LazySupervisedDataset,
    LlavaForVideo,
    ModelArguments,
    ModelFolderError,
    TrainingArguments,
    ask,
    encode_images,
    load_pretrained_model,
    train,
)
from fvv_lib.finetuning.preparing import configure_model
from fvv_lib.model.encoder import project_features, tower_features
from fvv_lib.model.geometry import make_frame_spec, tokens_per_frame
from fvv_lib.model.parts import set_trainable
from fvv_lib.settings import PARTS
from fvv_lib.weights.loading import build_processor
from fvv_lib.weights.lora import add_lora

SIZE, PATCH = 28, 14
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
SAMPLES = [
    {
        "video": name,
        "conversations": [
            {"from": "human", "value": "<image>\nWhich way does it move?"},
            {"from": "gpt", "value": f"It moves {way}."},
            {"from": "human", "value": "Are you sure?"},
            {"from": "gpt", "value": "Yes"},
        ],
    }
    for name, way in (("clip.mp4", "left"), ("short.mp4", "up"))
]


@pytest.fixture
def save_llava(llama_tokenizer, tmp_path):
    def save(strategy="default", **settings):
        set_seed(0)
        tokenizer = copy.deepcopy(llama_tokenizer)
        tokenizer.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=SIZE,
            patch_size=PATCH, initializer_factor=5.0,
        )  # fmt: skip
        text = LlamaConfig(
            vocab_size=len(tokenizer) + 5, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_select_strategy=strategy,
        )
        square = {"height": SIZE, "width": SIZE}
        images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square, image_mean=MEAN, image_std=STD)
        folder = tmp_path / "model_x"
        LlavaForConditionalGeneration(config).save_pretrained(folder)
        LlavaProcessor(images, tokenizer, PATCH, strategy, num_additional_image_tokens=1).save_pretrained(folder)
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
        return folder

    return save


def test_llava_trains_on_video_and_the_saved_model_loads_again(save_llava, annotate, media):
    output = media / "output"
    metrics = train(
        ModelArguments(str(save_llava())),
        DataArguments(data_path=[annotate(SAMPLES)], version="v1", num_video_frames=3),
        TrainingArguments(
            output_dir=str(output), max_steps=8, per_device_train_batch_size=2, learning_rate=1e-2, logging_steps=1,
            disable_tqdm=True, report_to="none", use_cpu=True, save_strategy="no",
        ),
    )  # fmt: skip
    losses = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    loaded = load_pretrained_model(output, device="cpu")
    assert isinstance(loaded.model, LlavaForVideo)
    assert loaded.model.video_config.version == "v1"
    assert loaded.model.video_config.num_video_frames == 3
    assert isinstance(ask(loaded, media / "clip.mp4", "Which way does it move?", 4), str)
    assert json.loads((output / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
    stock, processor = AutoModelForImageTextToText.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert type(stock) is LlavaForConditionalGeneration
    state, stored = loaded.model.state_dict(), stock.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in stored)
    assert (processor.patch_size, processor.num_additional_image_tokens) == (PATCH, 1)


def test_labels_are_the_answers_and_padding_is_the_mean_colour(save_llava, annotate, media):
    loaded = load_pretrained_model(save_llava(), device="cpu")
    args = DataArguments(version="v1", num_video_frames=3)
    configure_model(loaded, args, TrainingArguments(use_cpu=True))
    spec = make_frame_spec(loaded, loaded.model.video_config)
    assert spec.tokens_per_frame == (SIZE // PATCH) ** 2
    dataset = LazySupervisedDataset(loaded.tokenizer, [annotate(SAMPLES)], args, frame_spec=spec)
    labels = dataset[0]["labels"]
    learned = loaded.tokenizer.decode(labels[labels != IGNORE_INDEX])
    assert learned.replace(" ", "") == "Itmovesleft.</s>Yes</s>"
    wide = torch.zeros(1, 20, 40, 3, dtype=torch.uint8).numpy()
    dataset.read = lambda path, index, place: type(
        "Frames", (), {"frames": wide, "pixel_aspect": 1.0, "timestamps": [0.0]}
    )
    assert dataset[0]["images"][0, :, 0, 0].tolist() == [int(255 * mean) for mean in MEAN]
    normalized = loaded.model.normalize(dataset[0]["images"])[0, :, 0, 0]
    assert normalized.abs().max() < 0.02  # nearly 0


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_exactly_the_trained_parameters_have_a_gradient(save_llava, lora_rank):
    """The model reads features before CLIP's last layer. Later layers are frozen."""
    folder = save_llava()
    model = load_pretrained_model(folder, device="cpu").model
    set_trainable(model, PARTS)
    if lora_rank:
        add_lora(model, ModelArguments(str(folder), PARTS, lora_rank=lora_rank))
    images = torch.randint(0, 256, (1, 2, 3, SIZE, SIZE), dtype=torch.uint8)
    ids = torch.tensor([[1, -200, 300, -200, 301]])
    model.train()(ids, images, labels=torch.where(ids > 0, ids, IGNORE_INDEX)).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("vision_tower" in name for name in trained)
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@torch.no_grad()
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_spliced_frames_give_the_logits_of_stock_transformers(save_llava, strategy):
    folder = save_llava(strategy)
    loaded, stock = load_pretrained_model(folder, device="cpu"), AutoModelForImageTextToText.from_pretrained(folder)
    model = loaded.model
    video = torch.randint(0, 256, (1, 2, 3, SIZE, SIZE), dtype=torch.uint8)
    count = tokens_per_frame(model.config, SIZE)
    assert count == (SIZE // PATCH) ** 2 + (strategy == "full")
    image = model.config.image_token_index
    ours = model(torch.tensor([[1, -200, 300, -200, 301]]), video).logits
    expanded = torch.tensor([[1, *[image] * count, 300, *[image] * count, 301]])
    theirs = stock(input_ids=expanded, pixel_values=model.normalize(video[0])).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (model(torch.tensor([[1, -200, 300, -200, 301]]), video.flip(1)).logits - ours)[0, -1].abs().max() > 1e-3
    processor = build_processor(loaded.tokenizer, loaded.image_processor, model)
    ids = processor(images=video[0, 0], text="<image>", return_tensors="pt").input_ids
    assert (ids == image).sum() == count


def test_ask_pads_with_the_mean_colour(save_llava, tmp_path):
    loaded, seen = load_pretrained_model(save_llava(), device="cpu"), []
    normalize = loaded.model.normalize
    loaded.model.normalize = lambda frames: seen.append(frames) or normalize(frames)
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.png")
    ask(loaded, tmp_path / "wide.png", "What is it?", 1)
    assert seen[0][0, :, 0, 0].tolist() == [int(255 * mean) for mean in MEAN]


def test_text_only_samples_work_in_a_batch(save_llava):
    model = load_pretrained_model(save_llava(), device="cpu").model
    ids = torch.tensor([[1, -200, 300, 301], [1, 302, 303, 304]])
    frames = torch.randint(0, 256, (1, 3, SIZE, SIZE), dtype=torch.uint8)
    model.train()
    model(ids, [frames, frames[:0]], labels=ids.clamp(min=IGNORE_INDEX)).loss.backward()
    assert torch.isfinite(model.lm_head.weight.grad).all()
    model(ids[1:], [frames[:0]], labels=ids[1:]).loss.backward()  # no image in the batch


def test_image_size_that_differs_from_clip_is_an_error(save_llava):
    model = load_pretrained_model(save_llava(), device="cpu").model
    with pytest.raises(ModelFolderError, match="makes 56 pixels, but the vision tower needs 28"):
        tokens_per_frame(model.config, 56)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "vision tower is 'siglip_vision_model'"),
        ({"text_config": {"model_type": "mistral"}}, "language model is 'mistral'"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "LLaVA's original layout"),
    ],
)
def test_other_kinds_of_llava_are_an_error(save_llava, settings, message):
    with pytest.raises(ModelFolderError, match=message):
        load_pretrained_model(save_llava(**settings))


@pytest.mark.parametrize(("strategy", "layer"), [("default", -2), ("full", -1)])
def test_stored_features_have_the_layer_and_tokens_that_the_model_reads(save_llava, strategy, layer):
    model = load_pretrained_model(save_llava(strategy, vision_feature_layer=layer), device="cpu").model
    frames = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    features = tower_features(model, frames)
    assert features.shape == (3, (SIZE // PATCH) ** 2 + (strategy == "full"), 32)
    model.pixels_at_once = 2 * SIZE * SIZE  # the three frames are encoded in two passes
    projected, expected = project_features(model, features.split([1, 2])), encode_images(model, frames.split([1, 2]))
    for one, other in zip(projected, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
