#!/usr/bin/env bash
# Waits for the cloud's notice that this spot machine will be taken away, then has Ray drain it: raypo's slots on it
# checkpoint at their next step and go on elsewhere. AWS gives two minutes, Google Cloud thirty seconds.
#
#   spot_notice.sh aws|gcp      on a worker node, in the background (aws.yaml and gcp.yaml start it)
set -euo pipefail

noticed_by_aws() { # the service answers 404 until there is a notice
  local service=${METADATA:-http://169.254.169.254}/latest token
  token=$(curl -sf -X PUT "$service/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 60") &&
    curl -sf -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$service/meta-data/spot/instance-action"
}

noticed_by_gcp() {
  local service=${METADATA:-http://metadata.google.internal}/computeMetadata/v1
  [ "$(curl -sf -H "Metadata-Flavor: Google" "$service/instance/preempted")" = TRUE ]
}

case ${1:-} in
  aws) every=5 left=110 ;;
  gcp) every=1 left=25 ;;
  *)
    echo "usage: spot_notice.sh aws|gcp, got '${1:-}'" >&2
    exit 2
    ;;
esac

exec 9> "${TMPDIR:-/tmp}/raypo-spot-notice" # one watcher a node, however often Ray is started there
flock -n 9 || exit 0
until "noticed_by_$1"; do sleep "$every"; done
ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot notice of $1" \
  --deadline-remaining-seconds "$left"
