#!/usr/bin/env bash
# Fine-tune on several machines under Slurm. Run it in the folder of the repository, with the flags of finetune_video.sh:
#   sbatch scripts/slurm_finetune.sh --data_path ...
# Five minutes before the time limit, Slurm sends SIGTERM, and the run saves a checkpoint and ends. A requeued or
# resubmitted job resumes from this checkpoint. output_dir must be on a shared disk.
#SBATCH --job-name=fastvlm-video
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail

export GPUS="${GPUS:-8}" ZERO="${ZERO:-2}" NODES="$SLURM_NNODES"
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_ADDR
srun bash -c 'NODE_RANK="$SLURM_NODEID" exec bash scripts/finetune_video.sh "$@"' _ \
    "$@" --resume_from_checkpoint True
