"""Compare runs: which settings can change a result, and which differ between two runs.                    Lesson 6

A run resumes from a checkpoint, or returns its stored result, only with the settings that it had. So each checkpoint
and the record store the run's identity: every setting that can change the result, and digests of the model, of the
annotation files, and of the images and videos that these name. Each setting is in exactly one list below; a test checks
that. This module trains nothing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.known import Findings, find_in_files
from fvv_lib.data.table import Annotations
from fvv_lib.errors import CheckpointError, FvvError, ModelFolderError, VideoDecodeError
from fvv_lib.files import Url, is_dir, is_file, locate, shown
from fvv_lib.finetuning.trying import read_deepspeed
from fvv_lib.provenance import code_digest, digest_file
from fvv_lib.settings import DataArguments, ModelArguments
from fvv_lib.video.stills import numbered_pictures
from fvv_lib.weights.lora import base_of, is_adapter

Settings = Mapping[str, Any]
Identity = dict[str, Any]

DATA = ("data_path", "validation_data_path", "test_data_path", "keep_path")
# Files, compared by content: a copy at another path counts as the same file.
FILES = ("model_name_or_path", *DATA)

# Where images and videos are. Their content is compared instead, see `digest_media`, so a copy in another folder counts
# as the same. Compared by value with a run of an earlier build, which has no digest of them.
MEDIA_FOLDER = "image_folder"

# Compared by value.
COMPARED = (
    *("tunable_parts", "lora_rank", "lora_alpha", "lora_dropout"),
    *("num_video_frames", "frame_sampling", "sample_fps", "max_frames", "min_frames"),
    *("time_marks", "time_origin", "frame_pool"),
    "video_backend",
    *("image_aspect_ratio", "version", "mismatch", "max_new_tokens", "bad_samples", "allow_special_tokens"),
    *("model_max_length", "learning_rate", "vision_tower_lr", "projector_lr"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "average_tokens_across_devices"),
    *("bf16", "fp16", "tf32", "seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last"),
    *("dataloader_in_order", "accelerator_config", "deepspeed", "load_best_model_at_end"),
)


def _validation_chooses(settings: Settings) -> bool:
    """Return True if validation affects the weights: it selects the best checkpoint or sets the learning rate."""
    schedule = settings.get("lr_scheduler_type")
    return bool(settings.get("load_best_model_at_end")) or schedule in ("reduce_lr_on_plateau", "greedy")


def _chooses_by_accuracy(settings: Settings) -> bool:
    """Return True if the answers to validation questions affect the weights."""
    return _validation_chooses(settings) and str(settings.get("metric_for_best_model")).endswith("accuracy")


def _lengths_need_media(settings: Settings) -> bool:
    """Return True if the order of samples depends on lengths that are only known after reading the media."""
    known = settings.get("time_marks") == "none" and settings.get("max_frames") is None
    return settings.get("train_sampling_strategy") == "group_by_length" and not known


def _skips(settings: Settings) -> bool:
    return settings.get("bad_samples") == "skip"


# Compared only if they affect the result.
COMPARED_WHERE: Mapping[str, Callable[[Settings], bool]] = {
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "eval_on_start"), _validation_chooses),
    **dict.fromkeys(("save_strategy", "save_steps", "greater_is_better"), _validation_chooses),
    "metric_for_best_model": _validation_chooses,
    "eval_questions": _chooses_by_accuracy,
    "check_media": _lengths_need_media,
    "decode_timeout": _skips,
}

# May grow, but not shrink.
GROWING = ("max_steps", "num_train_epochs")

# Compared as one product with the number of processes: the samples of a step.
MULTIPLIED = ("per_device_train_batch_size", "gradient_accumulation_steps")
SAMPLES = "samples in a step (processes x per_device_train_batch_size x gradient_accumulation_steps)"
PROCESSES = "number of processes"

# Not compared: they set where and how a run works, how fast, and what it writes and prints. They change at most the
# last digits of a result.
FREE = (
    # paths and speed
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "cache_dir", "cache_features", "check_again"),
    *("frames_per_chunk", "packing", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
    *("activation_checkpointing", "activation_checkpointing_kwargs", "use_cpu", "local_rank", "full_determinism"),
    *("torch_empty_cache_steps", "skip_memory_metrics", "debug", "use_cache"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
    *("ddp_backend", "ddp_timeout"),
    # what is logged, reported, kept and uploaded
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
    *("log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("save_only_model", "save_total_limit", "restore_callback_states_from_checkpoint"),
    *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
    "hub_revision",
    # how validation runs, not its result
    *("per_device_eval_batch_size", "prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object"),
    *("eval_accumulation_steps", "do_train", "do_eval"),
    # refused if they would change anything, see `arguments.REFUSED`
    *("remove_unused_columns", "ignore_data_skip", "label_smoothing_factor", "neftune_noise_alpha"),
    *("use_liger_kernel", "liger_kernel_config", "torch_compile", "torch_compile_backend", "torch_compile_mode"),
    *("auto_find_batch_size", "bf16_full_eval", "fp16_full_eval", "include_for_metrics", "batch_eval_metrics"),
    *("include_num_input_tokens_seen", "label_names", "length_column_name", "do_predict"),
    *("enable_jit_checkpoint", "save_on_each_node", "fsdp", "fsdp_config", "parallelism_config"),
    "optim_target_modules",
)

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
DESCRIPTIONS = ("*config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.jinja")

END = 4096  # bytes of the start and of the end of a file that are compared
SKETCH_CODE = ("finetuning/comparing", "video/stills", "video/kinds")  # the modules that decide what a sketch is
UNREAD = " unread: "  # in a digest of media: what follows counts and names files that cannot be read


def describe_settings(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> dict[str, dict[str, Any]]:
    """Return all settings as `metrics.json` stores them."""
    training = training_args.to_sanitized_dict()
    settings = {"model": asdict(model_args), "data": asdict(data_args), "training": training}
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(settings, default=str))
    return plain


def identify(settings: Mapping[str, Settings], processes: int | None, read: bool = True) -> Identity:
    """Return the identity of a run: what another run must share to count as the same.

    Args:
        settings: from `describe_settings`.
        processes: number of processes that train together; None if unknown.
        read: read the files that are compared by content. False for an old record, which has only their paths.

    Raises:
        DataFormatError: an annotation file cannot be read.
        ModelFolderError: a file of the model cannot be read.
    """
    flat = {**settings["model"], **settings["data"], **settings["training"]}
    found = {name: flat[name] for name in (*COMPARED, MEDIA_FOLDER, *GROWING) if name in flat}
    found |= {name: flat[name] for name, where in COMPARED_WHERE.items() if name in flat and where(flat)}
    if "tunable_parts" in found:
        found["tunable_parts"] = sorted(found["tunable_parts"])
    if found.get("lora_rank") and found.get("lora_alpha") is None:
        found["lora_alpha"] = 2 * found["lora_rank"]  # the default, see `weights.lora`
    if "metric_for_best_model" in found:
        found["metric_for_best_model"] = str(found["metric_for_best_model"] or "loss").removeprefix("eval_")
    if found.get("video_backend") == "auto":
        found["video_backend"] = "pyav"
    if found.get(MEDIA_FOLDER) is not None:
        folder = locate(found[MEDIA_FOLDER])
        found[MEDIA_FOLDER] = str(folder) if isinstance(folder, Url) else str(folder.resolve())
    if found.get("deepspeed") not in (None, "None"):  # transformers writes None as text
        content = _deepspeed(found.pop("deepspeed")) if read else None
        found |= {"deepspeed": content} if content is not None else {}
        found[PROCESSES] = processes  # each process saves its share of the optimizer
    if processes is not None and all(name in flat for name in MULTIPLIED):
        found[SAMPLES] = processes * flat[MULTIPLIED[0]] * flat[MULTIPLIED[1]]
    for name in FILES:
        if name in flat:
            paths = [flat[name]] if isinstance(flat[name], str) else list(flat[name] or ())
            found[name] = {"paths": shown(paths), "digests": None}
            if read and name in DATA:
                opened = [Annotations([path], flat.get(MEDIA_FOLDER), flat.get("cache_dir")) for path in paths]
                found[name]["digests"] = [
                    content + amount
                    for each in opened
                    for content, amount in zip(each.contents, each.amounts, strict=True)
                ]
                found[name]["media"] = [digest_media(each, bool(flat.get("check_again"))) for each in opened]
            elif read:
                found[name]["digests"] = [digest_model(path) for path in paths]
    return found


def _deepspeed(given: str) -> Any:
    """Return the content of a DeepSpeed configuration file, or the argument itself: the text of a dict, in Python."""
    try:
        return read_deepspeed(given)
    except FvvError:
        return given


def digest_media(samples: Annotations, again: bool = False) -> str:
    """Return a digest of the images and videos of samples, in their order: the size, start and end of each file; of a
    folder of frames, the names of its files, and the first and the last of them.

    Whole files of a large data set would take hours to read. Times are not compared, because a copy has new ones. So a
    file that is encoded again is noticed, and one that keeps its size, start and end is not. Files that cannot be read
    are counted, and the first is named: whether that is an error depends on `bad_samples`.

    Args:
        again: read files again that have not changed since an earlier run.
    """
    files = samples.files
    findings = Findings(samples.cache_dir, "ends", code_digest(*SKETCH_CODE), again)
    sketches = find_in_files(findings, files.paths, files.looks, _sketch, files.of_rows(samples.rows))
    unread = [place for place, sketch in enumerate(sketches) if sketch is None]
    digest = hashlib.blake2b(bytes.fromhex("".join(filter(None, sketches))), digest_size=16)
    return digest.hexdigest() + (f"{UNREAD}{len(unread)}, the first is {files.shown(unread[0])}" if unread else "")


def digest_files(paths: Iterable[str]) -> str:
    """Return a digest of files and folders of frames, in their order, as `digest_media` does; each counts once."""
    sketches = [_sketch(path) or UNREAD for path in dict.fromkeys(paths)]
    return hashlib.blake2b(" ".join(sketches).encode(), digest_size=16).hexdigest()


def _sketch(name: str) -> str | None:
    """Return a digest of the size, start and end of a file, or of the names and the outer files of a folder of frames.
    Return `None` if it cannot be read."""
    path = locate(name)
    digest = hashlib.blake2b(digest_size=16)
    try:
        files = [path]
        if is_dir(path):
            frames = numbered_pictures(path)
            digest.update(repr([file.name for file in frames]).encode())
            files = [frames[0], frames[-1]]
        for file in files:
            if not is_file(file):  # a named pipe would block
                return None
            with file.open("rb", buffering=0) as opened:
                size = opened.seek(0, os.SEEK_END)
                digest.update(f"{size} ".encode())
                for start in (0, max(size - END, 0)):
                    opened.seek(start)
                    digest.update(opened.read(END))
    except (OSError, ValueError, VideoDecodeError):
        return None
    return digest.hexdigest()


def digest_model(name: str) -> str:
    """Return a digest of the weights and configurations of a model folder and, for an adapter, of its base model. A hub
    name is returned as it is. Loading reads the same files.

    Raises:
        ModelFolderError: a file cannot be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = sorted({file for pattern in (*WEIGHTS, *DESCRIPTIONS) for file in folder.glob(pattern)})
    try:
        named = [(file.name, digest_file(file)) for file in files if file.is_file()]
    except OSError as error:
        raise ModelFolderError(
            f"{error.filename}: it cannot be read ({error.strerror}). Check its permissions, or copy the model again."
        ) from error
    if is_adapter(folder):
        named.append(("base", digest_model(base_of(folder))))
    return hashlib.blake2b(repr(named).encode()).hexdigest()[:32]


def differences(before: Identity, now: Identity) -> list[str]:
    """Describe each difference. Skip what only one of the two identities has, and the settings in `GROWING`."""
    found = []
    for name in now:
        if name not in before or name in GROWING or (name == MEDIA_FOLDER and _has_media(before)):
            continue
        if name not in FILES:
            if before[name] != now[name]:
                found.append(f"{name} ({before[name]!r} then, {now[name]!r} now)")
        elif not _same_files(before[name], now[name]):
            found.append(f"{name} ({_content(before[name], now[name])})")
        elif before[name].get("media", now[name].get("media")) != now[name].get("media"):
            found.append(f"image or video ({_other_media(name, before, now)})")
    return found


def uncompared(before: Identity, now: Identity) -> list[str]:
    """Return what `now` has and `before` lacks, by name: an earlier build did not store it. A file that is not set
    is not lacking."""
    if not before:
        return ["settings", "model", "data"]
    new = [name for name in now if name not in before and name not in GROWING]
    lacking = [name for name in new if name not in DATA or now[name]["paths"]]
    return lacking if _has_media(before) else [*lacking, "images and videos"]


def _has_media(identity: Identity) -> bool:
    return any("media" in identity.get(name, ()) for name in DATA)


def _same_files(before: dict[str, Any], now: dict[str, Any]) -> bool:
    known = before["digests"] is not None and now["digests"] is not None
    key = "digests" if known else "paths"
    return bool(before[key] == now[key])


def _content(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say whether the paths of files differ, or only their content."""
    if before["paths"] == now["paths"]:
        return "its content has changed"
    return f"{', '.join(before['paths']) or 'none'} then, {', '.join(now['paths']) or 'none'} now"


def _other_media(name: str, before: Identity, now: Identity) -> str:
    """Say which annotation file names images or videos that differ, and where they are looked for."""
    pairs = zip(now[name]["paths"], before[name]["media"], now[name]["media"], strict=True)
    path, then, new = next(pair for pair in pairs if pair[1] != pair[2])
    where = f"{name}: the content of a file that {path} names differs"
    for time, digest in (("then", then), ("now", new)):
        if UNREAD in digest:
            where += f"; cannot be read {time}: {digest.partition(UNREAD)[2]}"
    folders = before.get(MEDIA_FOLDER), now.get(MEDIA_FOLDER)
    return where if folders[0] == folders[1] else f"{where}; {MEDIA_FOLDER} {folders[0]} then, {folders[1]} now"


def length_change(before: Identity, now: Identity) -> str:
    """Return how the length of the run has changed: "same", "longer", "shorter", or "unknown" if one identity gives it
    in epochs and the other in steps."""
    steps = before.get("max_steps", -1), now.get("max_steps", -1)
    if (steps[0] > 0) != (steps[1] > 0):
        return "unknown"
    if steps[0] < 0:
        steps = before.get("num_train_epochs", 0), now.get("num_train_epochs", 0)
    return "same" if steps[0] == steps[1] else "longer" if steps[0] < steps[1] else "shorter"


def check_same_run(where: str | Path, before: Identity, now: Identity) -> None:
    """Check that a checkpoint or record is from this run. Print what an earlier build did not store.

    Raises:
        CheckpointError: it is from a run with other settings or files, or from a longer run.
    """
    if other := differences(before, now):
        raise CheckpointError(
            f"{where}: that run had another {'; '.join(other)}. Set it back, or start again in another output_dir."
        )
    if unknown := uncompared(before, now):
        print(
            f"{where}: these are not stored there, so they cannot be compared: {', '.join(unknown)}. Make sure that "
            "they are the same.",
            flush=True,
        )
    if length_change(before, now) == "shorter":
        name = GROWING[0] if now.get("max_steps", -1) > 0 else GROWING[1]
        raise CheckpointError(
            f"{where}: that run had {name}={before[name]}, and this one has {now[name]}. It may only grow: set it "
            "back, or start again in another output_dir."
        )
