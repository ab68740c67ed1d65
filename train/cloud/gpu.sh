#!/usr/bin/env bash
# A run of train.compress on a virtual machine with GPUs, from nothing to its end.
#
#   export ZONE=us-central1-a BUCKET=my-bucket
#   train/cloud/gpu.sh create
#   train/cloud/gpu.sh install                           # the committed code, and what it needs
#   REGION=us-central1 DATA=~/tensorflow_datasets train/cloud/gpu.sh data    # a bucket, and prepared data in it
#   train/cloud/gpu.sh run -- --dataset=cifar10 --data_dir=gs://my-bucket/tfds
#   train/cloud/gpu.sh logs                              # follows its words
#   train/cloud/gpu.sh resume -- --dataset=cifar10 --data_dir=gs://my-bucket/tfds
#   train/cloud/gpu.sh status | stop | delete
#
# resume starts a machine that was taken away, and gives the command again, which goes on from the bucket.
# With --dry_run the commands are shown and none is run.
#
# Settings, from the environment: ZONE, BUCKET; NAME (jaxcomp-gpu), TYPE (g2-standard-8: one L4; a2-highgpu-1g: one
# A100), FAMILY and IMAGES (an image with NVIDIA's driver, and its project), SPOT (1: cheaper, may be taken away),
# RUN (run: the folder gs://BUCKET/runs/RUN), REGION and DATA of "data". The families of images that there are:
# gcloud compute images list --project=ubuntu-os-accelerator-images --no-standard-images

set -euo pipefail
# shellcheck source=train/cloud/common.sh
. "$(dirname "$0")/common.sh"
parse "$@"
: "${NAME:=jaxcomp-gpu}" "${TYPE:=g2-standard-8}" "${SPOT:=}" "${RUN:=run}"
: "${FAMILY:=ubuntu-accelerator-2204-amd64-with-nvidia-570}" "${IMAGES:=ubuntu-os-accelerator-images}"

state() {
  gcloud compute instances describe "$NAME" --zone="$ZONE" --format="value(status)"
}

create() {
  run gcloud compute instances create "$NAME" --zone="$ZONE" --machine-type="$TYPE" --maintenance-policy=TERMINATE \
    --image-family="$FAMILY" --image-project="$IMAGES" --boot-disk-size=200GB --scopes=cloud-platform \
    ${SPOT:+--provisioning-model=SPOT --instance-termination-action=STOP}
}

on_it() {
  run gcloud compute ssh "$NAME" --zone="$ZONE" --command="$1"
}

install() {
  archive /tmp/jaxcomp.tar.gz
  run gcloud compute scp /tmp/jaxcomp.tar.gz "$NAME:jaxcomp.tar.gz" --zone="$ZONE"
  on_it "$(installation 'jax[cuda12]')"
}

resume() {
  local now=TERMINATED
  [ -n "$DRY_RUN" ] || now=$(state) || fail "cannot ask for $NAME: nothing is started"
  if [ "$now" != RUNNING ]; then
    run gcloud compute instances start "$NAME" --zone="$ZONE"
    [ -n "$DRY_RUN" ] || sleep 60 # until it answers
  fi
  on_it "$(starting)"
}

[ "$COMMAND" = data ] || need ZONE
case "$COMMAND" in
  create | install) "$COMMAND" ;;
  data) bucket ;;
  run)
    need BUCKET
    on_it "$(starting)"
    ;;
  resume)
    need BUCKET
    resume
    ;;
  logs) on_it "tail -n 100 -F jaxcomp/run.log" ;;
  status) run gcloud compute instances describe "$NAME" --zone="$ZONE" ;;
  stop) on_it "$(stopping)" ;;
  delete) run gcloud compute instances delete "$NAME" --zone="$ZONE" --quiet ;;
  *) fail "unknown command $COMMAND: create, install, data, run, logs, resume, status, stop or delete" ;;
esac
