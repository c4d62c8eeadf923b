#!/usr/bin/env bash
# Fine-tune a FastVLM on video. Without flags, train the tiny FastVLM of the course on data_samples/. All flags of
# `python -m fvv_lib finetune --help` are accepted, and the last value of a flag wins. Paths are relative to the current
# folder. With your own --data_path, the data and schedule of the course are not used; warm-up is 3 % of the steps:
#
#   bash scripts/finetune_video.sh --model_name_or_path FOLDER --data_path mine.json --image_folder videos \
#       --output_dir output/mine --max_steps 1000 --learning_rate 1e-5 --per_device_train_batch_size 1
#
# GPUS=4 trains on 4 GPUs of this machine. ZERO=1, 2, 3 or 3_offload partitions optimizer states, gradients and
# parameters with DeepSpeed (scripts/zero*.json). To use several machines, run the script on each, with an output folder
# on a shared disk:
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=first-machine GPUS=8 ZERO=3 bash scripts/finetune_video.sh ...   # 1 on the second
#
# scripts/slurm_finetune.sh does this under Slurm.
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
    case "$argument" in --data[_-]path | --data[_-]path=*) course=() ;; esac
done

launch=("$PYTHON")
if [ -n "${GPUS:-}${NODES:-}${ZERO:-}" ]; then
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}" # seconds to save after SIGTERM
    launch+=(-m torch.distributed.run --nproc_per_node "${GPUS:-1}")
    if [ "${NODES:-1}" -gt 1 ]; then
        launch+=(--nnodes "$NODES" --node_rank "${NODE_RANK:?set it to the index of this machine, from 0}")
        launch+=(--master_addr "${MASTER_ADDR:?set it to the address of the first machine}" --master_port "${MASTER_PORT:-29500}")
    else
        launch+=(--standalone)
    fi
fi
zero=()
if [ -n "${ZERO:-}" ]; then
    if [ ! -f "$root/scripts/zero$ZERO.json" ]; then
        echo "error: ZERO=$ZERO: choose 1, 2, 3 or 3_offload." >&2
        exit 2
    fi
    zero=(--deepspeed "$root/scripts/zero$ZERO.json")
fi

exec "${launch[@]}" -m fvv_lib finetune \
    --num_video_frames 8 \
    --version qwen_2 \
    --lr_scheduler_type cosine \
    --warmup_steps 0.03 \
    --weight_decay 0.01 \
    --save_strategy steps \
    --save_total_limit 2 \
    --dataloader_num_workers 1 \
    --logging_steps 10 \
    --report_to tensorboard \
    ${course[@]+"${course[@]}"} \
    ${zero[@]+"${zero[@]}"} \
    "$@"
