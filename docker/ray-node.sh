#!/bin/sh
# Runs a Ray node in the foreground.
#
#   ray-node.sh head      holds the cluster's state; runs no tasks
#   ray-node.sh worker    runs tasks for the cluster at ERPD_RAY_ADDRESS, on RAY_WORKER_CPUS cores
#                         (all if empty) and all its GPUs
#   ray-node.sh driver    a node for flows, which must run on a node of the cluster; runs no tasks
#
# Set RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN, and RAY_NODE_IP where a machine has
# several addresses. Tensors do not go through Ray, so its object store is small. Its dashboard is
# off, because it could start jobs.
set -eu
case ${1:-} in
head) set -- --head --port="${RAY_HEAD_PORT:-6379}" --include-dashboard=false --num-cpus=0 --num-gpus=0 ;;
worker) set -- --address="$ERPD_RAY_ADDRESS" ${RAY_WORKER_CPUS:+--num-cpus="$RAY_WORKER_CPUS"} ;;
driver) set -- --address="$ERPD_RAY_ADDRESS" --num-cpus=0 --num-gpus=0 ;;
*)
    echo "ray-node.sh: give head, worker or driver" >&2
    exit 2
    ;;
esac
exec ray start "$@" ${RAY_NODE_IP:+--node-ip-address="$RAY_NODE_IP"} --node-manager-port="${RAY_NODE_PORT:-6380}" \
    --object-store-memory=268435456 --disable-usage-stats --block
