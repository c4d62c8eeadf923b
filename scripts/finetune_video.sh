#!/usr/bin/env bash
# Fine-tune a FastVLM on video. As it stands it trains the tiny one of the course on data_samples/; every flag of
# `python -m fvv_lib.training --help` passes through and overrides what stands here. Your own model and videos:
#
#   bash scripts/finetune_video.sh --model_name_or_path FOLDER --data_path mine.json --validation_data_path val.json \
#       --test_data_path test.json --output_dir output/mine --learning_rate 1e-5 --gradient_accumulation_steps 8
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python; fi
fi

exec "$PYTHON" -m fvv_lib.training \
    --model_name_or_path data_samples/tiny-fastvlm \
    --data_path data_samples/train.json \
    --validation_data_path data_samples/val.json \
    --test_data_path data_samples/test.json \
    --output_dir output/tiny-fastvlm-video \
    --num_video_frames 8 \
    --version qwen_2 \
    --max_steps 600 \
    --per_device_train_batch_size 16 \
    --learning_rate 1e-3 \
    --vision_tower_lr 1e-4 \
    --adam_beta2 0.98 \
    --lr_scheduler_type cosine \
    --warmup_steps 60 \
    --weight_decay 0.01 \
    --eval_strategy steps \
    --eval_steps 150 \
    --save_strategy steps \
    --save_steps 300 \
    --save_total_limit 2 \
    --dataloader_num_workers 1 \
    --logging_steps 10 \
    --report_to tensorboard \
    "$@"
