"""The picture of the README: a clip, and what the model says of it before and after `make finetune`.

make finetune && .venv/bin/python benchmarks/picture.py      # writes docs/before_after.png
"""

from pathlib import Path

import fvv_lib
from fvv_lib.plotting import PALETTE, plot_frames

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT / "data_samples" / "videos" / "test" / "motion-0019.mp4"
QUESTIONS = ("What colour is the shape?", "What shape is it?", "Which way does it move?")
MODELS = {
    "trained on stills": ROOT / "data_samples" / "tiny-fastvlm",
    "after make finetune": ROOT / "output" / "tiny-fastvlm-video",
}


def main() -> None:
    video = fvv_lib.read_video(CLIP)
    figure = plot_frames(video.frames, video.timestamps)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 1.5)
    figure.subplots_adjust(bottom=0.6)
    for column, (name, folder) in enumerate(MODELS.items()):
        loaded = fvv_lib.load_pretrained_model(folder, device="cpu")
        x, colour = 0.36 + 0.32 * column, PALETTE["red" if column == 0 else "green"]
        figure.text(x, 0.42, name, weight="bold", color=colour)
        for row, question in enumerate(QUESTIONS):
            figure.text(0.02, 0.3 - 0.11 * row, question)
            figure.text(x, 0.3 - 0.11 * row, fvv_lib.ask(loaded, CLIP, question), color=colour)
    (ROOT / "docs").mkdir(exist_ok=True)
    figure.savefig(ROOT / "docs" / "before_after.png", dpi=100)


if __name__ == "__main__":
    main()
