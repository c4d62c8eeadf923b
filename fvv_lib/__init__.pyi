# The public names, in the order in which a video becomes a loss. `__init__` loads each on first use.
from .errors import (
    CheckpointError as CheckpointError,
    DataFormatError as DataFormatError,
    FlagError as FlagError,
    FvvError as FvvError,
    LabelMismatchError as LabelMismatchError,
    ModelFolderError as ModelFolderError,
    NotKeptError as NotKeptError,
    TokenBudgetError as TokenBudgetError,
    VideoDecodeError as VideoDecodeError,
)
from .video_config import FrameSpec as FrameSpec, VideoConfig as VideoConfig
from .settings import (
    DataArguments as DataArguments,
    MemorySettings as MemorySettings,
    ModelArguments as ModelArguments,
)
from .arguments import TrainingArguments as TrainingArguments
from .video.kinds import is_video_file as is_video_file
from .video.sampling import sample_frame_indices as sample_frame_indices
from .video.frames import VideoFrames as VideoFrames
from .video.medium import Medium as Medium
from .video.read import load_video_frames as load_video_frames, read_video as read_video
from .video.stills import load_image as load_image
from .video.pixels import preprocess_frames as preprocess_frames
from .prompt.templates import conversation_templates as conversation_templates
from .prompt.placeholders import (
    DEFAULT_IMAGE_TOKEN as DEFAULT_IMAGE_TOKEN,
    IGNORE_INDEX as IGNORE_INDEX,
    IMAGE_TOKEN_INDEX as IMAGE_TOKEN_INDEX,
    check_token_budget as check_token_budget,
    expand_image_tokens as expand_image_tokens,
    expanded_length as expanded_length,
    preprocess_multimodal as preprocess_multimodal,
    tokenizer_image_token as tokenizer_image_token,
)
from .labels.exact import preprocess as preprocess
from .labels.diagnosis import MismatchReport as MismatchReport, diagnose_labels as diagnose_labels
from .model.geometry import make_frame_spec as make_frame_spec
from .model.encoder import (
    encode_images as encode_images,
    flatten_frames as flatten_frames,
    unflatten_frames as unflatten_frames,
)
from .model.splicing import prepare_inputs_labels_for_multimodal as prepare_inputs_labels_for_multimodal
from .model.video_model import (
    FastVlmForVideo as FastVlmForVideo,
    LlavaForVideo as LlavaForVideo,
    VideoMixin as VideoMixin,
)
from .data.dataset import (
    DataCollatorForSupervisedDataset as DataCollatorForSupervisedDataset,
    LazySupervisedDataset as LazySupervisedDataset,
)
from .data.importing.run import ImportReport as ImportReport, import_annotations as import_annotations
from .data.splits import make_supervised_data_module as make_supervised_data_module
from .finetuning.recipe import train as train
from .evaluation.scoring import accuracy_by_kind as accuracy_by_kind, evaluate as evaluate
from .evaluation.benchmarks.table import load_benchmark as load_benchmark
from .evaluation.benchmarks.report import score_benchmark as score_benchmark
from .evaluation.dialogue import Chat as Chat, ask as ask
from .weights.loading import load_pretrained_model as load_pretrained_model
from .weights.converting import convert_model as convert_model
from .scaling.released import random_fastvlm as random_fastvlm
from .scaling.budget import MemoryPrediction as MemoryPrediction, predict_memory as predict_memory
from .scaling.ranks import train_on_ranks as train_on_ranks

__version__: str
LESSONS: dict[int, str]
