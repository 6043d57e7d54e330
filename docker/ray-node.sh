#!/bin/sh
# A Ray node, in the foreground until it dies.
#
#   ray-node.sh head      the cluster's memory of itself; does no work
#   ray-node.sh worker    works for the cluster at ERPD_RAY_ADDRESS; RAY_WORKER_CPUS cores (all of them when it is empty), and its GPUs
#   ray-node.sh driver    a place for flows, which must run on a node of the cluster; does no work
#
# RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as everywhere in the cluster; RAY_NODE_IP where a machine has several addresses. Tensors do not
# travel through Ray, so its object store is small; its dashboard, which could start jobs, is off.
set -eu
case ${1:-} in
head) set -- --head --port="${RAY_HEAD_PORT:-6379}" --include-dashboard=false --num-cpus=0 --num-gpus=0 ;;
worker) set -- --address="$ERPD_RAY_ADDRESS" ${RAY_WORKER_CPUS:+--num-cpus="$RAY_WORKER_CPUS"} ;;
driver) set -- --address="$ERPD_RAY_ADDRESS" --num-cpus=0 --num-gpus=0 ;;
*)
    echo "ray-node.sh: say head, worker or driver" >&2
    exit 2
    ;;
esac
exec ray start "$@" ${RAY_NODE_IP:+--node-ip-address="$RAY_NODE_IP"} --node-manager-port="${RAY_NODE_PORT:-6380}" \
    --object-store-memory=268435456 --disable-usage-stats --block
