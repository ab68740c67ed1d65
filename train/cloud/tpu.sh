#!/usr/bin/env bash
# A run of train.compress on a TPU slice, from nothing to its end. Every host of the slice runs the same command, and
# the hosts find each other.
#
#   export ZONE=us-west4-a BUCKET=my-bucket
#   train/cloud/tpu.sh create                            # asks for the slice, and waits until it is there
#   train/cloud/tpu.sh install                           # the committed code, and what it needs, on every host
#   REGION=us-west4 DATA=~/tensorflow_datasets train/cloud/tpu.sh data    # a bucket, and prepared data in it
#   train/cloud/tpu.sh run -- --dataset=cifar10 --data_dir=gs://my-bucket/tfds
#   train/cloud/tpu.sh logs                              # follows the first host's words
#   train/cloud/tpu.sh resume -- --dataset=cifar10 --data_dir=gs://my-bucket/tfds
#   train/cloud/tpu.sh status | stop | delete
#
# resume makes the slice anew if it was taken away, and gives the command again, which goes on from the bucket.
# With --dry_run the commands are shown and none is run. Of data in a bucket every host makes a copy: ImageNet, which does
# not fit on its disk, is mounted by Cloud Storage FUSE, and --data_dir names that folder.
#
# Settings, from the environment: ZONE, BUCKET; NAME (jaxcomp), TYPE (v5litepod-16), RUNTIME (v2-alpha-tpuv5-lite),
# SPOT (1: cheaper, may be taken away), RUN (run: the folder gs://BUCKET/runs/RUN), REGION and DATA of "data".

set -euo pipefail
# shellcheck source=train/cloud/common.sh
. "$(dirname "$0")/common.sh"
parse "$@"
: "${NAME:=jaxcomp}" "${TYPE:=v5litepod-16}" "${RUNTIME:=v2-alpha-tpuv5-lite}" "${SPOT:=}" "${RUN:=run}"

state() {
  gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format="value(state.state)"
}

# The state of the slice; nothing if there is none, of which describe says no more than where Google cannot be asked.
state_if_any() {
  local found
  found=$(gcloud compute tpus queued-resources list --zone="$ZONE" --filter="name~/$NAME\$" \
    --format="value(name)") || return 1
  [ -z "$found" ] || state
}

create() {
  run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" ${SPOT:+--spot}
  [ -z "$DRY_RUN" ] || return 0
  local now
  while now=$(state) || fail "cannot ask for $NAME: status tells when it is there"; [ "$now" != ACTIVE ]; do
    case "$now" in FAILED | SUSPENDING | SUSPENDED) fail "the slice is $now: delete it, and create it again" ;; esac
    echo "waiting for $TYPE in $ZONE: $now"
    sleep 30
  done
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
}

on_all() {
  run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

install() {
  archive /tmp/jaxcomp.tar.gz
  run gcloud compute tpus tpu-vm scp /tmp/jaxcomp.tar.gz "$NAME:jaxcomp.tar.gz" --zone="$ZONE" --worker=all
  on_all "$(installation 'jax[tpu]')"
}

resume() {
  local now=SUSPENDED
  [ -n "$DRY_RUN" ] || now=$(state_if_any) || fail "cannot ask for $NAME: nothing is deleted and nothing started"
  if [ "$now" != ACTIVE ]; then
    [ -z "$now" ] || delete
    create
    install
  fi
  on_all "$(starting)"
}

[ "$COMMAND" = data ] || need ZONE
case "$COMMAND" in
  create | install | delete) "$COMMAND" ;;
  data) bucket ;;
  run)
    need BUCKET
    on_all "$(starting)"
    ;;
  resume)
    need BUCKET
    resume
    ;;
  logs)
    run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 --command="tail -n 100 -F jaxcomp/run.log"
    ;;
  status)
    run gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE"
    ;;
  stop) on_all "$(stopping)" ;;
  *) fail "unknown command $COMMAND: create, install, data, run, logs, resume, status, stop or delete" ;;
esac
