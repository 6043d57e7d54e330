#!/bin/sh
# Creates the work pool and the deployments of deployments/prefect.yaml, once per version of the
# code. Changes made later in the UI (a schedule turned on, a limit raised) therefore survive a
# restart. The version is a variable in Prefect's own database: with a new database, everything is
# created again.
set -eu
cd "$ERPD_CODE"
pool=gpu
files=$(find deployments erpd_core flows tasks -type f \( -name '*.py' -o -name '*.yaml' \) | sort)
# shellcheck disable=SC2086 # one word per file
version=v$(cat $files | sha256sum | cut -c 1-16)
if [ "$(prefect variable get erpd_deployed 2>/dev/null)" = "\"$version\"" ]; then
    exit 0
fi
prefect work-pool inspect "$pool" >/dev/null 2>&1 || prefect work-pool create "$pool" --type process
prefect work-pool set-concurrency-limit "$pool" 1
prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml
python -c 'import asyncio, deployments.servers.dead_runs as dead; asyncio.run(dead.mark_dead_runs())'
prefect variable set erpd_deployed "$version" --overwrite
