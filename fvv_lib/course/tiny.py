"""The tiny FastVLM that the course fine-tunes: every part is real, it fits a laptop, and it is trained on stills only.

    python -m fvv_lib.course.tiny data_samples/tiny-fastvlm

This command trains the model in two steps, as FastVLM was trained. First the vision tower alone learns to distinguish
images (FastVLM uses CLIP for this, the tiny model uses four linear heads). Then the tower, the projector and the
language model learn together to answer questions about an image. The model never sees a video: the course teaches it
motion and order.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from fvv_lib.course.samples import (
    TEXTS,
    colour_question,
    grid_question,
    motion_question,
    order_question,
    place_question,
    record,
    shape_question,
    which_question,
)
from fvv_lib.course.scenes import COLOURS, DIRECTIONS, SHAPES, Shape, still
from fvv_lib.data.dataset import DataCollatorForSupervisedDataset
from fvv_lib.labels.exact import preprocess
from fvv_lib.model.video_model import FastVlmForVideo
from fvv_lib.prompt.templates import QWEN_2_JINJA, conversation_templates
from fvv_lib.video.pixels import preprocess_frames
from fvv_lib.weights.loading import build_processor

IMAGE_SIZE, STRIDE = 64, 32  # pixels; pixels per token, so 2 x 2 tokens per frame
EMBED_DIMS = (16, 32, 64, 64)
MAX_POSITIONS = 2048
PLACE_BINS = 16  # columns, and rows, that the tower learns to distinguish
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
# Qwen2's rule for cutting text into words before byte pairs are merged (Qwen2 Technical Report, 2024).
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer with Qwen2's word rule and special tokens, trained on the text of the course."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=MAX_POSITIONS,
    )
    fast.chat_template = QWEN_2_JINJA
    return fast


def _corpus() -> Iterator[str]:
    """Yield every sentence of the course, so that each word becomes one or two tokens."""
    rng = np.random.default_rng(0)
    shapes = [Shape(colour, shape, x, y, 0.2) for colour in COLOURS for shape in SHAPES for x in (0.1, 0.5, 0.9)
              for y in (0.1, 0.5, 0.9)]  # fmt: skip
    yield from (template.system for template in conversation_templates.values() for _ in range(40))
    for question, answer in TEXTS * 20:
        yield f"user\n{question}\nassistant\n{answer}\n"
    for i, shape in enumerate(shapes):
        other = shapes[(7 * i + 1) % len(shapes)]
        questions = [colour_question(shape), shape_question(shape), place_question(shape), which_question(rng, shape)]
        questions += [grid_question(shape)]
        questions += [motion_question(list(DIRECTIONS)[i % 4]), order_question(rng, shape, other)]
        yield from (f"user\n{q.text}\nassistant\n{q.answer}\n" for q in questions if q)


def build_model(tokenizer: PreTrainedTokenizerFast) -> FastVlmForVideo:
    """Build FastVLM with random weights: a FastViT of four stages, the two-layer projector, a Qwen2 of four layers.

    Layer scales start at 0.3. With timm's default of 1e-5, a tower of this size returns features around 1e-38, and no
    test could distinguish two images.
    """
    config = FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "hidden_size": 2 * EMBED_DIMS[-1],
            "do_pooling": False,
            "model_args": {
                "layers": [1, 1, 1, 1],
                "embed_dims": list(EMBED_DIMS),
                "mlp_ratios": [2, 2, 2, 2],
                "layer_scale_init_value": 0.3,
                "inference_mode": False,  # keep all branches of each block for training
            },
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": MAX_POSITIONS,
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // STRIDE) ** 2,
        tie_word_embeddings=True,
    )
    model = FastVlmForVideo(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def build_image_processor() -> CLIPImageProcessor:
    """Build FastVLM's image processor, which only scales pixels to [0, 1]."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3
    )


class Stills(IterableDataset):
    """An endless stream of random stills: pixels, uint8 (3, 64, 64), the shape in them, and the random generator."""

    def __init__(self, seed: int):
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Shape, np.random.Generator]]:
        rng = np.random.default_rng(self.seed)
        while True:
            picture, shape = still(rng)
            yield preprocess_frames(picture[None], IMAGE_SIZE)[0], shape, rng


def train_tower(model: FastVlmForVideo, steps: int, batch_size: int = 64, learning_rate: float = 3e-3) -> None:
    """Step one: teach the vision tower colour, shape and place through four linear heads, which are discarded."""
    tower, colours = model.model.vision_tower, list(COLOURS)
    outputs = (len(COLOURS), len(SHAPES), PLACE_BINS, PLACE_BINS)
    heads = torch.nn.ModuleList([torch.nn.Linear(2 * EMBED_DIMS[-1], count) for count in outputs])

    def collate(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        targets = [
            (colours.index(s.colour), SHAPES.index(s.shape), int(s.x * PLACE_BINS), int(s.y * PLACE_BINS))
            for _, s, _ in items
        ]
        return torch.stack([pixels for pixels, _, _ in items]), torch.tensor(targets)  # (B, 3, 64, 64), (B, 4)

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        features = tower(model.normalize(batch[0])).last_hidden_state.mean((2, 3))  # (B, width)
        losses = [F.cross_entropy(head(features), target) for head, target in zip(heads, batch[1].T, strict=True)]
        return torch.stack(losses).sum()

    loader = DataLoader(Stills(1), batch_size, collate_fn=collate, num_workers=1)
    _train("tower", loader, [*tower.parameters(), *heads.parameters()], loss, steps, learning_rate)


def train_answers(
    model: FastVlmForVideo,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    batch_size: int = 48,
    learning_rate: float = 1e-3,
) -> None:
    """Step two: teach the whole model to answer up to five questions about an image."""
    pad_and_stack = DataCollatorForSupervisedDataset(tokenizer)

    def collate(items: list[Any]) -> dict[str, Any]:
        return pad_and_stack([_still_sample(tokenizer, *item) for item in items])

    loader = DataLoader(Stills(2), batch_size, collate_fn=collate, num_workers=1)
    _train("answers", loader, list(model.parameters()), lambda batch: model(**batch).loss, steps, learning_rate)


def _still_sample(
    tokenizer: PreTrainedTokenizerFast, pixels: torch.Tensor, shape: Shape, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    asked = [colour_question(shape), shape_question(shape), which_question(rng, shape)]
    asked += [question for question in (place_question(shape), grid_question(shape)) if question]
    questions = [asked[i] for i in rng.permutation(len(asked))]
    turns = record("", ("image", ""), questions)["conversations"]
    both = preprocess([turns], tokenizer, has_image=True)
    return {"input_ids": both["input_ids"][0], "labels": both["labels"][0], "images": pixels[None]}


def _train(name: str, loader: Any, parameters: list[Any], loss_of: Any, steps: int, learning_rate: float) -> None:
    """Run a plain training loop: AdamW, one learning-rate cycle, gradients clipped at norm 1."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1)
    total = 0.0
    for step, batch in zip(range(1, steps + 1), loader, strict=False):
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 100 == 0:
            print(f"{name} step {step}: loss {total / 100:.3f}", flush=True)
            total = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write the model to")
    parser.add_argument("--tower_steps", type=int, default=800)
    parser.add_argument("--answer_steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()

    set_seed(settings.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.train_batchnorm = True  # training from scratch must learn the statistics
    model.train()
    train_tower(model, settings.tower_steps)
    train_answers(model, tokenizer, settings.answer_steps)
    model.eval()
    model.save_pretrained(settings.folder)
    build_processor(tokenizer, build_image_processor(), model).save_pretrained(settings.folder)


if __name__ == "__main__":
    main()
