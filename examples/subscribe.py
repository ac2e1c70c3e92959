"""Read the newest prediction of a running `clcr-stream` with nothing but pyzmq.

    python examples/subscribe.py ENDPOINT [STREAM [SECONDS_OF_WORK]]

`clcr-stream` prints its endpoint at the start. The work stands for what you do with a prediction: however long it
takes, the next one that you read is the newest.
"""

import json
import signal
import sys
import time

import zmq

signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when `| head` has seen enough
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE])  # whatever the caller blocked

endpoint = sys.argv[1]
stream = sys.argv[2] if len(sys.argv) > 2 else "default"
work_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0

subscriber = zmq.Context().socket(zmq.SUB)
subscriber.setsockopt(zmq.CONFLATE, 1)  # before connect; one topic per socket
subscriber.setsockopt(zmq.SUBSCRIBE, f"clcr/{stream}/prediction ".encode())
subscriber.connect(endpoint)
while True:
    topic, payload = subscriber.recv().split(b" ", 1)
    prediction = json.loads(payload)
    age_ms = (time.monotonic_ns() - prediction["published_ns"]) / 1e6
    print(prediction["seq"], prediction["label"], prediction["probs"], f"age {age_ms:.1f} ms", flush=True)
    time.sleep(work_s)
