#!/usr/bin/env bash
# Fine-tune a FastVLM on video. As it stands it trains the tiny one of the course on data_samples/. Every flag of
# `python -m fvv_lib.training --help` passes through, and the last one given wins; paths start where you stand. With a
# --data_path of your own, nothing of the course's data and schedule is used:
#
#   bash scripts/finetune_video.sh --model_name_or_path FOLDER --data_path mine.json --image_folder videos \
#       --output_dir output/mine --max_steps 1000 --learning_rate 1e-5 --per_device_train_batch_size 1
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"

if [ -z "${PYTHON:-}" ]; then
    if [ -x "$root/.venv/bin/python" ]; then PYTHON="$root/.venv/bin/python"; else PYTHON=python; fi
fi

course=(
    --model_name_or_path "$root/data_samples/tiny-fastvlm"
    --data_path "$root/data_samples/train.json"
    --validation_data_path "$root/data_samples/val.json"
    --test_data_path "$root/data_samples/test.json"
    --output_dir output/tiny-fastvlm-video
    --max_steps 600
    --per_device_train_batch_size 16
    --learning_rate 1e-3
    --vision_tower_lr 1e-4
    --adam_beta2 0.98
    --warmup_steps 60
    --eval_strategy steps
    --eval_steps 150
    --save_steps 300
)
for argument in "$@"; do
    if [ "$argument" = --data_path ]; then course=(); fi
done

exec "$PYTHON" -m fvv_lib.training \
    --num_video_frames 8 \
    --version qwen_2 \
    --lr_scheduler_type cosine \
    --weight_decay 0.01 \
    --save_strategy steps \
    --save_total_limit 2 \
    --dataloader_num_workers 1 \
    --logging_steps 10 \
    --report_to tensorboard \
    ${course[@]+"${course[@]}"} \
    "$@"
