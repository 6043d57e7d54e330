"""Watches the Ray node of this driver process and stops the process when the node dies.

Without it, Ray's own driver may wait indefinitely for results instead of ending.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import grpc

from tasks.host.shutdown import stop_process

WATCH = "/grpc.health.v1.Health/Watch"
"""gRPC's standard health service. Every node answers once; its stream ends when the node dies."""
ATTEMPTS, PAUSE = 3, 1.0
"""Attempts to reach a node that has not answered yet, and seconds between them."""


class NodeWatch:
    """Stops this process with SIGTERM and a reason when the node at `address` dies.

    `address` is `host:port`. The node is on this machine, so a network problem cannot look like its
    death.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="ray-node-watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching; the node may end from now on."""
        self._closed.set()
        self._channel.close()

    def _watch(self) -> None:
        for _ in range(ATTEMPTS):
            if self._answers():
                break
            self._closed.wait(PAUSE)
        if not self._closed.is_set():
            stop_process(
                f"Ray's node of this process ({self.address}) is gone, killed or out of memory; "
                f"if it is a cluster's, start it again"
            )

    def _answers(self) -> bool:
        """Wait until the node's stream ends; returns whether the node answered at all.

        Stops watching if the node is alive but refuses to be watched.
        """
        answered = False
        try:
            for _ in self._channel.unary_stream(WATCH)(
                b"", metadata=[("authorization", f"Bearer {_token()}")]
            ):
                answered = True
        except grpc.RpcError as error:
            if not answered and error.code() != grpc.StatusCode.UNAVAILABLE:
                self._closed.set()
        except ValueError:  # the channel was closed
            self._closed.set()
        return answered


def _token() -> str:
    """The token with which Ray's processes authenticate to each other (docs/security.md)."""
    return (
        os.environ.get("RAY_AUTH_TOKEN")
        or Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    )


def watch_own_node() -> NodeWatch:
    """Watch the node of the Ray that this process is connected to."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return NodeWatch(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
