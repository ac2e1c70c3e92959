"""Put a session into ROS 2: its expression, confidence and words as topics of std_msgs.

    source /opt/ros/DISTRIBUTION/setup.bash && pip install clcr-stream
    python3 examples/ros2_node.py --ros-args -p stream:=default -r __ns:=/head

Not tried in a ROS 2 installation: its test runs it against a stand-in for rclpy with the calls of Humble's documents.

Topics under the node's name: `~/expression` (String) and `~/confidence` (Float32) of fresh and undegraded predictions,
`~/prediction` (String: each prediction as JSON, docs/wire.md), `~/words` (String, when a sentence is final) and
`~/available` (Bool, also for those that join late). Parameters: `stream`, `endpoint` (empty: your own session),
`lifespan_ms`.
"""

import msgspec
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from std_msgs.msg import Bool, Float32, String

from clcr_stream.client import Prediction, Received, Subscriber, Transcript

PERIOD_S = 0.05
SILENCE_MS = 2500  # a session sends a status each second


class ClcrNode(Node):
    """Reads the session twenty times a second, in the node's own thread."""

    def __init__(self) -> None:
        super().__init__("clcr_stream")
        stream = str(self.declare_parameter("stream", "default").value)
        endpoint = str(self.declare_parameter("endpoint", "").value) or None
        lifespan_ms = float(self.declare_parameter("lifespan_ms", 400.0).value)
        self._subscriber = Subscriber(endpoint, stream, ("prediction", "transcript", "status"), lifespan_ms=lifespan_ms)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._expression = self.create_publisher(String, "~/expression", qos_profile_sensor_data)
        self._confidence = self.create_publisher(Float32, "~/confidence", qos_profile_sensor_data)
        self._prediction = self.create_publisher(String, "~/prediction", qos_profile_sensor_data)
        self._words = self.create_publisher(String, "~/words", 10)
        self._available = self.create_publisher(Bool, "~/available", latched)
        self._heard = False
        self._was_available: bool | None = None
        self._timer = self.create_timer(PERIOD_S, self._read)

    def _read(self) -> None:
        while (received := self._subscriber.receive(0)) is not None:
            self._heard = True
            self._pass_on(received)
        available = self._heard and self._subscriber.silence_ms < SILENCE_MS
        if available != self._was_available:
            self._was_available = available
            self._available.publish(Bool(data=available))

    def _pass_on(self, received: Received) -> None:
        message = received.message
        if isinstance(message, Transcript) and message.final:
            self._words.publish(String(data=message.text))
        if not isinstance(message, Prediction):
            return
        self._prediction.publish(String(data=msgspec.json.encode(message).decode()))
        # Words are not needed; whatever else is missing makes a robot that acts on the answer act on a guess.
        if message.label is None or message.confidence is None or set(message.degraded) - {"language_absent"}:
            return
        self._expression.publish(String(data=message.label))
        self._confidence.publish(Float32(data=message.confidence))

    def destroy_node(self) -> None:
        """The session's sockets go with the node."""
        self._subscriber.close()
        super().destroy_node()


def main() -> None:
    """Until Ctrl-C, or until ROS ends it; the session may come and go."""
    rclpy.init()
    node = ClcrNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
