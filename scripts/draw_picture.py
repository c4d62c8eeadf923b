"""Draw the image of the README, docs/flipbook.png: a test clip as the model sees it, the question and the answer."""

import json
from pathlib import Path

import fvv_lib
from fvv_lib.plotting import PALETTE, plot_frames

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"


def main() -> None:
    sample = next(s for s in json.loads((SAMPLES / "test.json").read_text()) if s["id"] == "test-motion-0019")
    number = sample["kinds"].index("motion")
    question, answer = (turn["value"].removeprefix("<image>\n") for turn in sample["conversations"][2 * number :][:2])
    video = fvv_lib.read_video(SAMPLES / (sample.get("video") or sample["image"]))
    figure = plot_frames(video.frames, video.timestamps)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.7)
    figure.subplots_adjust(bottom=0.45)
    figure.text(0.02, 0.12, f"{'<image>' * len(video.frames)}  {question}", color=PALETTE["blue"])
    figure.text(0.85, 0.12, answer, color=PALETTE["red"], weight="bold")
    (ROOT / "docs").mkdir(exist_ok=True)
    figure.savefig(ROOT / "docs" / "flipbook.png", dpi=100)


if __name__ == "__main__":
    main()
