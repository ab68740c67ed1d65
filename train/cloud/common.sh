# shellcheck shell=bash
# What tpu.sh and gpu.sh share: settings, commands that are shown or run, the code as an archive, and data in a bucket.

fail() {
  echo "error: $*" >&2
  exit 1
}

# The comment at the head of a script, without its first line.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# Sets COMMAND, DRY_RUN and ARGUMENTS (all after --) from the command line.
parse() {
  COMMAND=""
  DRY_RUN=""
  ARGUMENTS=()
  while [ $# -gt 0 ]; do
    case "$1" in
      --dry_run) DRY_RUN=1 ;;
      --help | -h) COMMAND=help ;;
      --)
        shift
        ARGUMENTS=("$@")
        break
        ;;
      -*) fail "unknown option $1; options of the run come after --, as in: run -- --dataset=imagenet2012" ;;
      *)
        [ -z "$COMMAND" ] || fail "one command at a time: $COMMAND or $1"
        COMMAND=$1
        ;;
    esac
    shift
  done
  if [ -z "$COMMAND" ] || [ "$COMMAND" = help ]; then
    usage
    [ "$COMMAND" = help ] && exit 0
    exit 1
  fi
}

# Takes settings from the environment; PROJECT and ZONE may be those of gcloud's own configuration.
need() {
  local name
  for name in "$@"; do
    [ -n "${!name:-}" ] || fail "set $name, as in: $name=... $0 $COMMAND"
  done
}

# Runs a command, or shows it with --dry_run.
run() {
  if [ -n "$DRY_RUN" ]; then
    quoted "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Words as a shell reads them: in single quotes where they need it.
quoted() {
  local word between="" quote="'\\''"
  for word in "$@"; do
    case "$word" in
      "" | *[!a-zA-Z0-9_.,:/=@%+~-]*) printf "%s'%s'" "$between" "${word//\'/$quote}" ;;
      *) printf '%s%s' "$between" "$word" ;;
    esac
    between=" "
  done
}

# Writes the code that is committed here to an archive.
archive() {
  run git -C "$(dirname "$0")/../.." archive --format=tar.gz --output="$1" HEAD
}

# What a machine does with the archive: a Python of its own, and the packages of a run. $1: of JAX for its chips.
installation() {
  cat <<EOF
set -e
mkdir -p ~/jaxcomp && tar -xzf ~/jaxcomp.tar.gz -C ~/jaxcomp && cd ~/jaxcomp
command -v ~/.local/bin/uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -d .venv ] || ~/.local/bin/uv venv --python 3.12
~/.local/bin/uv pip install --python .venv/bin/python '$1' -e '.[train,cloud]'
EOF
}

# What a machine does to start a run, or to go on with it; it goes on when the connection ends.
starting() {
  local words
  words=$(quoted .venv/bin/python -m train.compress "--workdir=gs://$BUCKET/runs/$RUN" ${ARGUMENTS[@]+"${ARGUMENTS[@]}"})
  cat <<EOF
if ! cd ~/jaxcomp 2> /dev/null || [ ! -x .venv/bin/python ]; then
  echo "nothing is installed here: install first" >&2
  exit 1
fi
if [ -f run.pid ] && kill -0 "\$(cat run.pid)" 2> /dev/null; then echo "a run is on already: stop it first" >&2; exit 1; fi
nohup ${words} >> run.log 2>&1 < /dev/null & echo \$! > run.pid
EOF
}

# What a machine does to stop a run, which saves first.
stopping() {
  # shellcheck disable=SC2016 # the other machine expands it
  echo 'cd ~/jaxcomp && kill "$(cat run.pid)" && while kill -0 "$(cat run.pid)" 2> /dev/null; do sleep 1; done'
}

# Makes the bucket, if it is not there, and copies prepared data of this machine, DATA, into it.
bucket() {
  need BUCKET REGION
  if [ -n "$DRY_RUN" ] || ! gcloud storage buckets describe "gs://$BUCKET" > /dev/null 2>&1; then
    run gcloud storage buckets create "gs://$BUCKET" --location="$REGION" --uniform-bucket-level-access
  fi
  if [ -n "${DATA:-}" ]; then
    run gcloud storage rsync --recursive "$DATA" "gs://$BUCKET/tfds"
  fi
}
