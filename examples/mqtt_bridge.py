"""Put a session into MQTT, so that Home Assistant finds it by itself.

    pip install "paho-mqtt>=2"
    python examples/mqtt_bridge.py [--broker HOST] [--port 1883] [--stream NAME] [--endpoint ENDPOINT]

It sends the expression and its probability at most once a second, and nothing else: no words, no picture. Other
programs of your network can then read what is said here about a person; use a broker with a password (--user, and the
password in the environment as MQTT_PASSWORD) and tell whoever is watched. Topics: clcr/NAME/state (JSON),
clcr/NAME/available (online or offline, offline also when this program dies), and Home Assistant's
homeassistant/sensor/.../config.
"""

import argparse
import json
import os
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from clcr_stream.client import Prediction, Subscriber

EVERY_NS = 1_000_000_000
SILENCE_MS = 2500  # a session sends a status each second


def discovery(stream: str) -> dict[str, dict[str, object]]:
    """Home Assistant's configuration of each sensor, by its name."""
    device = {"identifiers": [f"clcr_{stream}"], "name": f"clcr-stream {stream}", "manufacturer": "clcr-stream"}
    shared = {"state_topic": f"clcr/{stream}/state", "availability_topic": f"clcr/{stream}/available", "device": device}
    return {
        "expression": {
            **shared,
            "name": "Expression",
            "unique_id": f"clcr_{stream}_expression",
            "value_template": "{{ value_json.label or 'unknown' }}",
            "icon": "mdi:emoticon-outline",
        },
        "confidence": {
            **shared,
            "name": "Confidence",
            "unique_id": f"clcr_{stream}_confidence",
            "value_template": "{{ (value_json.confidence or 0) * 100 }}",
            "unit_of_measurement": "%",
            "suggested_display_precision": 0,
        },
    }


class Bridge:
    """One stream on one broker; a context manager. The broker says offline for us when we are cut off."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._stream = flags.stream
        self._available: bool | None = None
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.will_set(f"clcr/{flags.stream}/available", "offline", qos=1, retain=True)
        self._client.on_connect = self._connected
        if flags.user is not None:
            self._client.username_pw_set(flags.user, os.environ.get("MQTT_PASSWORD"))
        self._broker = f"{flags.broker}:{flags.port}"
        self._client.on_connect_fail = self._not_connected
        self._client.reconnect_delay_set(max_delay=10)
        self._client.connect_async(flags.broker, flags.port, keepalive=10)
        self._client.loop_start()  # connects, and reconnects by itself

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        """Each time: a broker that has started anew may have forgotten all."""
        for name, config in discovery(self._stream).items():
            topic = f"homeassistant/sensor/clcr_{self._stream}/{name}/config"
            client.publish(topic, json.dumps(config), qos=1, retain=True)
        self._available = None

    def _not_connected(self, *_: object) -> None:
        """Each time: a broker may come later."""
        print(
            f"no broker at {self._broker}; trying again every 1 to 10 s, --broker and --port name another", flush=True
        )

    def available(self, now: bool) -> None:
        """Say whether the session runs, when that has changed."""
        if now != self._available:
            self._client.publish(f"clcr/{self._stream}/available", "online" if now else "offline", qos=1, retain=True)
            self._available = now

    def send(self, prediction: Prediction) -> None:
        """The newest answer; null while somebody calibrates or nobody is there."""
        sure = prediction.confidence is not None and "calibrating" not in prediction.degraded
        state = {
            "label": prediction.label if sure else None,
            "confidence": round(prediction.confidence or 0.0, 3) if sure else None,
            "degraded": prediction.degraded,
        }
        self._client.publish(f"clcr/{self._stream}/state", json.dumps(state))

    def __enter__(self) -> "Bridge":
        return self

    def __exit__(self, *_: object) -> None:
        self.available(False)
        self._client.disconnect()
        self._client.loop_stop()


def main() -> None:
    """Until Ctrl-C; the session may come and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="127.0.0.1", metavar="HOST")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--user")
    parser.add_argument("--stream", default="default", metavar="NAME")
    parser.add_argument("--endpoint", help="default: your own session of that name")
    flags = parser.parse_args()
    sent_ns = 0
    with (
        Subscriber(flags.endpoint, flags.stream, ("prediction", "status"), lifespan_ms=1000) as subscriber,
        Bridge(flags) as bridge,
    ):
        while True:
            received = subscriber.receive(timeout_ms=200)
            bridge.available(received is not None or subscriber.silence_ms < SILENCE_MS)
            if received is not None and isinstance(received.message, Prediction):
                now_ns = time.monotonic_ns()
                if now_ns - sent_ns >= EVERY_NS:
                    sent_ns = now_ns
                    bridge.send(received.message)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
