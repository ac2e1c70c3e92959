"""Stands in for ROS 2: runs a program that finds here what rclpy and std_msgs would give it.

    python fake_ros2.py PROGRAM [--ros-args -p NAME:=VALUE]

It has what examples/ros2_node.py calls, with the signatures of Humble's documents. What is published is printed: the
topic, and the message's `data`.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any


@dataclass(kw_only=True)
class String:
    data: str = ""


@dataclass(kw_only=True)
class Float32:
    data: float = 0.0


@dataclass(kw_only=True)
class Bool:
    data: bool = False


class DurabilityPolicy(Enum):
    TRANSIENT_LOCAL = 1
    VOLATILE = 2


@dataclass
class QoSProfile:
    depth: int
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE


class ExternalShutdownException(Exception):
    """ROS ends the process."""


@dataclass
class Parameter:
    value: Any


@dataclass
class Publisher:
    kind: type
    topic: str

    def publish(self, message: String | Float32 | Bool) -> None:
        """Only a message of the topic's type, whose field has the type that it has in ROS."""
        assert type(message) is self.kind and type(message.data) is type(self.kind().data), (self.topic, message)
        print(self.topic, message.data, flush=True)


class Node:
    """A node with one timer."""

    def __init__(self, node_name: str) -> None:
        self.name = node_name
        self.period_s = 0.0
        self.callback: Callable[[], object] = lambda: None

    def declare_parameter(self, name: str, value: Any) -> Parameter:
        given = dict(argument.split(":=", 1) for argument in sys.argv if ":=" in argument)
        return Parameter(type(value)(given.get(name, value)))

    def create_publisher(self, msg_type: type, topic: str, qos_profile: QoSProfile | int) -> Publisher:
        assert isinstance(qos_profile, (QoSProfile, int))
        return Publisher(msg_type, topic)

    def create_timer(self, timer_period_sec: float, callback: Callable[[], object]) -> object:
        self.period_s, self.callback = timer_period_sec, callback
        return object()

    def destroy_node(self) -> None:
        """Nothing is held."""


def spin(node: Node) -> None:
    """Call the node's timer when it is due, until the process is ended."""
    while True:
        time.sleep(node.period_s)
        node.callback()


def install() -> None:
    """Make `import rclpy` find these."""
    modules: dict[str, dict[str, Any]] = {
        "rclpy": {"init": lambda: None, "spin": spin, "try_shutdown": lambda: None},
        "rclpy.executors": {"ExternalShutdownException": ExternalShutdownException},
        "rclpy.node": {"Node": Node},
        "rclpy.qos": {
            "DurabilityPolicy": DurabilityPolicy,
            "QoSProfile": QoSProfile,
            "qos_profile_sensor_data": QoSProfile(depth=5),
        },
        "std_msgs": {},
        "std_msgs.msg": {"Bool": Bool, "Float32": Float32, "String": String},
    }
    for name, content in modules.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(content)


if __name__ == "__main__":
    install()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
