"""The driver's node of Ray, watched: where it dies, Ray's own driver may wait for its answers
for ever instead of ending.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import grpc

from tasks.host.shutdown import stop_process

WATCH = "/grpc.health.v1.Health/Watch"
"""gRPC's own health service, which every node answers; it says nothing more until the node is
gone.
"""
KNOCKS, PAUSE = 3, 1.0
"""A node that never answered is asked so often, with so many seconds between."""


class NodeWatch:
    """Stops this process, by SIGTERM and with a reason, as soon as the node at `address`
    (`host:port`) is gone.

    The node is on this machine, so no network's hiccup looks like its end.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="ray-node-watch", daemon=True).start()

    def close(self) -> None:
        """The node may go from now on."""
        self._closed.set()
        self._channel.close()

    def _watch(self) -> None:
        for _ in range(KNOCKS):
            if self._answers():
                break
            self._closed.wait(PAUSE)
        if not self._closed.is_set():
            stop_process(
                f"Ray's node of this process ({self.address}) is gone, killed or out of memory; "
                f"if it is a cluster's, start it again"
            )

    def _answers(self) -> bool:
        """Until the node says no more: whether it said anything. A node that is there and does
        not let itself be watched closes this.
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
        except ValueError:  # what a closed channel says to who asks
            self._closed.set()
        return answered


def _token() -> str:
    """What Ray's own processes show each other (docs/security.md)."""
    return (
        os.environ.get("RAY_AUTH_TOKEN")
        or Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    )


def watch_own_node() -> NodeWatch:
    """Of the Ray that this process is connected to."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return NodeWatch(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
