"""Fixtures and helpers that tests share. They import what most tests need: torch, transformers, FFmpeg."""

import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fvv_lib.__main__ import main
from fvv_lib.course.numbered import HEIGHT, WIDTH, paint
from fvv_lib.course.scenes import motion_clip, still, write_video
from fvv_lib.course.tiny import build_tokenizer
from fvv_lib.model.video_model import FastVlmForVideo
from fvv_lib.video_config import FrameSpec
from fvv_lib.weights.converting import convert_model
from fvv_lib.weights.loading import load_pretrained_model

ROOT = Path(__file__).resolve().parent.parent
SPEC = FrameSpec(image_size=64, tokens_per_frame=4, max_length=2048)  # of the tiny base


def decode_all(path):
    """The reference: every frame upright, from the first packet to the last, without a seek."""
    reformatter = VideoReformatter()  # one for all frames: the set-up of one takes as long as a small frame
    with av.open(str(path)) as container:
        return [
            np.rot90(reformatter.reformat(frame, format="rgb24").to_ndarray(), frame.rotation // 90)
            for frame in container.decode(video=0)
        ]


class Pipe:
    """A file that can only be written on, as a live recording is: no header is corrected at its end."""

    def __init__(self):
        self.content = bytearray()

    def write(self, part):
        self.content += bytes(part)
        return len(part)


def join_streams(path, sources, dispositions):
    """Write the first video streams of several files into one, without encoding them again; None leaves a disposition
    as it is."""
    containers = [av.open(str(source)) for source in sources]
    with av.open(str(path), "w") as writing:
        streams = [writing.add_stream_from_template(container.streams.video[0]) for container in containers]
        for stream, disposition in zip(streams, dispositions, strict=True):
            if disposition is not None:
                stream.disposition = disposition
        for container, stream in zip(containers, streams, strict=True):
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    writing.mux(packet)
            container.close()


def write_at_rate(path, rate, count):
    """Write numbered frames at a constant rate, with the clock that FFmpeg takes for the container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, width=WIDTH, height=HEIGHT)
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(paint(number), format="rgb24")))
        container.mux(stream.encode())


def assert_true_frames(video, reference):
    assert video.total_frames == len(reference)
    for index, frame in zip(video.indices, video.frames, strict=True):
        assert np.array_equal(frame, reference[index]), f"frame {index} is not that of a sequential decode"


@pytest.fixture
def real_data():
    """Folder of real clips and the real Qwen2 tokenizer."""
    if "FVV_REAL_DATA" not in os.environ:
        pytest.skip("set FVV_REAL_DATA to the folder of real clips")
    return Path(os.environ["FVV_REAL_DATA"])


@pytest.fixture(scope="session")
def data_samples():
    return ROOT / "data_samples"


@pytest.fixture(scope="session")
def loaded(base):
    """The tiny base as `load_pretrained_model` gives it; do not change it."""
    return load_pretrained_model(base, device="cpu")


@pytest.fixture
def fvv(capsys, monkeypatch):
    """Run a verb as `fvv VERB ...` does, in this process: 6 seconds of imports less for each test.

    Returns what `subprocess.run` would: `returncode`, `stdout`, `stderr`.
    """

    def run(*arguments, cwd=None):
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # of --help, and of a run that SIGTERM ended
            code = exit_.code
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return run


@pytest.fixture
def annotate(tmp_path):
    """Write samples to an annotation file in `tmp_path` and return its path as text."""

    def write(samples, name="data.json"):
        path = tmp_path / name
        path.write_text(samples if isinstance(samples, str) else json.dumps(samples))
        return str(path)

    return write


@pytest.fixture(scope="session")
def media_written_once(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    write_video(folder / "clip.mp4", motion_clip(rng, "left")[0])
    write_video(folder / "short.mp4", motion_clip(rng, "up", 5)[0])
    Image.fromarray(still(rng)[0]).save(folder / "still.png")
    return folder


@pytest.fixture
def media(tmp_path, media_written_once):
    """`clip.mp4` (24 frames), `short.mp4` (5 frames) and `still.png` in `tmp_path`."""
    for file in media_written_once.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.fixture
def anamorphic(tmp_path):
    """`wide.mp4`: 8 light frames of 64x64 pixels, each twice as wide as it is high."""
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, width=64, height=64)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for _ in range(8):
            frame = np.full((64, 64, 3), 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return tmp_path / "wide.mp4"


@pytest.fixture(scope="session")
def base():
    """The tiny base of the course."""
    return ROOT / "data_samples" / "tiny-fastvlm"


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def llama_tokenizer():
    """A small tokenizer of Llama's kind: SentencePiece BPE, a BOS token, `</s>` as one token."""
    corpus = ["USER: What is it? ASSISTANT: It is a red square.</s>", "A chat between a curious user and an assistant."]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        corpus * 5, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    tokenizer.pre_tokenizer = None  # as in Llama's own file: the normalizer alone marks the spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


@pytest.fixture
def model(base):
    """The tiny base. A tower with random weights would not do: its features may be so small that a test passes whatever
    the pixels are."""
    return FastVlmForVideo.from_pretrained(base).eval()


@pytest.fixture(scope="session")
def apple_base(base, tmp_path_factory):
    """The tiny base in Apple's layout: weights, settings and folder; do not change them."""
    folder = tmp_path_factory.mktemp("apple")
    convert_model(base, folder, layout="apple")
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text()), folder


@pytest.fixture
def apple_checkpoint(apple_base, tmp_path):
    """Write the tiny base as Apple's code would have saved it, and return the folder.

    `change(weights, settings)` may change both first. The tokenizer has 474 entries and no `<image>`.
    """

    def write(change=None, name="model_x", shards=1, file="model.safetensors", vocab_size=512):
        weights, settings, base = apple_base
        weights, settings = dict(weights), settings | {"vocab_size": vocab_size, "tokenizer_model_max_length": 1024}
        embedding = weights["model.embed_tokens.weight"]  # (474, D)
        padding = torch.randn(vocab_size - len(embedding), embedding.shape[1])
        weights["model.embed_tokens.weight"] = torch.cat([embedding, 0.02 * padding])
        weights["model.vision_tower.vision_tower.model.head.proj"] = torch.randn(128, 48)
        if change:
            change(weights, settings)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace("<image>", "<unused>"))
        tokenizer = json.loads((base / "tokenizer_config.json").read_text())
        del tokenizer["image_token"]
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        write_weights(folder, weights, file, shards)
        return folder

    return write


def write_weights(folder, weights, file, shards):
    stem, suffix = file.split(".")
    save = torch.save if suffix == "bin" else lambda part, path: save_file(part, path, metadata={"format": "pt"})
    if shards == 1:
        save(weights, folder / file)
        return
    names = sorted(weights)
    parts = {f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}": names[i::shards] for i in range(shards)}
    for part, keys in parts.items():
        save({key: weights[key] for key in keys}, folder / part)
    index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
    (folder / f"{file}.index.json").write_text(json.dumps(index))
