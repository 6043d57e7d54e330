#!/bin/bash
# What runs flows: a Prefect worker, beside it the Ray node that its flows connect through, and what answers for people who do not. When one
# of them ends, all do.
set -euo pipefail
here=$(dirname "$0")

stop() {
    trap - EXIT TERM INT
    # shellcheck disable=SC2046 # one word a process
    kill $(jobs -p) 2>/dev/null || true
    wait
}
trap stop EXIT TERM INT

"$here/ray-node.sh" driver &
node=$!
"$here/deploy.sh"
until python "$here/health.py" "${RAY_NODE_IP:-127.0.0.1}:${RAY_NODE_PORT:-6380}" 2>/dev/null; do
    kill -0 "$node" # it is still starting, or all is over
    sleep 1
done
python "$here/start.py" prefect worker start --pool gpu --type process --with-healthcheck &
python "$here/watch.py" &
wait -n
