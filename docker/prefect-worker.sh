#!/bin/bash
# Runs three processes: a Prefect worker, the Ray node through which its flows connect, and the
# process that takes overdue decisions. If one of them ends, all do.
set -euo pipefail
here=$(dirname "$0")

stop() {
    trap - EXIT TERM INT
    # shellcheck disable=SC2046 # one word per process
    kill $(jobs -p) 2>/dev/null || true
    wait
}
trap stop EXIT TERM INT

"$here/ray-node.sh" driver &
node=$!
"$here/deploy.sh"
until python "$here/health.py" "${RAY_NODE_IP:-127.0.0.1}:${RAY_NODE_PORT:-6380}" 2>/dev/null; do
    kill -0 "$node" # exits the script if the node is dead
    sleep 1
done
python "$here/start.py" prefect worker start --pool gpu --type process --with-healthcheck &
python "$here/watch.py" &
wait -n
