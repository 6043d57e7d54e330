#!/bin/sh
# The work pool and the deployments of deployments/prefect.yaml, once for each version of the code: what people changed in the UI since (a
# schedule switched on, a limit raised) outlives a restart. The version lies in Prefect's own database, as a variable: where that is new,
# so is everything.
set -eu
cd "$ERPD_CODE"
pool=gpu
files=$(find deployments erpd_core flows tasks -type f \( -name '*.py' -o -name '*.yaml' \) | sort)
# shellcheck disable=SC2086 # one word a file
version=v$(cat $files | sha256sum | cut -c 1-16)
if [ "$(prefect variable get erpd_deployed 2>/dev/null)" = "\"$version\"" ]; then
    exit 0
fi
prefect work-pool inspect "$pool" >/dev/null 2>&1 || prefect work-pool create "$pool" --type process
prefect work-pool set-concurrency-limit "$pool" 1
prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml
python -c 'import asyncio, deployments.servers.dead_runs as dead; asyncio.run(dead.mark_dead_runs())'
prefect variable set erpd_deployed "$version" --overwrite
